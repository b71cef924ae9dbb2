"""Paddle's loader, made so that nothing hangs: workers that die or bring nothing for a while are an error.

Paddle itself waits for ever for a worker that hangs, and its workers live on for ever when their parent is killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paddle.io import DataLoader, Dataset
from PIL import Image

from paddle_adaptseg.core.errors import StorageError, TrainingError

BATCHES_AHEAD, SPARE = 4, 32 * 2**20  # what each worker may have in /dev/shm, and what others may need there
FAILED = "the loader failed at position"
SHARED = Path("/dev/shm")
GRACE = 2.0  # seconds for workers to end by themselves


class Positions:
    """Batches number `first` to `last` of consecutive positions; the loader's batch sampler.

    Each of `world` ranks has `batch_size` positions of a common batch and takes every world-th position.
    """

    def __init__(self, batch_size: int, first: int, last: int, rank: int = 0, world: int = 1) -> None:
        self.batch_size, self.first, self.last = batch_size, first, last
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.first, self.last):
            yield list(self.own(batch))

    def own(self, batch: int) -> range:
        """The positions of a batch that this rank reads."""
        return self.common(batch)[self.rank :: self.world]

    def common(self, batch: int) -> range:
        """The positions of a batch, those of all ranks."""
        size = self.batch_size * self.world
        return range(batch * size, (batch + 1) * size)


def load(
    dataset: Dataset,
    positions: Positions,
    collate: Callable[[Sequence[Any]], list],
    workers: int,
    size: int,
    timeout: float,
) -> Iterator[list]:
    """Collated batches in order; `size` is what one takes in bytes, `timeout` how long workers may take for it.

    On a GPU Paddle's buffered reader brings the arrays there, two batches ahead: its own thread copies them from pinned
    memory on a stream of its own while a step computes. What is no array stays on the host.
    """
    check_semaphores(workers)
    Image.core.set_blocks_max(8)  # Pillow keeps its memory between images: a tenth faster, and workers inherit it
    loader = DataLoader(
        _Guarded(dataset),
        batch_sampler=positions,
        collate_fn=lambda samples: _collated(samples, collate),
        num_workers=workers,
        worker_init_fn=_settle,
        use_buffer_reader=True,
        use_shared_memory=workers > 0 and shared_memory_suffices(workers, size),
    )
    # True, Paddle's default, would end the way in pinned memory, from where the first operation fetches and waits.
    loader.pin_memory = False
    iterator = iter(loader)
    watch = _Watch(getattr(iterator, "_workers", []), timeout)
    try:
        while True:
            try:
                with watch:
                    batch = next(iterator)
            except StopIteration:
                return
            except (SystemError, RuntimeError, OSError) as error:
                raise TrainingError(watch.message()) from error
            yield _checked(batch)
    finally:
        _end(iterator)


def shared_memory_suffices(workers: int, size: int) -> bool:
    """Whether /dev/shm can hold the batches that workers prepare ahead; a container's often has 64 MB only."""
    return SHARED.is_dir() and shutil.disk_usage(SHARED).free >= workers * BATCHES_AHEAD * size + SPARE


def check_semaphores(workers: int) -> None:
    """Refuse to start workers where the queues to them cannot be made."""
    try:
        multiprocessing.Semaphore() if workers else None
    except OSError as error:
        raise StorageError(
            f"loader workers need semaphores in '{SHARED}', and making one failed ({error.strerror}): mount it "
            "writable, or use data.workers=0"
        ) from error


class _Guarded(Dataset):
    """A data set whose exceptions travel as samples: one in Paddle's reading thread would leave everybody waiting."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except Exception:
            return _Failure(f"{FAILED} {index}:\n{traceback.format_exc()}")


class _Failure(str):
    """What went wrong with a sample."""


def _collated(samples: Sequence[Any], collate: Callable[[Sequence[Any]], list]) -> list:
    """The collated batch, or what went wrong; with an array, without which Paddle takes it for the end of the data."""
    failed = [str(sample) for sample in samples if isinstance(sample, _Failure)]
    try:
        return [np.zeros(1, np.uint8), failed[0]] if failed else collate(samples)
    except Exception:
        return [np.zeros(1, np.uint8), f"{FAILED}, putting a batch together:\n{traceback.format_exc()}"]


def _checked(batch: list) -> list:
    """The batch, unless it says what went wrong."""
    if isinstance(batch[-1], str) and batch[-1].startswith(FAILED):
        raise RuntimeError(batch[-1])
    return batch


class _Watch:
    """Kills workers that bring nothing in time; Paddle then notices that they are gone."""

    def __init__(self, workers: Sequence[Any], timeout: float) -> None:
        self.workers, self.timeout = workers, timeout
        self.deadline, self.fired = float("inf"), False
        if workers:
            threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self) -> None:
        self.deadline = time.monotonic() + self.timeout

    def __exit__(self, *_: object) -> None:
        self.deadline = float("inf")

    def message(self) -> str:
        """What a user should know when a batch did not come."""
        if self.fired:
            return (
                f"the loader's workers brought no batch within {self.timeout:g} s (data.timeout): is the disk slow or "
                "gone? raise data.timeout, or find the fault with data.workers=0"
            )
        return "a loader worker died (was it killed for want of memory?): lower data.workers, or use data.workers=0"

    def _run(self) -> None:
        while any(worker.is_alive() for worker in self.workers):
            if time.monotonic() > self.deadline:
                self.fired = True
                for worker in self.workers:
                    worker.kill()
                return
            time.sleep(min(0.5, self.timeout / 4))


def _settle(worker: int) -> None:
    """What a worker does first: leave the terminal's signals to its parent, die with it, use one thread."""
    import cv2

    os.setpgid(0, 0)  # Ctrl-C reaches a terminal's whole group; the parent must be able to finish its step
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    cv2.setNumThreads(0)


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    _free(os.getpid())
    os._exit(1)


def _free(worker: int) -> None:
    """Delete the batches of a worker that nobody will fetch any more; Paddle leaves them until the machine restarts."""
    for path in SHARED.glob(f"paddle_{worker}_*"):
        path.unlink(missing_ok=True)


def _end(iterator: Any) -> None:
    """Let workers go; those that do not are killed, so that the program can end."""
    workers = getattr(iterator, "_workers", [])
    if workers:
        with contextlib.suppress(Exception):  # the queues of a broken loader may be anything
            iterator._try_shutdown_all(GRACE)
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join(GRACE)
        _free(worker.pid)

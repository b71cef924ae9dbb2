"""Which item comes when: index = f(seed, position). Loaders remember nothing, so resuming needs only the step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Optional

import numpy as np
from paddle.io import DataLoader, Dataset
from PIL import Image

from paddle_adaptseg.batch import Batch
from paddle_adaptseg.config import Augment, Pixels
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.transforms import augment, normalise, scaled_size

_ORDER, _CHANGE = 0, 1  # separate random streams
BATCHES_AHEAD, SPARE = 4, 32 * 2**20  # what each worker may have in /dev/shm, and what others may need there


def shuffled_index(seed: int, stream: int, position: int, length: int) -> int:
    """The item at `position` of an endless sequence that shuffles anew in every pass."""
    epoch, offset = divmod(position, length)
    return int(_order(seed, stream, epoch, length)[offset])


@lru_cache(maxsize=8)
def _order(seed: int, stream: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, _ORDER, epoch]).permutation(length)


class PairStream(Dataset):
    """Samples by position: a labelled source image with, when there is a target, an unlabelled target image."""

    def __init__(self, source: DomainFiles, target: Optional[DomainFiles], change: Augment, seed: int) -> None:
        super().__init__()
        self.domains = [d for d in (source, target) if d is not None]
        self.change, self.seed = change, seed

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, position: int) -> list[np.ndarray]:
        arrays = []
        for stream, files in enumerate(self.domains):
            index = shuffled_index(self.seed, stream, position, len(files))
            rng = np.random.default_rng([self.seed, stream, _CHANGE, position])
            size = scaled_size(files.size, self.change, rng)
            image, label = files.image(index, size), files.label(index, size) if stream == 0 else None
            image, label = augment(image, label, files.size, self.change, rng)
            arrays += [image] if label is None else [image, label]
        return arrays

    def names(self, positions: Sequence[int]) -> tuple[str, ...]:
        """The files behind positions, for error messages."""
        return tuple(
            files.name(shuffled_index(self.seed, stream, position, len(files)))
            for position in positions
            for stream, files in enumerate(self.domains)
        )


class _Positions:
    """Batches of consecutive positions; the loader's batch sampler."""

    def __init__(self, batch_size: int, first: int, last: int) -> None:
        self.batch_size, self.first, self.last = batch_size, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.first, self.last):
            yield list(range(batch * self.batch_size, (batch + 1) * self.batch_size))


def train_batches(
    stream: PairStream, pixels: Pixels, batch_size: int, first: int, last: int, workers: int
) -> Iterator[Batch]:
    """Batches number `first` to `last` of the stream, the same for any number of workers."""
    loader = _loader(stream, _Positions(batch_size, first, last), workers, batch_bytes(stream, batch_size))
    for number, arrays in enumerate(loader, first):
        source, label, *target = arrays
        yield Batch(
            normalise(source, pixels),
            label.astype("int64"),
            normalise(target[0], pixels) if target else None,
            stream.names(range(number * batch_size, (number + 1) * batch_size)),
        )


def batch_bytes(stream: PairStream, batch_size: int) -> int:
    """Size of one batch on its way from a worker."""
    sizes = [stream.change.crop or files.size for files in stream.domains]
    return batch_size * sum(4 * width * height for width, height in sizes)


def _loader(dataset: Dataset, batches: _Positions, workers: int, size: int) -> DataLoader:
    Image.core.set_blocks_max(8)  # Pillow keeps its memory between pictures: a tenth faster, and workers inherit it
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_stack,
        num_workers=workers,
        worker_init_fn=_single_thread,
        use_shared_memory=workers > 0 and shared_memory_suffices(workers, size),
    )


def shared_memory_suffices(workers: int, size: int) -> bool:
    """Whether /dev/shm can hold the batches that workers prepare ahead; a container's often has 64 MB only."""
    shm = Path("/dev/shm")
    return shm.is_dir() and shutil.disk_usage(shm).free >= workers * BATCHES_AHEAD * size + SPARE


def _stack(samples: list[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.stack(column) for column in zip(*samples)]


def _single_thread(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)

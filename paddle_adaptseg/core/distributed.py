"""Several processes as one: who they are, what they tell each other, and how they end together.

Paddle's launcher starts the processes and Paddle's collectives (NCCL on GPUs, gloo on CPUs) carry every byte. In a
process of its own everything here does nothing. Every exchange begins with a message of one size, whose first number
says whether a process has failed. So an error anywhere reaches all at their next all_reduce(), and no process waits
for one that has ended.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy as np

from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import ConfigError, Stopped, TrainingError, UserError, kinds

if TYPE_CHECKING:
    from paddle import Tensor

ROOM = 520  # numbers of a message: two counts of all ids of a label fit in
LIMIT = 600.0  # seconds to wait for the others, unless start() is told otherwise
LOOKS = 0.5  # seconds between looks at the clock
TOO_LATE = 2  # exit code of a process that waited in vain


@dataclass
class _State:
    """What this process knows of the others."""

    started: bool = False
    over: bool = False  # a failure was exchanged, or the others are gone: nothing is exchanged any more
    limit: float = LIMIT
    deadline: float = float("inf")


_STATE = _State()


def rank() -> int:
    """The number of this process."""
    return int(os.environ["PADDLE_TRAINER_ID"]) if _STATE.started else 0


def world() -> int:
    """How many processes work together; 1 before start()."""
    return _launched() if _STATE.started else 1


def is_rank_zero() -> bool:
    """Whether this is the process that logs, saves, draws and prints."""
    return rank() == 0


def start(limit: float = LIMIT) -> None:
    """Connect to the other processes of the launcher, if there are any. From here on only the first one prints."""
    _STATE.limit = limit
    if _launched() == 1 or _STATE.started:
        return
    import paddle.distributed as dist

    threading.Thread(target=_watch, daemon=True).start()
    with time_limit(), runtime.quiet():
        dist.init_parallel_env()
    _STATE.started = True
    if not is_rank_zero():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for as long as the process lives)


def check_device(device: str) -> None:
    """Refuse to send all processes to one GPU."""
    if world() > 1 and ":" in device:
        raise ConfigError(f"run.device is '{device}', but {world()} processes need a GPU each: use run.device=gpu")


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """An error of this process inside ends all processes, each with the message of the one that failed."""
    _STATE.over = False
    try:
        yield
        all_reduce([])
    except Stopped:  # was agreed on
        all_reduce([])
        raise
    except Exception as error:
        if _STATE.started and not _STATE.over:
            _tell(error)
        raise


def all_reduce(values: Sequence[float], more: Optional[Tensor] = None) -> np.ndarray:
    """Sums of a few numbers over all processes, float64, then of `more` on the device; an error if one has failed."""
    mine = np.array(values, np.float64)
    if not _STATE.started:
        return mine
    with time_limit():
        sums = reduce_message(1.0, mine, more).numpy()
    if sums[0]:
        _raise_first(_exchange(""))
    return sums[2 : 2 + len(mine) + (0 if more is None else len(more))]


def sum_on_device(values: Tensor) -> Tensor:
    """Sums [n] where nothing waits for the host, float64; that a process has failed is known at the next exchange."""
    with time_limit():
        return reduce_message(0.0, np.zeros(0), values)[2 : 2 + len(values)]


def reduce_message(is_read: float, values: np.ndarray, more: Optional[Tensor]) -> Tensor:
    """The sum of messages [ROOM]: failures, whether they are read, numbers. Processes that failed answer any."""
    import paddle
    import paddle.distributed as dist

    parts = [paddle.to_tensor(np.concatenate([[0.0, is_read], values]))]
    parts += [] if more is None else [more.detach().astype("float64")]
    room = ROOM - sum(len(part) for part in parts)
    assert room >= 0, f"a message lacks room for {-room} numbers"
    message = paddle.concat([*parts, paddle.zeros([room], "float64")])
    dist.all_reduce(message)
    return message


def all_reduce_array(array: np.ndarray) -> np.ndarray:
    """The sum of an array of one shape over all processes, exact for whole numbers."""
    if not _STATE.started:
        return array
    _same("arrays to be summed", float(array.size), str(array.shape))
    wide = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    return _sum(wide).astype(array.dtype)


def gather_rows(array: np.ndarray, count: int) -> np.ndarray:
    """Rows of all processes, in order: row i of the result is of process i % world(), which has them one by one."""
    if not _STATE.started:
        return array
    whole = np.zeros((count, *array.shape[1:]), array.dtype)
    whole[rank() :: world()] = array
    return all_reduce_array(whole)


def shard(items: Sequence) -> list:
    """This process's part of a list: every world()-th item."""
    return list(items)[rank() :: world()]


def gather_texts(text: str) -> list[str]:
    """What every process says."""
    if not _STATE.started:
        return [text]
    all_reduce([])
    return _exchange(text)


def check_equal(what: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse to go on when arrays differ between processes."""
    if _STATE.started:
        digest = 0
        for name in sorted(arrays):
            digest = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), zlib.crc32(name.encode(), digest))
        _same(what, float(digest), f"{digest:08x}")


def _launched() -> int:
    return int(os.environ.get("PADDLE_TRAINERS_NUM") or 1)


def _me() -> str:
    return f"process {os.environ.get('PADDLE_TRAINER_ID')} of {_launched()}"


def _same(what: str, number: float, shown: str) -> None:
    if all_reduce([number])[0] != world() * number:
        raise TrainingError(f"{what} differ between the processes ({shown} in process {rank()})")


def _tell(error: Exception) -> None:
    """Answer messages until one that the others read, as the one that failed."""
    with contextlib.suppress(TrainingError):
        read = failed = 0.0
        while not read and failed < world():
            failed, read = _sum(np.concatenate([[1.0], np.zeros(ROOM - 1)]))[:2]
        kind = type(error).__name__
        _exchange(f"{kind}\n{error if isinstance(error, UserError) else f'{kind}: {error}'}")
    _STATE.over = True


def _raise_first(said: Sequence[str]) -> None:
    """Raise what the first failed process raised, of the same kind where it is one of ours."""
    _STATE.over = True
    number, text = next((n, t) for n, t in enumerate(said) if t)
    kind, _, message = text.partition("\n")
    known = {c.__name__: c for c in kinds(UserError)}
    raise known.get(kind, TrainingError)(f"process {number} of {world()} failed: {message}")


def _exchange(text: str) -> list[str]:
    """Texts of all processes, as bytes in rows of one array."""
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = np.zeros(world())
    lengths[rank()] = len(data)
    lengths = _sum(lengths).astype(int)
    rows = np.zeros((world(), max(1, lengths.max())), np.int32)
    rows[rank(), : len(data)] = data
    return [row[:n].astype(np.uint8).tobytes().decode() for row, n in zip(_sum(rows), lengths)]


def _sum(array: np.ndarray) -> np.ndarray:
    import paddle
    import paddle.distributed as dist

    tensor = paddle.to_tensor(array)
    with time_limit():
        dist.all_reduce(tensor)
        return tensor.numpy()


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Around every wait for others: it takes `limit` seconds at most, and a lost connection is one clear line."""
    _STATE.deadline = time.monotonic() + _STATE.limit
    try:
        yield
    except (RuntimeError, OSError) as error:
        if "DataLoader" in str(error):
            raise  # Paddle says that a loader worker died wherever the program stands
        _STATE.over = True
        raise TrainingError(
            f"{_me()} lost the others: was one killed, or a machine or network lost? see what they last wrote "
            "(workerlog.* of the launcher)"
        ) from error
    finally:
        _STATE.deadline = float("inf")


def _watch() -> None:
    while True:
        time.sleep(LOOKS)
        if time.monotonic() > _STATE.deadline:
            text = f"error: {_me()} waited {_STATE.limit:g} s for the others (run.timeout): ending\n"
            os.write(2, text.encode())
            os._exit(TOO_LATE)  # the main thread stands in a call that cannot be broken off

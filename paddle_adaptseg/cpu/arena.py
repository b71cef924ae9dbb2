"""The memory of large maps on a CPU, in one place of its own.

Among a program's other memory, the maps of one step leave holes that those of the next do not fit: a third of the peak
was such holes. Here they are packed from the start of one reserved space, of which only what was touched is real, and
what is given back joins its neighbours. Pages are large ones where the system has them.
"""

from __future__ import annotations

import bisect
import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Optional

import numpy as np
import paddle
from paddle import Tensor

SMALL = 2**20  # bytes; smaller tensors stay with Paddle, which has them faster
STEP = 4096  # bytes; places begin at its multiples


class Arena:
    """A reserved space and its holes, sorted by where they begin."""

    def __init__(self, size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        self.space = mmap.mmap(-1, size, flags=flags)
        self.space.madvise(mmap.MADV_HUGEPAGE)
        self.bytes = np.frombuffer(self.space, np.uint8)
        self.lock = threading.Lock()
        self.starts, self.sizes = [0], [size]
        self.given: deque[tuple[int, int]] = deque()  # what came back and is not a hole yet
        self.peak = 0  # the most that was ever in use at once, holes included

    def take(self, shape: Sequence[int]) -> Optional[Tensor]:
        """A float32 tensor in the first hole that it fits, or None."""
        count = 4 * prod(shape)
        size = -(-count // STEP) * STEP
        with self.lock:
            self._join()
            index = next((i for i, hole in enumerate(self.sizes) if hole >= size), None)
            if index is None:
                return None
            start = self.starts[index]
            self.starts[index] += size
            self.sizes[index] -= size
            if not self.sizes[index]:
                del self.starts[index], self.sizes[index]
            self.peak = max(self.peak, start + size)
        array = self.bytes[start : start + count].view(np.float32).reshape(shape)
        weakref.finalize(array, self.give, start, size).atexit = False
        return paddle.Tensor(value=array, place=paddle.CPUPlace(), zero_copy=True, name="map", stop_gradient=True)

    def release(self) -> None:
        """Give the pages of all holes back to the system."""
        with self.lock:
            self._join()
            for start, size in zip(self.starts, self.sizes):
                if start < self.peak:
                    self.space.madvise(mmap.MADV_DONTNEED, start, min(size, self.peak - start))

    def give(self, start: int, size: int) -> None:
        """Take a place back. This may happen within any line of take(), wherever Python collects garbage: it waits."""
        self.given.append((start, size))

    def _join(self) -> None:
        """Join the places that were given back with the holes beside them."""
        while self.given:
            start, size = self.given.popleft()
            index = bisect.bisect(self.starts, start)
            if index < len(self.starts) and start + size == self.starts[index]:
                size += self.sizes[index]
                del self.starts[index], self.sizes[index]
            if index and self.starts[index - 1] + self.sizes[index - 1] == start:
                self.sizes[index - 1] += size
            else:
                self.starts.insert(index, start)
                self.sizes.insert(index, size)


@lru_cache(maxsize=1)
def arena() -> Optional[Arena]:
    """The process's arena, as large as the machine's memory; None where the system gives no such space."""
    try:
        return Arena(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return None


def empty(shape: Sequence[int]) -> Tensor:
    """A float32 tensor on the CPU with whatever was in its memory before."""
    space = arena() if 4 * prod(shape) >= SMALL else None
    tensor = space.take(shape) if space is not None else None
    return paddle.empty(list(shape), dtype="float32") if tensor is None else tensor

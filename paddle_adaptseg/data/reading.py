"""Reading for evaluation: samples in order, decoded ahead by threads (decoders release the interpreter).

Threads rather than processes, because one image is decoded while the network needs tenths of a second for another:
nothing has to be copied between processes, and a short evaluation starts at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Optional

import numpy as np

from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.data.dataset import DomainFiles

AHEAD = 2  # samples that wait for each thread


@dataclass(frozen=True)
class Sample:
    """One item: RGB images [H, W, 3] uint8 of every size asked for, and its train ids [H, W]."""

    index: int
    stem: str
    images: tuple[np.ndarray, ...]
    truth: np.ndarray


def spread(count: int, limit: Optional[int]) -> list[int]:
    """At most `limit` of `count` positions, evenly spread and always the same."""
    if limit is None or limit >= count:
        return list(range(count))
    return [int(i) for i in np.linspace(0, count - 1, limit).round()]


def read_ahead(
    files: DomainFiles,
    indices: Sequence[int],
    scales: Sequence[float] = (1.0,),
    truth_size: Optional[Sequence[int]] = None,
    workers: int = 0,
) -> Iterator[Sample]:
    """Samples in order: images at `scales` of the domain's size, labels at `truth_size` or as stored."""

    def read(index: int) -> Sample:
        sizes = [tuple(max(1, round(scale * side)) for side in files.size) for scale in scales]
        try:
            images = tuple(files.image(index, size) for size in sizes)
            return Sample(index, files.stem(index), images, files.label(index, truth_size))
        except DataError as error:
            raise DataError(f"{error}; an evaluation passes over no image") from None

    if not workers:
        yield from map(read, indices)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        rest = iter(indices)
        try:
            for index in rest:
                waiting.append(pool.submit(read, index))
                if len(waiting) > AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

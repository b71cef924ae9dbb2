"""Progress of long work: a bar in a terminal, a line now and then in a file or a notebook's log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Optional, TypeVar

from tqdm import tqdm

T = TypeVar("T")
PAUSE = 20.0  # seconds between two lines


def progress(items: Iterable[T], title: str, total: Optional[int], unit: str = "image") -> Iterator[T]:
    """The items, while stderr shows how many of them were taken."""
    if sys.stderr.isatty():
        yield from tqdm(items, title, total, unit=unit, leave=False, dynamic_ncols=True)
        return
    said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - said >= PAUSE:
            said = now
            print(f"{title}: {done}{f' of {total}' if total else ''} {unit}s", file=sys.stderr, flush=True)
        yield item

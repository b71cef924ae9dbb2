"""Windows of images and labels: only what a crop needs is resized and converted, with exactly the pixels of the whole.

Pillow resizes rows first, then columns, and rounds to bytes in between. So the rows that a window needs are widened,
and of these only the window's columns are resized in height. Its `box` would do less work, but rounds positions to 32
bits, which changes pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable, Optional

import cv2
import numpy as np
from PIL import Image

Window = tuple[slice, slice]  # rows, columns
Cutter = Callable[[Window], np.ndarray]
WHOLE: Window = (slice(None), slice(None))
SUPPORT = 2  # pixels that the bicubic filter reaches to each side; more when an image becomes smaller


@dataclass(frozen=True)
class Reading:
    """One item, decoded once, at a size: windows of its image RGB [h, w, 3] and of its train ids [h, w] uint8."""

    image: Cutter
    label: Optional[Cutter]
    note: str = ""  # where image and label differ in their size as stored


def image_window(bgr: np.ndarray, size: Sequence[int], window: Window = WHOLE) -> np.ndarray:
    """A window RGB of a decoded image BGR [H, W, 3] resized to (width, height) by Pillow's bicubic filter."""
    height, width = bgr.shape[:2]
    rows, columns = _bounded(window, size)
    if (width, height) == tuple(size):
        return cv2.cvtColor(bgr[rows, columns], cv2.COLOR_BGR2RGB)
    if rows.stop - rows.start == size[1] and columns.stop - columns.start == size[0]:
        return np.asarray(_pillow(bgr).resize(tuple(size), Image.BICUBIC))
    ratio = height / size[1]
    reach = SUPPORT * max(ratio, 1.0)
    first = max(0, int((rows.start + 0.5) * ratio - reach) - 1)
    last = min(height, int((rows.stop - 0.5) * ratio + reach) + 2)
    wide = _pillow(np.ascontiguousarray(bgr[first:last])).resize((size[0], last - first), Image.BICUBIC)
    tall = Image.new("RGB", (columns.stop - columns.start, height))  # Pillow's positions are those of the whole height
    tall.paste(wide.crop((columns.start, 0, columns.stop, last - first)), (0, first))
    return np.asarray(tall.resize((tall.width, size[1]), Image.BICUBIC))[rows]


def label_window(ids: np.ndarray, size: Sequence[int], window: Window = WHOLE) -> np.ndarray:
    """A window of ids [H, W] resized to (width, height), with Pillow's choice of nearest pixels."""
    if ids.shape[1::-1] == tuple(size):
        return ids[window]
    rows, columns = (_nearest(have, want)[part] for have, want, part in zip(ids.shape, size[::-1], window))
    return ids[rows].take(columns, axis=1)


def _pillow(bgr: np.ndarray) -> Image.Image:
    """OpenCV decodes faster, Pillow resizes as the originals did; "raw BGR" swaps channels on the way for nothing."""
    return Image.frombuffer("RGB", bgr.shape[1::-1], bgr, "raw", "BGR", 0, 1)


def _bounded(window: Window, size: Sequence[int]) -> Window:
    (top, bottom, _), (left, right, _) = (part.indices(side) for part, side in zip(window, (size[1], size[0])))
    return slice(top, bottom), slice(left, right)


@lru_cache(maxsize=16)
def _nearest(have: int, want: int) -> np.ndarray:
    """Which of `have` pixels Pillow takes for each of `want`."""
    line = Image.fromarray(np.arange(have, dtype=np.int32)[None])
    return np.asarray(line.resize((want, 1), Image.NEAREST))[0]

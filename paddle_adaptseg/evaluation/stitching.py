"""Overlapping windows' logits as one image's: blended a few rows at a time, so that full-size logits never exist.

What is kept of an image are the networks' own coarse logits. At a stride of 4, with 19 classes and windows that overlap
by a third, that is 11 bytes a pixel of the image (3 at a stride of 8); full-size logits would be 76.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from paddle_adaptseg.evaluation.options import Window
from paddle_adaptseg.evaluation.resizing import interpolated, neighbours, widened

FLOATS = 2**22  # of all classes at once
TINY = 1e-30  # keeps the logarithm of a probability of 0 finite


class Stitched:
    """The mean [C, H, W] of the logits of windows [C, h, w] that cover an image, or of their probabilities, by rows."""

    def __init__(
        self, parts: Sequence[tuple[Window, np.ndarray]], size: Sequence[int], align_corners: bool,
        average: str = "logits",
    ) -> None:  # fmt: skip
        self.parts, self.align_corners, self.average = list(parts), align_corners, average
        self.shape = (len(self.parts[0][1]), *size)

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows [C, last - first, W] at image size."""
        total = np.zeros((self.shape[0], last - first, self.shape[2]), np.float32)
        count = np.zeros(total.shape[1:], np.float32)
        for (rows, columns), logits in self.parts:
            top, bottom = max(first, rows.start), min(last, rows.stop)
            if top < bottom:
                wanted = np.arange(top - rows.start, bottom - rows.start)
                part = self._part(logits, wanted, (rows.stop - rows.start, columns.stop - columns.start))
                total[:, top - first : bottom - first, columns] += softmax(part) if self.average == "softmax" else part
                count[top - first : bottom - first, columns] += 1
        total /= count
        return np.log(np.maximum(total, TINY, out=total), out=total) if self.average == "softmax" else total

    def _part(self, logits: np.ndarray, wanted: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Some rows of a window's logits at the window's size."""
        if logits.shape[1:] == tuple(size):
            return logits[:, wanted]
        above, below, share = neighbours(logits.shape[1], size[0], wanted, self.align_corners)
        wide = widened(logits[:, above[0] : below[-1] + 1], size[1], self.align_corners)
        return interpolated(wide, above - above[0], below - above[0], share)

    def scaled(self, size: Sequence[int], align_corners: bool) -> Callable[[np.ndarray], np.ndarray]:
        """What gives ascending rows [C, R, width] at (height, width)."""
        height, width = size
        if self.shape[1:] == tuple(size):
            return lambda rows: self.rows(int(rows[0]), int(rows[-1]) + 1)

        def fill(rows: np.ndarray) -> np.ndarray:
            above, below, share = neighbours(self.shape[1], height, rows, align_corners)
            wide = widened(self.rows(int(above[0]), int(below[-1]) + 1), width, align_corners)
            return interpolated(wide, above - above[0], below - above[0], share)

        step = max(1, int(FLOATS / (self.shape[0] * self.shape[2] * max(1.0, self.shape[1] / height))))
        return lambda rows: np.concatenate([fill(rows[n : n + step]) for n in range(0, len(rows), step)], axis=1)


def softmax(x: np.ndarray, weight: float = 1.0) -> np.ndarray:
    """Weighted class probabilities, in place."""
    x -= x.max(axis=0)
    np.exp(x, out=x)
    x *= weight / x.sum(axis=0)
    return x

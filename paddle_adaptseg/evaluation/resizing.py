"""Bilinear resizing of logits with numpy: the same as models.layers.resize, several times faster on a CPU.

Bilinear interpolation is linear in each axis, so rows are widened first, while there are few of them, and heights are
filled in by blocks of rows, without a full-size float copy of all classes.
"""

from __future__ import annotations

import numpy as np


def widened(logits: np.ndarray, width: int, align_corners: bool) -> np.ndarray:
    """Logits [C, h, width]."""
    if logits.shape[2] == width:
        return logits
    left, right, share = neighbours(logits.shape[2], width, np.arange(width), align_corners)
    out = np.take(logits, right, axis=2)  # several times faster than indexing, or than a product with a matrix
    out -= (base := np.take(logits, left, axis=2))
    out *= share
    out += base
    return out


def filled_rows(wide: np.ndarray, rows: np.ndarray, height: int, align_corners: bool) -> np.ndarray:
    """Rows [C, R, W] of the full height."""
    return interpolated(wide, *neighbours(wide.shape[1], height, rows, align_corners))


def interpolated(wide: np.ndarray, above: np.ndarray, below: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Rows between pairs of others; `share` is that of the lower one."""
    out = wide[:, below]
    out -= (base := wide[:, above])
    out *= share[:, None]
    out += base
    return out


def neighbours(
    count: int, length: int, wanted: np.ndarray, align_corners: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For positions `wanted` of `length` over `count` samples: left, right, share of the right."""
    if align_corners:
        where = wanted * ((count - 1) / max(1, length - 1))
    else:
        where = ((wanted + 0.5) * (count / length) - 0.5).clip(0, count - 1)
    left = np.minimum(where.astype(np.int64), count - 1)
    return left, np.minimum(left + 1, count - 1), (where - left).astype(np.float32)

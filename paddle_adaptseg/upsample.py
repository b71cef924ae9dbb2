"""From a network's coarse logits to labels at full size, without a full-size float copy of all classes.

Bilinear interpolation with aligned corners is linear in each axis, so rows are widened first, while there are few of
them, and heights are filled in a strip at a time. Labels equal F.interpolate + argmax up to rounding of ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

STRIP = 2**19  # floats of all classes at once: small enough to stay in a core's cache


@dataclass(frozen=True)
class View:
    """Logits [C, h, w] float32 of one way of looking at an image, and how much it counts."""

    logits: np.ndarray
    weight: float = 1.0


def label_of(views: Sequence[View], size: Sequence[int], confidence: bool = False) -> tuple[np.ndarray, ...]:
    """The class [H, W] uint8 of every pixel at `size` (height, width), and the probability that it got.

    Several views are averaged as probabilities. Without `confidence` the second array is empty.
    """
    height, width = size
    label = np.empty((height, width), np.uint8)
    sure = np.empty((height, width) if confidence else 0, np.float32)
    wide = [(_widened(view.logits, width), view.weight) for view in views]
    total = sum(weight for _, weight in wide)
    step = max(1, STRIP // (len(views[0].logits) * width))
    for top in range(0, height, step):
        rows = np.arange(top, min(top + step, height))
        strip = slice(top, rows[-1] + 1)
        if len(wide) == 1 and not confidence:
            _argmax(_rows(wide[0][0], rows, height), label[strip])
            continue
        parts = (_softmax(_rows(logits, rows, height), weight / total) for logits, weight in wide)
        _argmax(_sum(parts), label[strip], sure[strip] if confidence else None)
    return label, sure


def resized(logits: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Logits [C, h, w] at (height, width)."""
    if logits.shape[1:] == tuple(size):
        return logits
    return _rows(_widened(logits, size[1]), np.arange(size[0]), size[0])


def entropy_of(views: Sequence[View]) -> float:
    """Mean normalised entropy (0 sure, 1 uniform) of the views' average at the first one's resolution."""
    size, total = views[0].logits.shape[1:], sum(view.weight for view in views)
    p = _sum(_softmax(resized(view.logits, size).copy(), view.weight / total) for view in views)
    return float(-(p * np.log(np.maximum(p, 1e-30))).sum(0).mean() / np.log(len(p)))


def places(count: int, length: int, wanted: Optional[np.ndarray] = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For positions `wanted` of `length` over `count` samples with aligned corners: left, right, share of the right."""
    wanted = np.arange(length) if wanted is None else wanted
    where = wanted * ((count - 1) / max(1, length - 1))
    left = np.minimum(where.astype(np.int64), count - 1)
    return left, np.minimum(left + 1, count - 1), (where - left).astype(np.float32)


def _widened(logits: np.ndarray, width: int) -> np.ndarray:
    left, right, share = places(logits.shape[2], width)
    matrix = np.zeros((logits.shape[2], width), np.float32)
    np.add.at(matrix, (left, np.arange(width)), 1 - share)
    np.add.at(matrix, (right, np.arange(width)), share)
    return np.ascontiguousarray(logits, np.float32) @ matrix


def _rows(wide: np.ndarray, rows: np.ndarray, height: int) -> np.ndarray:
    """Rows [C, R, W] of the full height."""
    above, below, share = places(wide.shape[1], height, rows)
    out = wide[:, below]
    out -= (base := wide[:, above])
    out *= share[:, None]
    out += base
    return out


def _softmax(x: np.ndarray, weight: float) -> np.ndarray:
    """Weighted class probabilities, in place."""
    x -= x.max(axis=0)
    np.exp(x, out=x)
    x *= weight / x.sum(axis=0)
    return x


def _sum(parts) -> np.ndarray:
    parts = iter(parts)
    total = next(parts)
    for part in parts:
        total += part
    return total


def _argmax(scores: np.ndarray, label: np.ndarray, best_out: Optional[np.ndarray] = None) -> None:
    """Index of the largest score into `label`; a pass per class is several times faster than numpy's argmax here."""
    best = scores[0].copy()
    label[...] = 0
    for index in range(1, len(scores)):
        better = scores[index] > best
        np.copyto(label, np.uint8(index), where=better)
        np.maximum(best, scores[index], out=best)
    if best_out is not None:
        best_out[...] = best

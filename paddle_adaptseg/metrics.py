"""Scores from one accumulated confusion matrix (never from means over images).

The mIoU of a class set averages over the classes that occur in the truth; an absent class is NaN and is reported so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


class ConfusionMatrix:
    """Counts [truth, prediction] over pixels whose truth is a class."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)
        self.images = 0

    def update(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add pixels, both uint8. Truth values outside the classes are ignored; predictions must be classes there."""
        if truth.shape != prediction.shape:
            raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
        classes = len(self.counts)
        pairs = (truth.astype(np.uint8, copy=False).astype(np.intp) << 8).ravel()
        pairs += prediction.astype(np.uint8, copy=False).ravel()
        table = np.bincount(pairs, minlength=1 << 16).reshape(256, 256)[:classes]
        if table[:, classes:].any():
            wrong = int(np.flatnonzero(table[:, classes:].sum(0))[-1]) + classes
            raise ValueError(f"prediction {wrong} is not one of {classes} classes")
        self.counts += table[:, :classes]
        self.images += 1

    def merge(self, other: ConfusionMatrix) -> None:
        """Add another matrix's counts."""
        self.counts += other.counts
        self.images += other.images

    def iou(self) -> np.ndarray:
        """Intersection over union per class, NaN where the truth has no pixel of it."""
        hit = np.diag(self.counts).astype(np.float64)
        truth = self.counts.sum(1)
        union = truth + self.counts.sum(0) - hit
        return np.divide(hit, union, out=np.full(len(hit), np.nan), where=truth > 0)

    def miou(self, indices: Sequence[int] | None = None) -> float:
        """Mean IoU over the present classes, or over those of them in `indices`; NaN when there is none."""
        values = self.iou() if indices is None else self.iou()[list(indices)]
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def iou_table(names: Sequence[str], matrix: ConfusionMatrix, sets: Mapping[str, Sequence[int]]) -> str:
    """The originals' table in per cent: a line per class, then the mean over each class set of class indices."""
    lines = [f"===> {name + ':':<12} {_percent(iou)}" for name, iou in zip(names, matrix.iou())]
    for name, indices in sets.items():
        lines.append(f"===> mIoU: {_percent(matrix.miou(indices)).strip()} ({name}, {len(indices)} classes)")
    return "\n".join(lines)


def _percent(value: float) -> str:
    return "  nan (absent)" if np.isnan(value) else f"{100 * value:6.2f}"

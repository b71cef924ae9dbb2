"""Scores from one accumulated confusion matrix (never from means over images).

The mIoU of a class set averages over the classes that occur in the truth; an absent class is NaN and is reported so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ConfusionMatrix:
    """Counts [truth, prediction] over pixels whose truth is a class."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    def update(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add pixels. Truth values outside the classes are ignored; predictions must be classes."""
        if truth.shape != prediction.shape:
            raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
        classes = len(self.counts)
        if prediction.size and int(prediction.max()) >= classes:
            raise ValueError(f"prediction {int(prediction.max())} is not one of {classes} classes")
        valid = truth < classes
        pairs = truth[valid].astype(np.int64) * classes + prediction[valid]
        self.counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add another matrix's counts."""
        self.counts += other.counts

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


def iou_table(names: Sequence[str], matrix: ConfusionMatrix) -> str:
    """The originals' table: a line per class and the mean, in per cent."""
    lines = [f"===> {name + ':':<12} {_percent(iou)}" for name, iou in zip(names, matrix.iou())]
    return "\n".join([*lines, f"===> {'mIoU:':<12} {_percent(matrix.miou())}"])


def _percent(value: float) -> str:
    return "  nan (absent)" if np.isnan(value) else f"{100 * value:6.2f}"

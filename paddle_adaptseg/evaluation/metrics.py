"""Scores, pure: from one accumulated confusion matrix (never from means over images), boundaries, calibration, spread.

The mIoU of a class set averages over the classes that occur in the ground truth; an absent class is NaN and is reported
so. Boundary IoU: Cheng et al., CVPR 2021. Calibration error with equal bins: Guo et al., ICML 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

import cv2
import numpy as np

BAND = 0.005  # of the image's diagonal: the share that the authors of Boundary IoU use on Cityscapes
BINS = 15
RESAMPLES = 1000


class ConfusionMatrix:
    """Counts [ground truth, prediction] over pixels whose ground truth is a class."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)
        self.images = 0

    def update(self, ground_truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add pixels, both uint8. Pixels whose ground truth is no class are ignored."""
        if ground_truth.shape != prediction.shape:
            raise ValueError(f"ground truth {ground_truth.shape} and prediction {prediction.shape} differ in shape")
        self.add_pairs(pair_counts(ground_truth, prediction))
        self.images += 1

    def add_pairs(self, table: np.ndarray) -> None:
        """Add the pairs [256, 256] of ground truth and prediction of an image or of several; see update()."""
        classes = len(self.counts)
        table = table[:classes]
        if table[:, classes:].any():
            wrong = int(np.flatnonzero(table[:, classes:].sum(0))[-1]) + classes
            raise ValueError(f"prediction {wrong} is not one of {classes} classes")
        self.counts += table[:, :classes]

    def merge(self, other: ConfusionMatrix) -> None:
        """Add another matrix's counts."""
        self.counts += other.counts
        self.images += other.images

    def iou(self) -> np.ndarray:
        """Intersection over union per class, NaN where the ground truth has no pixel of it."""
        hit = np.diag(self.counts).astype(np.float64)
        ground_truth = self.counts.sum(1)
        union = ground_truth + self.counts.sum(0) - hit
        return np.divide(hit, union, out=np.full(len(hit), np.nan), where=ground_truth > 0)

    def accuracy(self) -> np.ndarray:
        """Share of each class's true pixels that were found (recall), NaN where the ground truth has none."""
        return _share(np.diag(self.counts), self.counts.sum(1))

    def precision(self) -> np.ndarray:
        """Share of each class's predicted pixels that are right, NaN where it is never predicted."""
        return _share(np.diag(self.counts), self.counts.sum(0))

    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right."""
        return float(_share(np.diag(self.counts).sum(), self.counts.sum()))

    def frequency_weighted_iou(self) -> float:
        """Mean IoU with every class weighted by its share of the ground truth's pixels."""
        ground_truth = self.counts.sum(1)
        return float(_share(np.nansum(self.iou() * ground_truth), ground_truth.sum()))

    def miou(self, indices: Sequence[int] | None = None) -> float:
        """Mean IoU over the present classes, or over those of them in `indices`; NaN when there is none."""
        return mean_present(self.iou() if indices is None else self.iou()[list(indices)])

    def miou_of_all(self) -> float:
        """Mean IoU over all classes, with 0 for those that the ground truth does not have (torchmetrics, VFM-UDA)."""
        return float(np.nan_to_num(self.iou()).mean())


def mean_present(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN when nothing is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)


def pair_counts(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How often each pair of uint8 values occurs [256, 256]."""
    total = np.zeros((256, 256), np.int64)
    rows = max(1, 2**24 // max(1, one.shape[-1]))  # the histogram counts in float32, exact up to 2**24
    one, other = (np.ascontiguousarray(x.reshape(-1, x.shape[-1]), np.uint8) for x in (one, other))
    for start in range(0, len(one), rows):
        part = [one[start : start + rows], other[start : start + rows]]
        total += cv2.calcHist(part, [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    return total


def iou_table(names: Sequence[str], matrix: ConfusionMatrix, sets: Mapping[str, Sequence[int]]) -> str:
    """The originals' table in per cent: a line per class, then the mean over each class set of class indices."""
    lines = [f"===> {name + ':':<12} {_percent(iou)}" for name, iou in zip(names, matrix.iou())]
    for name, indices in sets.items():
        lines.append(f"===> mIoU: {_percent(matrix.miou(indices)).strip()} ({name}, {len(indices)} classes)")
    return "\n".join(lines)


def originals_means(names: Sequence[str], matrix: ConfusionMatrix, sets: Mapping[str, Sequence[int]]) -> list[str]:
    """A line per class set whose mean in the original programs differs: predicted but absent classes count 0 there."""
    lines, predicted = [], matrix.counts.sum(0) > 0
    for name, indices in sets.items():
        iou = matrix.iou()[list(indices)]
        zeros = [i for i, value in zip(indices, iou) if np.isnan(value) and predicted[i]]
        if zeros:
            mean = np.nansum(iou) / (np.isfinite(iou).sum() + len(zeros))
            classes = ", ".join(names[i] for i in zeros)
            note = f"predicted but absent from the ground truth: {classes}"
            lines.append(
                f"===> mIoU: {_percent(mean).strip()} ({name}, as the original programs count it, with 0 for {note})"
            )
    return lines


def _percent(value: float) -> str:
    return "  nan (absent)" if np.isnan(value) else f"{100 * value:6.2f}"


def boundary_counts(
    ground_truth: np.ndarray, prediction: np.ndarray, classes: int, band: Optional[int] = None
) -> np.ndarray:
    """Pixels [3, classes] near a class boundary: in both and right, in the ground truth, in the prediction.

    A pixel is near one when another class lies within `band` pixels (a square, as repeated erosion gives). Ignored
    pixels and the edges of the image are no boundary, unlike in the authors' masks.
    """
    band = band or max(1, round(BAND * float(np.hypot(*ground_truth.shape))))
    known = ground_truth < classes
    near_ground_truth, near_prediction = (_near(label, known, band) for label in (ground_truth, prediction))
    both = near_ground_truth & near_prediction & (ground_truth == prediction)
    picks = (ground_truth[both], ground_truth[near_ground_truth], prediction[near_prediction])
    return np.stack([np.bincount(pixels, minlength=classes)[:classes] for pixels in picks])


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """Boundary IoU per class from accumulated counts, NaN where the ground truth has no boundary of it."""
    both, ground_truth, prediction = counts
    return np.divide(both, ground_truth + prediction - both, out=np.full(len(both), np.nan), where=ground_truth > 0)


def _near(label: np.ndarray, known: np.ndarray, band: int) -> np.ndarray:
    """Known pixels with another known class within `band`: the smallest and the largest id around them differ."""
    square = np.ones((2 * band + 1, 2 * band + 1), np.uint8)
    low = cv2.erode(np.where(known, label, 255).astype(np.uint8), square)
    high = cv2.dilate(np.where(known, label, 0).astype(np.uint8), square)
    return known & (low != high)


def reliability_counts(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Per bin of confidence [3, BINS]: pixels, sum of their confidence, how many are right."""
    place = np.minimum((confidence * BINS).astype(np.uint8), BINS - 1).ravel()
    weights = (None, confidence.ravel(), right.ravel())
    return np.stack([np.bincount(place, weight, minlength=BINS).astype(np.float64) for weight in weights])


def calibration_error(counts: np.ndarray) -> float:
    """Expected calibration error: the mean distance of confidence from accuracy, weighted by pixels (0..1)."""
    pixels, confidence, right = counts
    return float(np.abs(confidence - right).sum() / pixels.sum()) if pixels.sum() else float("nan")


def miou_interval(
    matrices: np.ndarray, indices: Optional[Sequence[int]] = None, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of mIoU over images: per-image matrices [N, C, C] are drawn with replacement and summed.

    NaN for fewer than two images. A class that a draw misses is left out of that draw's mean, as absent classes are.
    """
    count, classes = matrices.shape[:2]
    if count < 2:
        return float("nan"), float("nan")
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    hit = draws @ np.diagonal(matrices, axis1=1, axis2=2)
    ground_truth = draws @ matrices.sum(2)
    union = ground_truth + draws @ matrices.sum(1) - hit
    chosen = list(range(classes) if indices is None else indices)
    iou = np.divide(hit, union, out=np.full(hit.shape, np.nan), where=ground_truth > 0)[:, chosen]
    iou = iou[np.isfinite(iou).any(axis=1)]
    if not len(iou):
        return float("nan"), float("nan")
    low, high = np.quantile(np.nanmean(iou, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def share_agreement(one: np.ndarray, other: np.ndarray) -> float:
    """How alike two class distributions are: 1 minus their total variation distance (1 equal, 0 disjoint)."""
    return float(1 - np.abs(one / one.sum() - other / other.sum()).sum() / 2)

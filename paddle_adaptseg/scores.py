"""Scores beyond one confusion matrix: boundaries, calibration, and how sure an mIoU is. Pure.

Boundary IoU: Cheng et al., CVPR 2021. Calibration error with equal bins: Guo et al., ICML 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import cv2
import numpy as np

BAND = 0.005  # of the image's diagonal: the share that the authors of Boundary IoU use on Cityscapes
BINS = 15
RESAMPLES = 1000


def boundary_counts(truth: np.ndarray, prediction: np.ndarray, classes: int, band: Optional[int] = None) -> np.ndarray:
    """Pixels [3, classes] near a class boundary: in truth and prediction and right, in truth, in prediction.

    A pixel is near one when another class lies within `band` pixels (a square, as repeated erosion gives). Ignored
    pixels and the picture's edge are no boundary, unlike in the authors' masks.
    """
    band = band or max(1, round(BAND * float(np.hypot(*truth.shape))))
    known = truth < classes
    near_truth, near_prediction = (_near(label, known, band) for label in (truth, prediction))
    both = near_truth & near_prediction & (truth == prediction)
    picks = (truth[both], truth[near_truth], prediction[near_prediction])
    return np.stack([np.bincount(pixels, minlength=classes)[:classes] for pixels in picks])


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """Boundary IoU per class from accumulated counts, NaN where the truth has no boundary of it."""
    both, truth, prediction = counts
    return np.divide(both, truth + prediction - both, out=np.full(len(both), np.nan), where=truth > 0)


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
    truth = draws @ matrices.sum(2)
    union = truth + draws @ matrices.sum(1) - hit
    chosen = list(range(classes) if indices is None else indices)
    iou = np.divide(hit, union, out=np.full(hit.shape, np.nan), where=truth > 0)[:, chosen]
    iou = iou[np.isfinite(iou).any(axis=1)]
    if not len(iou):
        return float("nan"), float("nan")
    low, high = np.quantile(np.nanmean(iou, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def share_agreement(one: np.ndarray, other: np.ndarray) -> float:
    """How alike two class distributions are: 1 minus their total variation distance (1 equal, 0 disjoint)."""
    return float(1 - np.abs(one / one.sum() - other / other.sum()).sum() / 2)

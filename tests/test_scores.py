"""Scores and criteria against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paddle_adaptseg.evaluation.metrics import (
    ConfusionMatrix,
    boundary_counts,
    boundary_iou,
    calibration_error,
    miou_interval,
    reliability_counts,
    share_agreement,
)
from paddle_adaptseg.evaluation.selection import Headline, Pick, headline, pick_all

NAN = math.nan


def test_overall_scores_by_hand():
    matrix = ConfusionMatrix(3)
    matrix.counts[:2, :2] = [[3, 1], [2, 4]]
    np.testing.assert_allclose(matrix.iou(), [3 / 6, 4 / 7, NAN])
    np.testing.assert_allclose(matrix.accuracy(), [3 / 4, 4 / 6, NAN])
    np.testing.assert_allclose(matrix.precision(), [3 / 5, 4 / 5, NAN])
    assert matrix.pixel_accuracy() == pytest.approx(0.7)
    assert matrix.frequency_weighted_iou() == pytest.approx(0.4 * 3 / 6 + 0.6 * 4 / 7)
    assert math.isnan(ConfusionMatrix(2).pixel_accuracy()) and math.isnan(ConfusionMatrix(2).frequency_weighted_iou())


def columns(*classes, height=5):
    return np.tile(np.array(classes, np.uint8), (height, 1))


def test_boundary_iou_by_hand():
    ground_truth, prediction = columns(0, 0, 0, 1, 1, 1), columns(0, 0, 0, 0, 1, 1)
    narrow = boundary_counts(ground_truth, prediction, 2, band=1)  # ground truth: columns 2 and 3, prediction: 3 and 4
    assert narrow.tolist() == [[0, 0], [5, 5], [5, 5]]
    wide = boundary_counts(ground_truth, prediction, 2, band=2)  # columns 1 to 4 and 2 to 5; right in 2 and 4
    assert wide.tolist() == [[5, 5], [10, 10], [10, 10]]
    np.testing.assert_allclose(boundary_iou(wide), [1 / 3, 1 / 3])
    assert boundary_iou(boundary_counts(ground_truth, ground_truth, 2, band=2)).tolist() == [1, 1]


def test_ignored_pixels_and_the_edge_of_the_image_are_no_boundary():
    counts = boundary_counts(columns(0, 0, 255, 1, 1), columns(0, 0, 1, 1, 1), 2, band=1)
    assert not counts.any() and np.isnan(boundary_iou(counts)).all()
    across = boundary_counts(columns(0, 255, 1), columns(0, 0, 1), 2, band=2)
    assert across.tolist() == [[5, 5], [5, 5], [5, 5]]


def test_calibration_error_by_hand():
    counts = reliability_counts(np.array([0.9, 0.9, 0.5, 0.5, 1.0]), np.array([True, False, True, True, True]))
    assert counts[0].sum() == 5 and counts[0][-1] == 1
    assert calibration_error(counts) == pytest.approx((abs(1.8 - 1) + abs(1.0 - 2) + 0) / 5)
    assert math.isnan(calibration_error(np.zeros((3, 15))))


def test_the_interval_covers_what_resampled_images_can_give():
    right, wrong = np.diag([4, 4]), np.array([[0, 4], [4, 0]])
    assert miou_interval(np.stack([right] * 5)) == (1.0, 1.0)
    assert miou_interval(np.stack([right, wrong])) == (0.0, 1.0)  # a quarter of the draws takes the same image twice
    low, high = miou_interval(np.stack([right] * 30 + [wrong] * 2))
    assert 0.7 < low < 30 / 34 < high <= 1.0  # 30 of 32 right: union 34 of each class in eighths
    assert miou_interval(np.stack([right] * 30 + [wrong] * 2)) == (low, high)
    assert all(map(math.isnan, miou_interval(right[None])))
    absent = np.zeros((3, 2, 2), int)
    assert all(map(math.isnan, miou_interval(absent)))


def test_share_agreement_by_hand():
    assert share_agreement(np.array([2, 2]), np.array([1, 3])) == pytest.approx(0.75)
    assert share_agreement(np.array([1.0, 0]), np.array([0, 5.0])) == 0


ROWS = [
    {"step": 10, "miou": 30.0, "entropy": 0.5, "source_miou": 60.0, "stability": NAN, "share_agreement": 0.9},
    {"step": 20, "miou": 40.0, "entropy": 0.4, "source_miou": 70.0, "stability": 0.7, "share_agreement": 0.8},
    {"step": 30, "miou": 35.0, "entropy": 0.3, "source_miou": 65.0, "stability": 0.8, "share_agreement": 0.7},
]


def test_each_criterion_picks_what_it_should_and_its_cost_is_told():
    assert pick_all(ROWS) == [
        Pick("target entropy", 30, 35.0, 5.0),
        Pick("source mIoU", 20, 40.0, 0.0),
        Pick("prediction stability", 30, 35.0, 5.0),
        Pick("class-share agreement", 10, 30.0, 10.0),
        Pick("last", 30, 35.0, 5.0),
    ]
    blind = [{**row, "source_miou": NAN, "share_agreement": NAN} for row in ROWS]
    assert {p.criterion for p in pick_all(blind)} == {"target entropy", "prediction stability", "last"}
    assert pick_all([{**ROWS[0], "miou": NAN}]) == []


def test_last_best_and_the_mean_of_the_last_ones():
    assert headline(ROWS, 2) == Headline(30, 35.0, 20, 40.0, 2, 37.5)
    assert headline(ROWS[::-1], 9).tail == 2  # the first checkpoint is no end of training

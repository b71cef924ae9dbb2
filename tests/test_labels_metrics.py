"""Ids, scores and their table against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.labels import CITYSCAPES_19, CITYSCAPES_IDS, IGNORE, LabelSpace
from paddle_adaptseg.data.catalog import own_dataset
from paddle_adaptseg.evaluation.metrics import ConfusionMatrix, iou_table, originals_means


def test_raw_ids_become_the_train_ids_of_cityscapes():
    lut = CITYSCAPES_19.lut(CITYSCAPES_IDS)
    raw = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert lut[raw].tolist() == list(range(19))
    assert set(np.delete(lut, raw)) == {IGNORE}


def test_a_subset_counts_only_its_own_classes():
    small = CITYSCAPES_19.subset(["sky", "road"])
    assert small.lut(CITYSCAPES_IDS)[[23, 7, 8]].tolist() == [0, 1, IGNORE]
    with pytest.raises(ConfigError, match="did you mean 'bicycle'"):
        CITYSCAPES_19.subset(["bicycles"])


def test_iou_counts_by_hand():
    matrix = ConfusionMatrix(3)
    truth = np.array([[0, 0, 1], [1, 255, 0]], np.uint8)
    prediction = np.array([[0, 1, 1], [1, 2, 2]], np.uint8)
    matrix.update(truth, prediction)
    np.testing.assert_allclose(matrix.iou(), [1 / 3, 2 / 3, np.nan])
    assert matrix.miou() == pytest.approx(0.5)
    assert matrix.miou([0]) == pytest.approx(1 / 3)
    assert np.isnan(matrix.miou([2]))


def test_images_accumulate_in_one_matrix():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 4, (2, 5, 7)), rng.integers(0, 4, (2, 5, 7))
    one, parts = ConfusionMatrix(4), ConfusionMatrix(4)
    one.update(truth, prediction)
    for t, p in zip(truth, prediction):
        part = ConfusionMatrix(4)
        part.update(t, p)
        parts.merge(part)
    assert (one.counts == parts.counts).all() and one.counts.sum() == truth.size


def test_wrong_predictions_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        ConfusionMatrix(2).update(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="not one of 2 classes"):
        ConfusionMatrix(2).update(np.zeros((1, 1), int), np.full((1, 1), 2))


def test_the_table_has_the_originals_names_and_marks_absent_classes():
    matrix = ConfusionMatrix(19)
    matrix.update(np.array([0, 0, 17]), np.array([0, 0, 17]))
    sets = {"both": [0, 17, 3], "other": [3]}
    lines = iou_table(CITYSCAPES_19.names, matrix, sets).splitlines()
    assert lines[0].split() == ["===>", "road:", "100.00"]
    assert lines[17].split() == ["===>", "motorcycle:", "100.00"]
    assert "nan (absent)" in lines[1]
    assert lines[-2:] == ["===> mIoU: 100.00 (both, 3 classes)", "===> mIoU: nan (absent) (other, 1 classes)"]


def test_the_mean_of_the_originals_counts_0_for_a_class_that_is_predicted_but_absent_from_the_ground_truth():
    matrix = ConfusionMatrix(4)
    matrix.update(np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 0, 1, 2]], np.uint8))
    (line,) = originals_means("abcd", matrix, {"all": [0, 1, 2, 3], "two": [0, 1]})
    assert matrix.miou() == 0.75  # class 2 is left out, and class 3 is neither there nor predicted
    assert line.startswith("===> mIoU: 50.00 (all, as the original programs count it") and line.endswith(": c)")


def test_counting_pairs_is_exact_beyond_what_float32_counts():
    truth = np.zeros((3, 2**23), np.uint8)
    matrix = ConfusionMatrix(2)
    matrix.update(truth, truth)
    assert matrix.counts.tolist() == [[3 * 2**23, 0], [0, 0]]


def test_the_spelling_of_the_originals_is_read_and_not_shown(tmp_path):
    own = LabelSpace(("road", "motocycle"), ((0, 0, 0), (1, 1, 1)))
    assert own.names == ("road", "motorcycle") and own.subset(["motocycle"]).names == ("motorcycle",)
    file = tmp_path / "mine.yml"
    file.write_text(
        "images: ['a/{name}.png']\nlabels: ['b/{name}.png']\nclasses: [{name: motocycle, ids: [3], colour: [0, 0, 1]}]"
    )
    assert own_dataset(file).labels[0].ids == {3: "motorcycle"}

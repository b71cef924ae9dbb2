"""Inference gives the probabilities and labels that the original programs gave."""

from __future__ import annotations

import numpy as np
import pytest
from parity_evaluation import parts, pictures, read, run
from parity_self_training import TOLERANCE
from parity_vfm_uda import score_picture


@pytest.mark.parametrize(("path", "name"), parts())
def test_an_inference_is_that_of_the_original(path, name):
    expected, ours = read(path)[name]["outputs"], run(path, name).astype(np.float64)
    probe = expected["probability"]
    assert [1, *ours.shape] == probe["shape"]
    rms = probe["l2"] / np.sqrt(ours.size)
    np.testing.assert_allclose(ours.ravel()[probe["index"]], probe["value"], 0, TOLERANCE.probe * rms)
    assert np.linalg.norm(ours) == pytest.approx(probe["l2"], rel=TOLERANCE.probe)
    assert ours.sum() == pytest.approx(probe["sum"], rel=1e-5)
    counts = np.bincount(ours.argmax(axis=0).ravel(), minlength=len(ours))
    assert np.abs(counts - expected["label_counts"]).max() <= TOLERANCE.pixels * ours[0].size


@pytest.mark.parametrize(("path", "name"), pictures())
def test_a_picture_is_scored_as_by_the_original(path, name):
    part = read(path)[name]
    scored, probe, resized = score_picture(part), part["outputs"]["probability"], part["resized"]
    assert list(scored.resized.transpose(2, 0, 1).shape) == resized["shape"]
    assert scored.resized.astype(np.int64).sum() == resized["sum"]
    pixels = scored.resized.transpose(2, 0, 1).ravel()
    np.testing.assert_array_equal(pixels[resized["index"]], resized["value"])
    assert scored.windows == part["windows_y1y2x1x2"]
    count = np.zeros(scored.label.shape, np.int64)
    for top, bottom, left, right in scored.windows:
        count[top:bottom, left:right] += 1
    assert np.bincount(count.ravel(), minlength=len(part["count"])).tolist() == part["count"]
    counts = np.bincount(scored.label.ravel(), minlength=256)
    assert [*counts[:19], counts[255]] == part["resized_label"]
    rms = probe["l2"] / np.sqrt(scored.probability.size)
    assert list(scored.probability.shape) == probe["shape"]
    np.testing.assert_allclose(scored.probability.ravel()[probe["index"]], probe["value"], 0, 1e-4 * rms)
    labels = np.bincount(scored.probability.argmax(axis=0).ravel(), minlength=19)
    assert np.abs(labels - part["label_counts"]).max() <= TOLERANCE.pixels * count.size
    np.testing.assert_allclose(np.nan_to_num(scored.matrix.iou()), part["iou"], atol=1e-3)
    assert scored.matrix.miou_of_all() == pytest.approx(part["miou"], abs=1e-3)

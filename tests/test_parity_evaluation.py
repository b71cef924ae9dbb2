"""Inference gives the probabilities and labels that the original programs gave."""

from __future__ import annotations

import numpy as np
import pytest
from parity_evaluation import parts, read, run
from parity_self_training import TOLERANCE


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

"""Transformers and their heads compute what the original networks computed."""

from __future__ import annotations

import numpy as np
import pytest
from parity_networks import GRADIENT, GRADIENT_LOSS, PROBE, ZERO, parts, read, run_forward, run_gradient

pytestmark = pytest.mark.usefixtures("constant_weights")  # the figures' own are set


@pytest.mark.parametrize(("path", "name"), parts("forward"))
def test_a_network_computes_what_the_original_computes(path, name):
    expected, outputs = read(path)[name]["outputs"], run_forward(path, name)
    assert set(outputs) == set(expected)
    for key, probe in expected.items():
        value = outputs[key].astype(np.float64)
        assert list(value.shape) == probe["shape"], key
        rms = probe["l2"] / np.sqrt(value.size)
        np.testing.assert_allclose(value.ravel()[probe["index"]], probe["value"], 0, PROBE * rms, err_msg=key)
        assert np.linalg.norm(value) == pytest.approx(probe["l2"], rel=PROBE), key


@pytest.mark.parametrize(("path", "name"), parts("gradient"))
def test_a_gradient_is_that_of_the_original(path, name):
    part, (loss, own) = read(path)[name], run_gradient(path, name)
    assert loss == pytest.approx(part["loss"], rel=GRADIENT_LOSS)
    assert {n for n, g in own.items() if g is None} == set(part.get("no_gradient", []))
    for tensor, (total, norm) in part["gradient"].items():
        array = own[tensor]
        if tensor in part["noise"]:
            compare_halves(part, tensor, array)
            continue
        assert np.linalg.norm(array) == pytest.approx(norm, rel=GRADIENT, abs=ZERO), tensor
        assert abs(array.sum() - total) <= GRADIENT * norm * np.sqrt(array.size) + ZERO, tensor


def compare_halves(part, tensor, array):
    """Biases of keys have no true gradient, because softmax ignores them; those of queries and values have."""
    third = array.size // 3
    if tensor in part.get("gradient_v_half", {}):
        pieces = [(array[array.size // 2 :], *part["gradient_v_half"][tensor])]
    elif tensor in part.get("gradient_qv", {}):
        q, v = array[:third], array[2 * third :]
        total_q, norm_q, total_v, norm_v = part["gradient_qv"][tensor]
        pieces = [(q, total_q, norm_q), (v, total_v, norm_v)]
    else:
        return
    for piece, total, norm in pieces:
        assert np.linalg.norm(piece) == pytest.approx(norm, rel=GRADIENT), tensor
        assert abs(piece.sum() - total) <= GRADIENT * norm * np.sqrt(piece.size), tensor

"""Losses against numbers worked out by hand, and their edges."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddle_adaptseg.losses import (
    GAN_LOSSES,
    SOURCE,
    TARGET,
    cross_entropy,
    entropy_map,
    self_information,
    softmax,
)


def test_cross_entropy_is_the_mean_over_labelled_pixels():
    logits = paddle.to_tensor([[[[0.0, 9.0]], [[math.log(3.0), 0.0]]]])  # [1, 2, 1, 2]
    label = paddle.to_tensor([[[1, 255]]], dtype="int64")
    assert float(cross_entropy(logits, label)) == pytest.approx(-math.log(0.75), abs=1e-6)


def test_an_unlabelled_crop_costs_nothing_and_gives_no_gradient():
    logits = paddle.randn([1, 3, 4, 4])
    logits.stop_gradient = False
    loss = cross_entropy(logits, paddle.full([1, 4, 4], 255, "int64"))
    loss.backward()
    assert float(loss) == 0.0
    assert float(logits.grad.abs().max()) == 0.0


def test_softmax_runs_over_classes():
    p = softmax(paddle.randn([2, 5, 3, 4]))
    np.testing.assert_allclose(p.sum(1).numpy(), np.ones((2, 3, 4)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "domain", "expected"),
    [
        ("vanilla", SOURCE, math.log(1 + math.exp(2.0))),
        ("vanilla", TARGET, math.log(1 + math.exp(-2.0))),
        ("ls", SOURCE, 4.0),
        ("ls", TARGET, 1.0),
    ],
)
def test_gan_objectives(name, domain, expected):
    assert float(GAN_LOSSES[name](paddle.full([1, 1, 2, 2], 2.0), domain)) == pytest.approx(expected, rel=1e-6)


def test_entropy_is_one_for_uniform_and_zero_and_finite_for_certain():
    uniform, certain = paddle.zeros([1, 4, 1, 1]), paddle.zeros([1, 4, 1, 1])
    certain[0, 2] = 1e4
    assert entropy_map(uniform).item() == pytest.approx(1.0, rel=1e-6)
    certain.stop_gradient = False
    value = self_information(certain)
    value.sum().backward()
    assert float(value.abs().max()) < 1e-20
    assert np.isfinite(certain.grad.numpy()).all()

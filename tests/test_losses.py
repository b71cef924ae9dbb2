"""Losses against numbers worked out by hand, and their edges."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import paddle
import pytest

from paddle_adaptseg.cpu import accelerate
from paddle_adaptseg.methods.losses import (
    GAN_LOSSES,
    SOURCE,
    TARGET,
    class_weights,
    cosine,
    cross_entropy,
    entropy_map,
    focal_cross_entropy,
    hard_label,
    iw_entropy,
    iw_max_square,
    log_softmax,
    max_square,
    mean_entropy,
    self_information,
    softmax,
    weighted_bce,
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


def logits_of(*pixels):
    """Logits [1, C, 1, W] whose softmax gives each pixel's probabilities."""
    return paddle.to_tensor(np.log(np.array(pixels, np.float32)).T[None, :, None])


PIXELS = ([0.8, 0.2], [0.6, 0.4], [0.9, 0.1], [0.3, 0.7])  # predicted classes 0 0 0 1


def test_max_square_is_minus_half_the_mean_square():
    expected = -np.mean(np.square(PIXELS)) / 2
    assert float(max_square(logits_of(*PIXELS))) == pytest.approx(expected, rel=1e-5)


def test_image_weights_follow_how_often_the_predicted_class_occurs():
    weights = class_weights(softmax(logits_of(*PIXELS)), 0.2).numpy().ravel()
    often, rare = 1 / (3**0.2 * 4**0.8), 1 / (1**0.2 * 4**0.8)
    np.testing.assert_allclose(weights, [often, often, often, rare], rtol=1e-5)
    squares = np.square(PIXELS).sum(1)
    expected = -(squares * weights).sum() / (1 * 2)
    assert float(iw_max_square(logits_of(*PIXELS))) == pytest.approx(expected, rel=1e-5)
    information = -np.sum(PIXELS * np.log(PIXELS), axis=1) / math.log(2)
    assert float(iw_entropy(logits_of(*PIXELS))) == pytest.approx((information * weights).sum() / 2, rel=1e-5)


def test_entropy_may_be_restricted_to_the_least_certain_pixels_of_each_image():
    entropy = -np.sum(PIXELS * np.log(PIXELS), axis=1) / math.log(2)
    assert float(mean_entropy(logits_of(*PIXELS))) == pytest.approx(entropy.mean(), rel=1e-5)
    half = np.sort(entropy)[2:].mean()
    assert float(mean_entropy(logits_of(*PIXELS), ratio=0.5)) == pytest.approx(half, rel=1e-5)


def test_hard_labels_teach_only_where_the_network_is_sure():
    assert float(hard_label(logits_of(*PIXELS), 0.75)[0]) == pytest.approx(-np.log([0.8, 0.9]).mean(), rel=1e-5)
    assert float(hard_label(logits_of(*PIXELS), 0.95)[0]) == 0.0


def test_focal_loss_by_hand_and_without_labels():
    label = paddle.to_tensor([[[0, 1, 255, 255]]], dtype="int64")
    expected = np.mean([-(0.2**2) * math.log(0.8), -(0.6**2) * math.log(0.4)])
    assert float(focal_cross_entropy(logits_of(*PIXELS), label)) == pytest.approx(expected, rel=1e-5)
    logits = logits_of(*PIXELS)
    logits.stop_gradient = False
    loss = focal_cross_entropy(logits, paddle.full_like(label, 255))
    loss.backward()
    assert float(loss) == 0.0 and float(logits.grad.abs().max()) == 0.0


def test_weighted_bce_and_cosine():
    verdict = paddle.to_tensor([[[[0.0, 2.0]]]])
    weight = paddle.to_tensor([[[[3.0, 1.0]]]])
    expected = (3 * math.log(2) + math.log(1 + math.exp(2))) / 2
    assert float(weighted_bce(verdict, SOURCE, weight)) == pytest.approx(expected, rel=1e-6)
    one, other = paddle.to_tensor([[1.0, 0.0]]), paddle.to_tensor([[1.0, 1.0]])
    assert float(cosine(one, other)) == pytest.approx(1 / math.sqrt(2), rel=1e-5)
    assert cosine(one, other, axis=0).numpy().tolist() == pytest.approx([1.0, 0.0], abs=1e-5)


PATHS = {"plain": contextlib.nullcontext, "accelerated": lambda: accelerate(paddle.nn.ReLU())}


def in_float64(logits, label):
    """Cross entropy, mean entropy and softmax by numpy, and the gradients of the first two."""
    z = logits.astype(np.float64)
    log_p = z - z.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    p, count, classes = np.exp(log_p), (label != 255).sum(), z.shape[1]
    hot = (np.arange(classes)[:, None, None] == label[:, None]).astype(np.float64)
    entropy = -(p * log_p).sum(1, keepdims=True)
    scale = 1 / (math.log(classes) * label.size)
    return {
        "cross entropy": (-(hot * log_p).sum() / count, (p * hot.sum(1, keepdims=True) - hot) / count),
        "entropy": (entropy.sum() * scale, -p * (log_p + entropy) * scale),
    }, (p, log_p)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [1.0, 300.0, 1e4])
def test_losses_are_exact_however_far_apart_logits_are(path, size):
    random = np.random.RandomState(0)
    logits = (random.uniform(-size, size, (2, 5, 6, 7))).astype(np.float32)
    label = random.choice([0, 1, 4, 255], (2, 6, 7))
    expected, (p, log_p) = in_float64(logits, label)
    found = {"cross entropy": lambda x: cross_entropy(x, paddle.to_tensor(label)), "entropy": mean_entropy}
    with PATHS[path]():
        for name, loss in found.items():
            x = paddle.to_tensor(logits, stop_gradient=False)
            value = loss(x * 1.0)
            value.backward()
            assert float(value) == pytest.approx(expected[name][0], rel=1e-5, abs=1e-7)
            np.testing.assert_allclose(x.grad.numpy(), expected[name][1], 1e-4, 1e-8)
        x = paddle.to_tensor(logits)
        np.testing.assert_allclose(softmax(x).numpy(), p, 1e-4, 1e-30)
        np.testing.assert_allclose(log_softmax(x).numpy(), log_p, 1e-6, 1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_a_certain_mistake_costs_what_the_logits_say(path):
    logits = paddle.to_tensor([[[[359.0]], [[-359.0]], [[-500.0]]]], stop_gradient=False)
    with PATHS[path]():
        loss = cross_entropy(logits * 1.0, paddle.to_tensor([[[1]]]))
    loss.backward()
    assert float(loss) == 718.0
    assert logits.grad.flatten().tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize("path", PATHS)
def test_the_focal_loss_holds_probabilities_in_their_range_and_gives_no_gradient_outside(path):
    """By hand: log 1e-9 = -20.723; p = 0.5 costs -(0.5^2) log 0.5 with slope 2 (1 - p) log p - (1 - p)^2 / p by p."""
    logits = np.array([[0.0, 25.0], [0.0, 0.0], [30.0, 0.0]], np.float32)  # p of class 0: 1.4e-11, 0.5, 1 - 9e-14
    x = paddle.to_tensor(logits.T[None, :, None], stop_gradient=False)
    with PATHS[path]():
        loss = focal_cross_entropy(x * 1.0, paddle.to_tensor([[[0, 0, 0]]]))
    loss.backward()
    low, middle = -((1 - 1e-9) ** 2) * math.log(1e-9), -(0.5**2) * math.log(0.5)
    assert float(loss) == pytest.approx((low + middle) / 3, rel=1e-6)
    by_p = -(0.5**2) / 0.5 + 2 * 0.5 * math.log(0.5)
    expected = np.array([[0, 0], [by_p * 0.25, -by_p * 0.25], [0, 0]]) / 3
    np.testing.assert_allclose(x.grad.numpy()[0, :, 0].T, expected, 1e-5, 1e-9)

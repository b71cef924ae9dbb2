"""Depthwise convolutions, with gaps and without, what follows them, and what a pass without gradients keeps."""

from __future__ import annotations

import gc

import numpy as np
import paddle
import pytest
from paddle import nn
from test_cpu import compare, ran, randomised

from paddle_adaptseg.cpu import accelerate, convolution, interleaved, library
from paddle_adaptseg.cpu.arena import Arena
from paddle_adaptseg.models.daformer import ContextFusion, DAFormerHead, separable
from paddle_adaptseg.models.layers import NORMS

__all__ = ["ran"]
pytestmark = pytest.mark.skipif(library.library() is None, reason="this Paddle ships no oneDNN of version 3")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Maps of any size are oneDNN's."""
    monkeypatch.setattr(interleaved, "LEAST", 0)
    interleaved.takes.cache_clear()
    yield
    interleaved.takes.cache_clear()


@pytest.fixture
def space(monkeypatch) -> Arena:
    """An arena for one test."""
    found = Arena(2**28)
    monkeypatch.setattr("paddle_adaptseg.cpu.arena.arena", lambda: found)
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "kernel, stride, dilation", [(3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 1, 6), (3, 1, 18), (5, 1, 3), (3, 1, (2, 3))]
)
@pytest.mark.parametrize("size", [(12, 18), (13, 7)])
def test_a_depthwise_convolution_is_paddles(kernel, stride, dilation, size, bias, ran):
    down, across = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    padding, more = (down * (kernel // 2), across * (kernel // 2)), {"bias_attr": None if bias else False}
    network = nn.Sequential(nn.Conv2D(32, 32, kernel, stride, padding, dilation, 32, **more))
    compare(randomised(network), paddle.randn([2, 32, *size]))
    assert ran


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("policy", ["batch_fixed_affine", "frozen", "batch"])
def test_a_separable_convolution_is_paddles(policy, training):
    network = randomised(separable(16, 5, NORMS[policy], 6))
    network.train() if training else network.eval()
    compare(network, paddle.randn([2, 16, 13, 20]))


def test_the_result_of_a_norm_between_two_convolutions_is_not_kept(space):
    network = randomised(separable(64, 32, NORMS["batch"], 6))
    x = paddle.randn([1, 64, 96, 96])
    with accelerate(network):
        y = network(x)
        gc.collect()
        in_use = space.bytes.size - sum(space.sizes) - sum(size for _, size in space.given)
        assert 0 < in_use <= 1.05 * 4 * (x.size + 2 * y.size)  # two convolutions' results and the last norm's
        y.sum().backward()


@pytest.mark.parametrize("training", [True, False])
def test_a_head_without_gradients_is_paddles_also_image_by_image(training, monkeypatch):
    monkeypatch.setattr(convolution, "LARGE", 0)
    head = DAFormerHead(5, (8, 16, 16, 16), channels=16, embed_dims=16, dilations=(1, 2, 6), pool=True, dropout=0.0)
    randomised(head)
    head.train() if training else head.eval()
    stages = [paddle.randn([3, width, 24 // n, 30 // n]) for width, n in zip((8, 16, 16, 16), (1, 2, 3, 6))]
    before = {name: value.numpy() for name, value in head.state_dict().items()}

    def found() -> list[np.ndarray]:
        head.set_state_dict(before)
        with paddle.no_grad():
            y = head(stages)
        return [y.numpy(), *(value.numpy() for value in head.state_dict().values())]

    theirs = found()
    with accelerate(head):
        ours = found()
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, 0, 1e-4 * np.abs(other).max() + 1e-6)


def test_a_pass_without_gradients_needs_few_maps_at_once(space, monkeypatch):
    network = randomised(ContextFusion(256, 64, NORMS["batch"], (1, 6, 12, 18), True, False))
    monkeypatch.setattr(convolution, "LARGE", 0)
    x = paddle.randn([4, 256, 48, 48])
    with accelerate(network), paddle.no_grad():
        network(x)
    assert 0 < space.peak <= 4.5 * 4 * x.size  # all branches, one convolution's result, the last one's, one image's


def test_small_and_other_maps_are_left_to_paddle(ran, monkeypatch):
    monkeypatch.setattr(interleaved, "LEAST", 10**9)
    for groups, padding in ((16, 2), (8, 2), (16, 0)):
        compare(nn.Sequential(nn.Conv2D(16, 16, 3, 1, padding, 2, groups=groups)), paddle.randn([1, 16, 12, 12]))
    assert not ran

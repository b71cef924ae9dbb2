"""oneDNN's convolutions are Paddle's, forward and backward, and step aside for what they do not take."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddle_adaptseg.cpu import on_cpu, onednn, operations, without_onednn
from paddle_adaptseg.models.convolution import Conv2D
from paddle_adaptseg.models.layers import add_, frozen, relu_

TOLERANCE = 1e-5  # of the largest value
# (channels in and out, kernel, stride, padding, dilation), bias
CASES = {
    "a dilated block": ((8, 8, 3, 1, 2, 2), False),
    "a pyramid branch": ((16, 5, 3, 1, 6, 6), None),
    "a critic's layer": ((5, 8, 4, 2, 1), None),
    "the stem": ((3, 8, 7, 2, 3), False),
    "a strided 1x1": ((8, 4, 1, 2), False),
}


def both(layer, x):
    """What the layer and Paddle's own convolution give: result, gradients of input and parameters."""
    found = []
    for own in (True, False):
        x.clear_grad()
        layer.clear_gradients()
        if own:
            y = layer(x)
        else:
            with without_onednn():
                y = layer(x)
        y.backward(paddle.cos(y.detach() * 3))
        found.append([y.numpy(), x.grad.numpy(), *(p.grad.numpy() for p in layer.parameters())])
    return found


@pytest.mark.skipif(onednn.library() is None, reason="this Paddle ships no oneDNN of version 3")
@pytest.mark.parametrize("case", CASES)
def test_results_and_gradients_are_those_of_paddles_own_convolution(case, monkeypatch):
    paddle.seed(0)
    positional, bias = CASES[case]
    layer, x = Conv2D(*positional, bias_attr=bias), paddle.randn([2, positional[0], 17, 22])
    x.stop_gradient = False
    calls = []
    operation = operations.convolution
    monkeypatch.setattr(
        "paddle_adaptseg.models.convolution.convolution", lambda *a: calls.append(a[0]) or operation(*a)
    )
    for ours, theirs in zip(*both(layer, x)):
        np.testing.assert_allclose(ours, theirs, 0, TOLERANCE * np.abs(theirs).max())
    assert calls == ["forward", "backward_data", "backward_weights"]


def test_a_frozen_layer_passes_gradients_to_its_input_only():
    layer, x = Conv2D(3, 4, 3), paddle.randn([1, 3, 8, 8])
    x.stop_gradient = False
    with frozen(layer):
        y = layer(x).sum()
    y.backward()
    assert x.grad is not None and layer.weight.grad is None and layer.bias.grad is None


def test_maps_too_small_for_onednn_are_left_to_paddle():
    layer, x = Conv2D(4, 1, 4, stride=2, padding=1), paddle.randn([1, 4, 1, 3])
    with without_onednn():
        expected = layer(x)
    assert layer(x).shape == expected.shape


def test_nothing_else_than_float32_is_taken():
    layer, x = Conv2D(3, 4, 3), paddle.randn([1, 3, 8, 8])
    assert on_cpu(x, layer.weight) == (onednn.library() is not None)
    assert not on_cpu(x.astype("float64"), layer.weight)
    with without_onednn():
        assert not on_cpu(x, layer.weight)


def test_sums_and_relu_in_place_have_the_gradients_of_the_plain_ones():
    norm, results = paddle.nn.BatchNorm2D(4), []
    x, other = paddle.randn([2, 4, 5, 5]), paddle.randn([2, 4, 5, 5])
    for combine in (lambda y, o: relu_(add_(y, o)), lambda y, o: F.relu(y + o)):
        one, two = x.clone().detach(), other.clone().detach()
        one.stop_gradient = two.stop_gradient = False
        y = combine(norm(one), two)
        (y**2).sum().backward()
        results.append([y.numpy(), one.grad.numpy(), two.grad.numpy()])
    for ours, theirs in zip(*results):
        np.testing.assert_array_equal(ours, theirs)

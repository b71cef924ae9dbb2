"""Networks drawn at random compute and learn the same inside accelerate() as outside it."""

from __future__ import annotations

import random

import numpy as np
import paddle
import pytest
from paddle import nn
from test_cpu import looked_at, randomised
from test_cpu_depthwise import small

from paddle_adaptseg.cpu import accelerate, library
from paddle_adaptseg.models.deeplabv2 import PyramidHead
from paddle_adaptseg.models.layers import NORMS
from paddle_adaptseg.models.resnet import Bottleneck

__all__ = ["small"]
pytestmark = pytest.mark.skipif(library.library() is None, reason="this Paddle ships no oneDNN of version 3")

CHANNELS = (1, 2, 3, 5, 7, 8, 12, 15, 16, 17, 19, 31, 32, 33)


def convolution(draw: random.Random, fan_in: int, fan_out: int, bias: bool = True) -> nn.Conv2D:
    if draw.random() < 0.2:
        return depthwise(draw, fan_in, bias)
    groups = draw.choice([g for g in (1, 1, 1, 1, 2, 3) if fan_in % g == 0 and fan_out % g == 0])
    kernel = draw.choice([1, 2, 3, 4, (3, 1), (1, 5)])
    stride, dilation = draw.choice([1, 1, 2, 3, (2, 1)]), draw.choice([1, 1, 2, 6, (1, 3)])
    padding = draw.choice([0, 1, 2, (1, 2), "same" if stride == 1 else 3, [0, 1, 2, 1]])
    mode = draw.choice(["zeros", "zeros", "zeros", "reflect"]) if isinstance(padding, int) else "zeros"
    more = {"groups": groups, "padding_mode": mode, "bias_attr": None if bias else False}
    return nn.Conv2D(fan_in, fan_out, kernel, stride, padding, dilation, **more)


def depthwise(draw: random.Random, channels: int, bias: bool) -> nn.Conv2D:
    kernel, dilation, stride = draw.choice([3, 5]), draw.choice([1, 2, 3, 6, 12, 18]), draw.choice([1, 1, 2])
    padding = draw.choice([dilation * (kernel // 2)] * 3 + [1])
    return nn.Conv2D(channels, channels, kernel, stride, padding, dilation, channels, bias_attr=None if bias else False)


def sequence(draw: random.Random, channels: int) -> nn.Layer:
    layers: list[nn.Layer] = []
    for _ in range(draw.randint(1, 3)):
        fan_out, normed = draw.choice(CHANNELS), draw.random() < 0.5
        layers.append(convolution(draw, channels, fan_out, bias=not normed))
        fan_out = layers[-1]._out_channels
        layers += [nn.BatchNorm2D(fan_out, use_global_stats=draw.choice([None, True]))] if normed else []
        layers += draw.choice([[], [nn.ReLU()], [nn.LeakyReLU(0.2)], [nn.Sigmoid()]])
        layers += draw.choice([[], [], [nn.MaxPool2D(draw.choice([2, 3]), draw.choice([1, 2, None]), 1)]])
        channels = fan_out
    return nn.Sequential(*layers)


def block(draw: random.Random, channels: int) -> nn.Layer:
    width, project = draw.choice((1, 3, 4, 8)), draw.random() < 0.5
    channels, stride = (channels, draw.choice([1, 2])) if project else (4 * width, 1)
    policy = NORMS[draw.choice(["batch_fixed_affine", "frozen", "batch"])]
    found = Bottleneck(channels, width, policy, stride, draw.choice([1, 2, 4]), project, draw.choice(["1x1", "3x3"]))
    found.channels = channels
    return found


def pyramid(draw: random.Random, channels: int) -> nn.Layer:
    return PyramidHead(channels, draw.choice(CHANNELS), draw.sample([1, 2, 3, 6], draw.choice([1, 2, 4])))


def tried(seed: int) -> None:
    draw = random.Random(seed)
    channels = draw.choice(CHANNELS)
    network = draw.choice([sequence, sequence, block, pyramid])(draw, channels)
    randomised(network, seed)
    network.train() if draw.random() < 0.7 else network.eval()
    for name, parameter in network.named_parameters():
        if name.endswith("._variance"):
            parameter.set_value(parameter.abs() + 0.1)
        elif not name.endswith("._mean"):
            parameter.stop_gradient = draw.random() < 0.2
    size = [draw.randint(20, 45), draw.randint(20, 45)]
    x = paddle.randn([draw.randint(1, 3), getattr(network, "channels", channels), *size])
    x = x.transpose([0, 1, 3, 2]) if draw.random() < 0.3 else x
    try:
        with paddle.no_grad():
            fits = min(network(x).shape) > 0
    except (ValueError, RuntimeError, OSError):
        fits = False
    if fits:
        compare(network, x)


def compare(network: nn.Layer, x: paddle.Tensor) -> None:
    """What oneDNN computes is about as near to the exact result as what Paddle computes, or nearer."""
    before = {name: value.numpy() for name, value in network.state_dict().items()}
    with accelerate(network):
        ours = looked_at(network, x)
    network.set_state_dict(before)
    paddles = looked_at(network, x)
    network.set_state_dict(before)
    network.to(dtype="float64")
    exact = looked_at(network, x.astype("float64"))
    assert set(ours) == set(paddles) == set(exact)
    largest = max(np.linalg.norm(value) for value in exact.values())
    if largest > 1e30:
        return  # gradients through norms of constant maps that float32 cannot hold
    for name, value in exact.items():
        allowed = 10 * np.linalg.norm(paddles[name] - value) + 1e-4 * np.linalg.norm(value) + 1e-6 * largest
        assert np.linalg.norm(ours[name] - value) <= allowed, name


@pytest.mark.parametrize("seed", range(24))
def test_a_random_network_is_paddles(seed):
    tried(seed)


@pytest.mark.slow
@pytest.mark.parametrize("begin", range(0, 1000, 100))
def test_many_random_networks_are_paddles(begin):
    for seed in range(1000 + begin, 1100 + begin):
        try:
            tried(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error

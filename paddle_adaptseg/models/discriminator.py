"""The discriminator of AdaptSegNet (Tsai et al., CVPR 2018): five 4x4 convolutions of stride 2, leaky by 0.2."""

from __future__ import annotations

from paddle import nn


def discriminator(channels: int, width: int = 64) -> nn.Sequential:
    """Maps [N, channels, H, W] to one logit per patch; convolutions at the indices 0, 2, 4, 6, 8."""
    widths = [channels, width, 2 * width, 4 * width, 8 * width, 1]
    layers: list[nn.Layer] = []
    for fan_in, fan_out in zip(widths, widths[1:]):
        layers += [nn.Conv2D(fan_in, fan_out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def feature_discriminator(channels: int, width: int = 64) -> nn.Sequential:
    """Maps features [N, channels, h, w] to one logit per position; features are too small for five strides of 2."""
    widths = [channels, 4 * width, 2 * width, 1]
    layers: list[nn.Layer] = []
    for fan_in, fan_out in zip(widths, widths[1:]):
        layers += [nn.Conv2D(fan_in, fan_out, 3, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])

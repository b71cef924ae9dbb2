"""Interlaced sparse self-attention (Huang et al., arXiv:1907.12273): far pixels exchange first, then near ones.

The map is cut into windows. First each pixel attends to the pixels at the same place of all windows, then to those of
its own window, so that two small attentions connect every pair of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.models.deeplabv3plus import conv_norm
from paddle_adaptseg.models.layers import NormPolicy, with_zeros
from paddle_adaptseg.models.transformer import attention, reshape_like


class Relation(nn.Layer):
    """Attention with one head among all pixels of a map [N, C, h, w]."""

    def __init__(self, channels: int, width: int, norm: NormPolicy) -> None:
        super().__init__()
        self.query_project, self.key_project = conv_norm(channels, width, 1, norm), conv_norm(channels, width, 1, norm)
        self.value_project = nn.Conv2D(channels, channels, 1)
        self.output_project = conv_norm(channels, channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.query_project(x), self.key_project(x), self.value_project(x))
        q, k, v = (part.flatten(2).transpose([0, 2, 1]).unsqueeze(2) for part in parts)
        return self.output_project(reshape_like(attention(q, k, v).squeeze(2).transpose([0, 2, 1]), x))


class InterlacedAttention(nn.Layer):
    """A 1x1 convolution to `channels`, then attention across windows of `window` (height, width), then inside them."""

    fixed_size = True  # Paddle 2.6 traces no padding whose width it learns when it runs

    def __init__(self, fan_in: int, channels: int, norm: NormPolicy, width: int, window: Sequence[int]) -> None:
        super().__init__()
        self.window = tuple(window)
        self.in_conv = conv_norm(fan_in, channels, 1, norm)
        self.global_relation, self.local_relation = Relation(channels, width, norm), Relation(channels, width, norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(x)
        (batch, channels, height, width), (high, wide) = x.shape, self.window
        rows, columns = -(-height // high), -(-width // wide)
        top, left = (rows * high - height) // 2, (columns * wide - width) // 2
        bottom, right = rows * high - height - top, columns * wide - width - left
        x = with_zeros(x, left, right, top, bottom)
        x = x.reshape([batch, channels, rows, high, columns, wide]).transpose([0, 3, 5, 1, 2, 4])
        x = self.global_relation(x.reshape([-1, channels, rows, columns]))
        x = x.reshape([batch, high, wide, channels, rows, columns]).transpose([0, 4, 5, 3, 1, 2])
        x = self.local_relation(x.reshape([-1, channels, high, wide]))
        x = x.reshape([batch, rows, columns, channels, high, wide]).transpose([0, 3, 1, 4, 2, 5])
        x = x.reshape([batch, channels, rows * high, columns * wide])
        return paddle.slice(x, [2, 3], [top, left], [top + height, left + width])

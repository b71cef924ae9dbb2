"""VFM-UDA's light head (Englert et al., CVPRW 2024): two learnt enlargements by two and a classifier."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from paddle_adaptseg.models.layers import normal_init
from paddle_adaptseg.models.transformer import channels_first, channels_last


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel of [N, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(nn.LayerNorm.forward(self, channels_last(x)))


class LightHead(nn.Layer):
    """From the last stage's features to logits of four times their size."""

    def __init__(self, classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = widths
        width, half, quarter = widths[-1], widths[-1] // 2, widths[-1] // 4
        self.upscale = nn.Sequential(
            nn.Conv2DTranspose(width, half, 2, 2, bias_attr=False),
            ChannelNorm(half),
            nn.GELU(),
            nn.Conv2DTranspose(half, quarter, 2, 2, bias_attr=False),
            ChannelNorm(quarter),
            nn.Conv2D(quarter, quarter, 3, 1, 1, bias_attr=False),
            ChannelNorm(quarter),
        )
        self.out = nn.Conv2D(quarter, classes, 1, weight_attr=normal_init(0.1), bias_attr=False)

    def like(self, outputs: int, width: int) -> LightHead:
        """The same for other outputs."""
        return LightHead(outputs, self.widths)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        return self.out(self.upscale(stages[-1]))

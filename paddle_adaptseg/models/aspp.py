"""The pyramid head of DeepLabV2: a sum of dilated 3x3 convolutions straight to the classes.

The released AdaptSegNet and MaxSquare weights were trained with the first two branches only (their forward returned
inside its loop), ADVENT and CLAN with all four; so the number is part of a model and stored with its weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from paddle_adaptseg.models.layers import normal_init

DILATIONS = (6, 12, 18, 24)


class PyramidHead(nn.Layer):
    """Sum of dilated 3x3 convolutions: features to class logits."""

    def __init__(self, channels: int, classes: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.LayerList(
            [nn.Conv2D(channels, classes, 3, padding=d, dilation=d, weight_attr=normal_init()) for d in dilations]
        )

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.branches
        total = first(x)
        for branch in others:
            total = total + branch(x)
        return total

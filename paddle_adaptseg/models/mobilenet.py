"""MobileNetV2 (Sandler et al., CVPR 2018) as a dilated backbone, for devices at the edge.

Names inside `features` are those of torchvision and paddle.vision, so that their ImageNet weights fit; their last
1x1 convolution to 1280 channels belongs to the classifier and is not built.
"""

from __future__ import annotations

from paddle import ParamAttr, Tensor, nn

from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.models.layers import NormPolicy

# expansion, channels, blocks, stride of each group of blocks
PLAN = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
TAPS = (3, 6, 13, 17)  # the last block of each stage: strides 4, 8, 16 and 32, where no stride is traded for dilation
OUTPUT_STRIDES = (8, 16)


def _conv_norm(
    fan_in: int, fan_out: int, kernel: int, norm: NormPolicy, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    init = ParamAttr(initializer=nn.initializer.KaimingNormal())
    padding = dilation * (kernel // 2)
    conv = nn.Conv2D(fan_in, fan_out, kernel, stride, padding, dilation, groups, weight_attr=init, bias_attr=False)
    return nn.Sequential(conv, norm(fan_out), nn.ReLU6())


class InvertedResidual(nn.Layer):
    """Expand, filter each channel alone, project; a shortcut where the shape stays."""

    def __init__(
        self, fan_in: int, fan_out: int, expansion: int, norm: NormPolicy, stride: int, dilation: int, shortcut: bool
    ) -> None:
        super().__init__()
        width = fan_in * expansion
        expand = [_conv_norm(fan_in, width, 1, norm)] if expansion > 1 else []
        project = nn.Conv2D(width, fan_out, 1, bias_attr=False)
        depthwise = _conv_norm(width, width, 3, norm, stride, dilation, groups=width)
        self.conv = nn.Sequential(*expand, depthwise, project, norm(fan_out))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Layer):
    """Forward returns the features of four stages; `widths` are their channels."""

    widths = (24, 32, 96, 320)

    def __init__(self, norm: NormPolicy, output_stride: int = 16) -> None:
        super().__init__()
        if output_stride not in OUTPUT_STRIDES:
            raise ConfigError(f"model.output_stride must be 8 or 16, not {output_stride}")
        blocks, fan_in, reached, dilation = [_conv_norm(3, 32, 3, norm, stride=2)], 32, 2, 1
        for expansion, channels, count, stride in PLAN:
            if reached * stride > output_stride:  # what is not strided any more is dilated from here on
                stride, dilation = 1, dilation * stride
            reached *= stride
            for index in range(count):
                first = index == 0
                blocks.append(
                    InvertedResidual(fan_in, channels, expansion, norm, stride if first else 1, dilation, not first)
                )
                fan_in = channels
        self.features = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        stages = []
        for index, block in enumerate(self.features):
            x = block(x)
            if index in TAPS:
                stages.append(x)
        return tuple(stages)

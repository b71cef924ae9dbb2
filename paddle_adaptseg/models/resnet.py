"""The dilated ResNet of DeepLab (Chen et al., TPAMI 2018): strides of its last stages are traded for dilation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.models.layers import NormPolicy, conv

# output stride -> (stride, dilation) of each stage
STAGES: Mapping[int, tuple[tuple[int, int], ...]] = {
    8: ((1, 1), (2, 1), (1, 2), (1, 4)),
    16: ((1, 1), (2, 1), (2, 1), (1, 2)),
}
STRIDE_IN = ("1x1", "3x3")
VARIANTS = ("plain", "vd")


class Bottleneck(nn.Layer):
    """1x1, 3x3, 1x1 convolutions around a shortcut; tensor names are the original ones.

    `stride_in` says which convolution strides: "1x1" in Caffe's weights, "3x3" in torchvision's and paddle.vision's.
    With `shrink`, the shortcut averages before its convolution instead of skipping pixels in it (the vd variant).
    """

    expansion = 4

    def __init__(
        self,
        fan_in: int,
        width: int,
        norm: NormPolicy,
        stride: int,
        dilation: int,
        project: bool,
        stride_in: str,
        shrink: bool = False,
    ) -> None:
        super().__init__()
        fan_out = width * self.expansion
        self.shrink = nn.AvgPool2D(stride, stride, ceil_mode=True) if shrink and stride > 1 else None
        skipped = 1 if shrink else stride
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1, self.bn1 = conv(fan_in, width, 1, first), norm(width)
        self.conv2, self.bn2 = conv(width, width, 3, second, dilation), norm(width)
        self.conv3, self.bn3 = conv(width, fan_out, 1), norm(fan_out)
        self.downsample = nn.Sequential(conv(fan_in, fan_out, 1, skipped), norm(fan_out)) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.shrink is not None:
            x = self.shrink(x)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def deep_stem(norm: NormPolicy) -> nn.Sequential:
    """Three 3x3 convolutions instead of one 7x7: the vd variant's start."""
    widths = ((3, 32, 2), (32, 32, 1), (32, 64, 1))
    layers = [(conv(i, o, 3, s), norm.stem()(o), nn.ReLU()) for i, o, s in widths]
    return nn.Sequential(*(part for layer in layers for part in layer))


class ResNet(nn.Layer):
    """Stem and four stages; forward returns the features of all four, `widths` are their channels.

    `multi_grid` multiplies the dilation of the last stage's blocks in turn (DeepLabV3). `ceil_pool`: whether the
    stem's pooling keeps a last odd row, as Caffe does. `variant` vd is PaddleSeg's (He et al., CVPR 2019).
    """

    widths = (256, 512, 1024, 2048)

    def __init__(
        self,
        depths: Sequence[int],
        norm: NormPolicy,
        stride_in: str = "1x1",
        output_stride: int = 8,
        multi_grid: Sequence[int] = (1,),
        ceil_pool: bool = True,
        variant: str = "plain",
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ConfigError(f"model.variant must be one of {', '.join(VARIANTS)}, not '{variant}'")
        if stride_in not in STRIDE_IN:
            raise ConfigError(f"model.stride_in must be 1x1 (Caffe's way) or 3x3 (torchvision's), not '{stride_in}'")
        if output_stride not in STAGES:
            raise ConfigError(f"model.output_stride must be one of {', '.join(map(str, STAGES))}, not {output_stride}")
        self.stride_in, self.vd = stride_in, variant == "vd"
        if self.vd:
            self.stem = deep_stem(norm)
        else:
            self.conv1, self.bn1 = conv(3, 64, 7, stride=2, padding=3), norm.stem()(64)
        self.pool = nn.MaxPool2D(3, 2, 1, ceil_mode=ceil_pool)
        self.channels = 64
        grids = ((1,), (1,), (1,), multi_grid)
        for index, ((stride, dilation), grid) in enumerate(zip(STAGES[output_stride], grids)):
            blocks = self._stage(64 * 2**index, depths[index], norm, stride, [dilation * g for g in grid])
            setattr(self, f"layer{index + 1}", blocks)

    def _stage(self, width: int, depth: int, norm: NormPolicy, stride: int, dilations: Sequence[int]) -> nn.Sequential:
        blocks = []
        for index in range(depth):
            first, dilation = index == 0, dilations[index % len(dilations)]
            blocks.append(
                Bottleneck(self.channels, width, norm, stride if first else 1, dilation, first, self.stride_in, self.vd)
            )
            self.channels = width * Bottleneck.expansion
        return nn.Sequential(*blocks)

    def start(self, x: Tensor) -> Tensor:
        """The features before pooling, at half the size."""
        return self.stem(x) if self.vd else F.relu(self.bn1(self.conv1(x)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        stage1 = self.layer1(self.pool(self.start(x)))
        stage2 = self.layer2(stage1)
        stage3 = self.layer3(stage2)
        return stage1, stage2, stage3, self.layer4(stage3)

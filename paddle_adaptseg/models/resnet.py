"""The dilated ResNet of DeepLab (Chen et al., TPAMI 2018): stride in the first 1x1 conv, output stride 8."""

from __future__ import annotations

from collections.abc import Sequence

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_adaptseg.models.layers import NormPolicy, conv


class Bottleneck(nn.Layer):
    """1x1, 3x3, 1x1 convolutions around a shortcut; tensor names are the original ones.

    `stride_in` says which convolution strides: "1x1" in Caffe's weights, "3x3" in torchvision's and paddle.vision's.
    """

    expansion = 4

    def __init__(
        self, fan_in: int, width: int, norm: NormPolicy, stride: int, dilation: int, project: bool, stride_in: str
    ) -> None:
        super().__init__()
        fan_out = width * self.expansion
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1, self.bn1 = conv(fan_in, width, 1, first), norm(width)
        self.conv2, self.bn2 = conv(width, width, 3, second, dilation), norm(width)
        self.conv3, self.bn3 = conv(width, fan_out, 1), norm(fan_out)
        self.downsample = nn.Sequential(conv(fan_in, fan_out, 1, stride), norm(fan_out)) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Layer):
    """Stem and four stages; forward returns the last two stages' features at an eighth of the size."""

    def __init__(self, depths: Sequence[int], norm: NormPolicy, stride_in: str = "1x1") -> None:
        super().__init__()
        self.stride_in = stride_in
        self.conv1, self.bn1 = conv(3, 64, 7, stride=2, padding=3), norm.stem()(64)
        self.pool = nn.MaxPool2D(3, 2, 1, ceil_mode=True)
        self.channels = 64
        self.layer1 = self._stage(64, depths[0], norm, stride=1, dilation=1)
        self.layer2 = self._stage(128, depths[1], norm, stride=2, dilation=1)
        self.layer3 = self._stage(256, depths[2], norm, stride=1, dilation=2)
        self.layer4 = self._stage(512, depths[3], norm, stride=1, dilation=4)

    def _stage(self, width: int, depth: int, norm: NormPolicy, stride: int, dilation: int) -> nn.Sequential:
        blocks = []
        for index in range(depth):
            first = index == 0
            blocks.append(
                Bottleneck(self.channels, width, norm, stride if first else 1, dilation, first, self.stride_in)
            )
            self.channels = width * Bottleneck.expansion
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        stage3 = self.layer3(self.layer2(self.layer1(x)))
        return stage3, self.layer4(stage3)

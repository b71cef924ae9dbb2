"""DeepLabV2 on the ResNet-v1c of mmsegmentation, on which DAFormer's authors run DACS.

Against the ResNet of Caffe: three 3x3 convolutions as a stem, the stride in a block's 3x3 convolution, no ceiling in
the pooling, and a stage's first block at half the stage's dilation. Logits are resized without aligned corners.
"""

from __future__ import annotations

from paddle import Tensor, nn

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.models.deeplabv2 import PyramidHead
from paddle_adaptseg.models.layers import NORMS, NormPolicy
from paddle_adaptseg.models.resnet import STAGES, Bottleneck, deep_stem
from paddle_adaptseg.models.segmenter import ParamGroup, Segmenter, group


class ResNetV1c(nn.Layer):
    """Stem and four stages; forward returns the features of all four."""

    def __init__(self, depths: tuple[int, int, int, int], norm: NormPolicy, output_stride: int = 8) -> None:
        super().__init__()
        if output_stride not in STAGES:
            raise ConfigError(f"model.output_stride must be one of {', '.join(map(str, STAGES))}, not {output_stride}")
        self.stem, self.pool = deep_stem(norm), nn.MaxPool2D(3, 2, 1)
        self.channels = 64
        for index, (depth, (stride, dilation)) in enumerate(zip(depths, STAGES[output_stride])):
            setattr(self, f"layer{index + 1}", self._stage(64 * 2**index, depth, norm, stride, dilation))

    def _stage(self, width: int, depth: int, norm: NormPolicy, stride: int, dilation: int) -> nn.Sequential:
        blocks = []
        for index in range(depth):
            first = index == 0
            own = max(1, dilation // 2) if first else dilation
            blocks.append(Bottleneck(self.channels, width, norm, stride if first else 1, own, first, "3x3"))
            self.channels = width * Bottleneck.expansion
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        stage1 = self.layer1(self.pool(self.stem(x)))
        stage2 = self.layer2(stage1)
        stage3 = self.layer3(stage2)
        return stage1, stage2, stage3, self.layer4(stage3)


class DeepLabV2ResNetV1c(Segmenter):
    """One pyramid head on ResNet-v1c. depths (3, 4, 23, 3) is ResNet-101; DAFormer's head has dilations 6 and 12."""

    feature_channels = 2048
    align_corners = False
    input_first = True

    def __init__(
        self,
        classes: int,
        depths: tuple[int, int, int, int] = (3, 4, 23, 3),
        norm: str = "batch",
        output_stride: int = 8,
        dilations: tuple[int, ...] = (6, 12),
        head_rate: float = 10.0,
    ) -> None:
        super().__init__()
        self.head_rate = head_rate
        self.backbone = ResNetV1c(depths, lookup(NORMS, norm, "model.norm"), output_stride)
        self.heads = nn.LayerDict({"main": PyramidHead(2048, classes, dilations)})

    def features(self, image: Tensor) -> dict[str, Tensor]:
        return {"main": self.backbone(image)[-1]}

    def groups(self) -> list[ParamGroup]:
        return [
            group("backbone", self.backbone.named_parameters()),
            group("heads", self.heads.named_parameters(), self.head_rate),
        ]

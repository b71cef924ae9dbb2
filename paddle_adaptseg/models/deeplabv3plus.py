"""DeepLabV3+ (Chen et al., ECCV 2018): a pyramid with image pooling, sharpened by early features in a decoder.

The names inside `pyramid` and `decoder` are ours; `weights/names.py` maps those of pytorch-deeplab-xception to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.models.deeplabv2 import DILATIONS, PyramidHead
from paddle_adaptseg.models.layers import NORMS, NormPolicy, resize_like
from paddle_adaptseg.models.resnet import ResNet
from paddle_adaptseg.models.segmenter import ParamGroup, Segmenter, group

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


# output stride -> dilations of the pyramid's 3x3 convolutions
PYRAMIDS: Mapping[int, tuple[int, ...]] = {8: (12, 24, 36), 16: (6, 12, 18)}


def conv_norm(
    fan_in: int, fan_out: int, kernel: int, norm: NormPolicy, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, norm, ReLU."""
    init = ParamAttr(initializer=nn.initializer.KaimingNormal())
    padding = dilation * (kernel // 2)
    conv = nn.Conv2D(fan_in, fan_out, kernel, 1, padding, dilation, groups, weight_attr=init, bias_attr=False)
    return nn.Sequential(conv, norm(fan_out), nn.ReLU())


class ImagePooling(nn.Layer):
    """The mean of the whole image, projected and spread over all of its pixels again."""

    def __init__(self, fan_in: int, fan_out: int, norm: NormPolicy) -> None:
        super().__init__()
        self.project = conv_norm(fan_in, fan_out, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(axis=[2, 3], keepdim=True)
        conv, norm, activation = self.project
        if self.training and pooled.shape[0] == 1 and isinstance(norm, nn.BatchNorm2D):
            # One image leaves one value per channel, whose variance is 0: batch statistics would erase it.
            y = F.batch_norm(conv(pooled), norm._mean, norm._variance, norm.weight, norm.bias, training=False)
        else:
            y = norm(conv(pooled))
        return resize_like(activation(y), x)


class Pyramid(nn.Layer):
    """A 1x1 convolution, dilated 3x3 ones and the pooled image, side by side, then mixed to `width` channels."""

    def __init__(
        self, channels: int, width: int, dilations: Sequence[int], norm: NormPolicy, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.parts = nn.LayerList(
            [
                conv_norm(channels, width, 1, norm),
                *(conv_norm(channels, width, 3, norm, d) for d in dilations),
                ImagePooling(channels, width, norm),
            ]
        )
        self.mix = nn.Sequential(conv_norm(width * len(self.parts), width, 1, norm), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(paddle.concat([part(x) for part in self.parts], axis=1))


class Decoder(nn.Layer):
    """Early features, reduced to few channels so that they do not drown the pyramid's, refine what it says."""

    def __init__(self, low: int, low_width: int, width: int, norm: NormPolicy, dropout: float = 0.5) -> None:
        super().__init__()
        self.reduce = conv_norm(low, low_width, 1, norm)
        self.refine = nn.Sequential(
            conv_norm(width + low_width, width, 3, norm), nn.Dropout(dropout), conv_norm(width, width, 3, norm)
        )

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        low = self.reduce(low)
        return self.refine(paddle.concat([resize_like(x, low), low], axis=1))


class DeepLabV3Plus(Segmenter):
    """Pyramid and decoder on a backbone that returns four stages; with `aux`, DeepLabV2's head on the third one too."""

    def __init__(
        self,
        classes: int,
        backbone: nn.Layer,
        norm: NormPolicy,
        dilations: Sequence[int],
        width: int = 256,
        low_width: int = 48,
        head_rate: float = 10.0,
        aux: bool = False,
    ) -> None:
        super().__init__()
        low, _, stage3, last = backbone.widths
        self.head_rate, self.feature_channels = head_rate, width
        self.backbone = backbone
        self.pyramid = Pyramid(last, width, dilations, norm)
        self.decoder = Decoder(low, low_width, width, norm)
        self.heads = nn.LayerDict({"main": nn.Sequential(nn.Dropout(0.1), nn.Conv2D(width, classes, 1))})
        if aux:
            self.levels = ("main", "aux")
            self.heads["aux"] = PyramidHead(stage3, classes, DILATIONS)

    def features(self, image: Tensor) -> dict[str, Tensor]:
        low, _, stage3, last = self.backbone(image)
        return {"main": self.decoder(self.pyramid(last), low), "aux": stage3}

    def groups(self) -> list[ParamGroup]:
        """Backbone at the base learning rate, pyramid, decoder and heads at `head_rate` times it."""
        rest = [named for part in (self.pyramid, self.decoder, self.heads) for named in part.named_parameters()]
        return [group("backbone", self.backbone.named_parameters()), group("heads", rest, self.head_rate)]


class DeepLabV3PlusResNet(DeepLabV3Plus):
    """DeepLabV3+ on a ResNet; the last stage is dilated by 1, 2 and 4 times its rate. (3, 4, 6, 3) is ResNet-50."""

    stride_in = "3x3"

    def __init__(
        self,
        classes: int,
        depths: tuple[int, int, int, int] = (3, 4, 23, 3),
        norm: str = "batch",
        output_stride: int = 16,
        head_rate: float = 10.0,
        stride_in: str = stride_in,
        aux: bool = False,
        width: int = 256,
    ) -> None:
        policy = lookup(NORMS, norm, "model.norm")
        backbone = ResNet(depths, policy, stride_in, output_stride, (1, 2, 4), ceil_pool=False)
        super().__init__(classes, backbone, policy, PYRAMIDS[output_stride], width, head_rate=head_rate, aux=aux)


class DeepLabV3PlusMobileNetV2(DeepLabV3Plus):
    """DeepLabV3+ on MobileNetV2, for edge devices."""

    def __init__(
        self,
        classes: int,
        norm: str = "batch",
        output_stride: int = 16,
        head_rate: float = 10.0,
        aux: bool = False,
        width: int = 256,
    ) -> None:
        policy = lookup(NORMS, norm, "model.norm")
        backbone = MobileNetV2(policy, output_stride)
        super().__init__(classes, backbone, policy, PYRAMIDS[output_stride], width, head_rate=head_rate, aux=aux)

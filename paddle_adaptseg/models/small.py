"""A group-normalised residual network of 0.4 million parameters, for the toy pair and for tests.

Group norm, because separate source and target forwards at this size leave batch norm with mixed running statistics.
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.models.deeplabv2 import PyramidHead
from paddle_adaptseg.models.deeplabv3plus import DeepLabV3Plus
from paddle_adaptseg.models.layers import NORMS, NormPolicy
from paddle_adaptseg.models.segmenter import Segmenter


def _conv(fan_in: int, fan_out: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Conv2D:
    init = ParamAttr(initializer=nn.initializer.KaimingNormal())
    return nn.Conv2D(
        fan_in, fan_out, kernel, stride, dilation * (kernel // 2), dilation, weight_attr=init, bias_attr=False
    )


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, fan_in: int, fan_out: int, norm: NormPolicy, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(fan_in, fan_out, 3, stride, dilation), norm(fan_out)
        self.conv2, self.norm2 = _conv(fan_out, fan_out, 3, 1, dilation), norm(fan_out)
        self.shortcut = None
        if fan_in != fan_out or stride > 1:
            self.shortcut = nn.Sequential(_conv(fan_in, fan_out, 1, stride), norm(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def _stages(width: int, norm: NormPolicy) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """Stem (half the size), stage 3 (an eighth, reached in its first two blocks) and stage 4."""
    stem = nn.Sequential(_conv(3, width // 2, stride=2), norm(width // 2), nn.ReLU())
    stage3 = nn.Sequential(
        BasicBlock(width // 2, width, norm, stride=2),
        BasicBlock(width, 2 * width, norm, stride=2),
        BasicBlock(2 * width, 2 * width, norm, dilation=2),
        BasicBlock(2 * width, 2 * width, norm, dilation=2),
    )
    stage4 = nn.Sequential(
        BasicBlock(2 * width, 3 * width, norm, dilation=2),
        BasicBlock(3 * width, 3 * width, norm, dilation=4),
    )
    return stem, stage3, stage4


class SmallSegmenter(Segmenter):
    """Output stride 8; `aux` before the last two blocks, `main` after them."""

    levels: tuple[str, ...] = ("main", "aux")
    head_widths = {"aux": 2, "main": 3}

    def __init__(self, classes: int, width: int = 24, norm: str = "group") -> None:
        super().__init__()
        self.stem, self.stage3, self.stage4 = _stages(width, lookup(NORMS, norm, "model.norm"))
        self.feature_channels = 3 * width
        self.heads = nn.LayerDict(
            {level: PyramidHead(n * width, classes, (1, 3, 6, 9)) for level, n in self.head_widths.items()}
        )

    def features(self, image: Tensor) -> dict[str, Tensor]:
        stage3 = self.stage3(self.stem(image))
        return {"aux": stage3, "main": self.stage4(stage3)}


class TwinSmallSegmenter(SmallSegmenter):
    """Two heads on the last stage, for CLAN."""

    levels = ("main", "first", "second")
    head_widths = {"first": 3, "second": 3}

    def features(self, image: Tensor) -> dict[str, Tensor]:
        last = SmallSegmenter.features(self, image)["main"]  # Paddle 2.6 traces no super()
        return {"first": last, "second": last}

    def classify(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = Segmenter.classify(self, features)
        return {"main": logits["first"] + logits["second"], **logits}


class SmallBackbone(nn.Layer):
    """The same blocks as a backbone of four stages, for DeepLabV3+."""

    def __init__(self, width: int, norm: NormPolicy) -> None:
        super().__init__()
        self.widths = (width, 2 * width, 2 * width, 3 * width)
        self.stem, self.stage3, self.stage4 = _stages(width, norm)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        blocks = list(self.stage3)
        stage1 = blocks[0](self.stem(x))
        stage2 = blocks[1](stage1)
        stage3 = blocks[3](blocks[2](stage2))
        return stage1, stage2, stage3, self.stage4(stage3)


class SmallV3Plus(DeepLabV3Plus):
    """DeepLabV3+ on the small blocks: a pyramid of 2 x width channels, a decoder at a quarter of the size."""

    def __init__(self, classes: int, width: int = 24, norm: str = "group", aux: bool = False) -> None:
        policy = lookup(NORMS, norm, "model.norm")
        backbone = SmallBackbone(width, policy)
        super().__init__(classes, backbone, policy, (3, 6, 9), 2 * width, max(4, width // 2), head_rate=1.0, aux=aux)

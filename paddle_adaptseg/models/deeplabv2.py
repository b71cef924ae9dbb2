"""DeepLabV2 (Chen et al., TPAMI 2018) as AdaptSegNet (Tsai et al., CVPR 2018) builds it: main and auxiliary heads.

The released AdaptSegNet and MaxSquare weights were trained with the first two branches of the pyramid only (their
forward returned inside its loop), ADVENT and CLAN with all four; so the number is part of a model and stored with its
weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.models.layers import NORMS, normal_init
from paddle_adaptseg.models.resnet import ResNet
from paddle_adaptseg.models.segmenter import ParamGroup, Segmenter, group

DILATIONS = (6, 12, 18, 24)


class PyramidHead(nn.Layer):
    """Sum of dilated 3x3 convolutions: features to class logits."""

    def __init__(self, channels: int, classes: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.dilations = channels, dilations
        self.branches = nn.LayerList(
            [nn.Conv2D(channels, classes, 3, padding=d, dilation=d, weight_attr=normal_init()) for d in dilations]
        )

    def like(self, outputs: int, width: int) -> PyramidHead:
        """The same for other outputs."""
        return PyramidHead(self.channels, outputs, self.dilations)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.branches
        total = first(x)
        for branch in others:
            total = total + branch(x)
        return total


_PLAN = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512)


def vgg16_features() -> nn.Sequential:
    """Features [N, 1024, H/8, W/8]."""
    layers, fan_in = [], 3
    for step in _PLAN:
        if isinstance(step, str):
            layers.append(nn.MaxPool2D(2, 2))
            continue
        layers += [nn.Conv2D(fan_in, step, 3, padding=1), nn.ReLU()]
        fan_in = step
    for fan_out, dilation in ((512, 2), (512, 2), (512, 2), (1024, 4), (1024, 4)):
        layers += [nn.Conv2D(fan_in, fan_out, 3, padding=dilation, dilation=dilation), nn.ReLU()]
        fan_in = fan_out
    return nn.Sequential(*layers)


class DeepLabV2ResNet(Segmenter):
    """Two heads on a dilated ResNet: `aux` on stage 3, `main` on stage 4. depths (3, 4, 23, 3) is ResNet-101.

    With `aux` false there is no auxiliary head: the single-level network.
    """

    levels: tuple[str, ...] = ("main", "aux")
    stride_in, variant = "1x1", "plain"
    feature_channels = 2048
    head_channels = {"aux": 1024, "main": 2048}

    def __init__(
        self,
        classes: int,
        depths: tuple[int, int, int, int] = (3, 4, 23, 3),
        norm: str = "batch_fixed_affine",
        aspp_branches: int = 2,
        head_rate: float = 10.0,
        stride_in: str = stride_in,
        aux: bool = True,
        variant: str = variant,
    ) -> None:
        super().__init__()
        self.head_rate = head_rate
        if not aux and "aux" not in self.levels:
            raise ConfigError("model.aux: this network has no auxiliary head to leave out")
        self.levels = tuple(level for level in self.levels if aux or level != "aux")
        self.backbone = ResNet(depths, lookup(NORMS, norm, "model.norm"), stride_in, variant=variant)
        dilations = _dilations(aspp_branches)
        channels = {k: n for k, n in self.head_channels.items() if aux or k != "aux"}
        self.heads = nn.LayerDict({k: PyramidHead(n, classes, dilations) for k, n in channels.items()})

    def features(self, image: Tensor) -> dict[str, Tensor]:
        stage3, stage4 = self.backbone(image)[2:]
        return {"aux": stage3, "main": stage4}

    def groups(self) -> list[ParamGroup]:
        """Backbone at the base learning rate, heads at `head_rate` times it.

        The originals walked all enclosing modules: they listed a tensor inside a block three times, one inside a
        block's downsample four times, the stem and the heads once.
        """
        parts: dict[int, list] = {1: [], 3: [], 4: []}
        for name, parameter in self.backbone.named_parameters():
            listings = 4 if "downsample" in name else 3 if name.startswith("layer") else 1
            parts[listings].append((name, parameter))
        backbone = [group("backbone", named, listings=n) for n, named in parts.items()]
        return [*backbone, group("heads", self.heads.named_parameters(), self.head_rate)]


class TwinDeepLabV2ResNet(DeepLabV2ResNet):
    """CLAN's network (Luo et al., CVPR 2019): two heads on stage 4; `main` is their sum, as CLAN evaluates."""

    levels = ("main", "first", "second")
    head_channels = {"first": 2048, "second": 2048}

    def features(self, image: Tensor) -> dict[str, Tensor]:
        stage4 = self.backbone(image)[-1]
        return {"first": stage4, "second": stage4}

    def classify(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = Segmenter.classify(self, features)  # Paddle 2.6 traces no super()
        return {"main": logits["first"] + logits["second"], **logits}


class DeepLabV2VGG16(Segmenter):
    """One head on a dilated VGG-16. AdaptSegNet trains all of it at one learning rate."""

    feature_channels = 1024

    def __init__(self, classes: int, aspp_branches: int = 2, head_rate: float = 1.0) -> None:
        super().__init__()
        self.head_rate = head_rate
        self.backbone = vgg16_features()
        self.heads = nn.LayerDict({"main": PyramidHead(1024, classes, _dilations(aspp_branches))})

    def features(self, image: Tensor) -> dict[str, Tensor]:
        return {"main": self.backbone(image)}

    def groups(self) -> list[ParamGroup]:
        return [
            group("backbone", self.backbone.named_parameters()),
            group("heads", self.heads.named_parameters(), self.head_rate),
        ]


def _dilations(branches: int) -> tuple[int, ...]:
    if branches not in (2, 4):
        raise ConfigError(f"model.aspp_branches must be 2 (released AdaptSegNet weights) or 4, not {branches}")
    return DILATIONS[:branches]

"""Any backbone with any head that fits: `{name: encode_decode, backbone: {name: mit_b5}, head: {name: daformer}}`.

A row of BACKBONES is a layer whose forward returns the features of its stages and whose `widths` are their channels;
further names are sizes of it. A row of HEADS is a layer from all stages to logits.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Optional

from paddle import Tensor, nn

from paddle_adaptseg.config.conversion import build
from paddle_adaptseg.config.schema import Component
from paddle_adaptseg.core.errors import ConfigError, suggest
from paddle_adaptseg.models.daformer import DAFormerHead
from paddle_adaptseg.models.dinov2 import DINOV2_SIZES, DINOv2
from paddle_adaptseg.models.light_head import LightHead
from paddle_adaptseg.models.mit import MIT_SIZES, MixTransformer
from paddle_adaptseg.models.segformer import SegFormerHead
from paddle_adaptseg.models.segmenter import ParamGroup, Segmenter, at_image_size, group

BACKBONES: MutableMapping[str, type[nn.Layer]] = {"mit": MixTransformer, "dinov2": DINOv2}
SIZES: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # name -> row of BACKBONES and its keywords
    **{name: ("mit", size) for name, size in MIT_SIZES.items()},
    **{name: ("dinov2", size) for name, size in DINOV2_SIZES.items()},
}
HEADS: MutableMapping[str, type[nn.Layer]] = {
    "segformer": SegFormerHead,
    "daformer": DAFormerHead,
    "light": LightHead,
}


def build_backbone(component: Component) -> nn.Layer:
    """The backbone that a configuration names, by a row of BACKBONES or one of its SIZES."""
    name, size = SIZES.get(component.name, (component.name, {}))
    if name not in BACKBONES:
        raise ConfigError(f"unknown model.backbone '{name}': {suggest(name, [*SIZES, *BACKBONES])}")
    return build(BACKBONES, name, {**size, **component.params}, "model.backbone")


class EncodeDecode(Segmenter):
    """A backbone and a head, named in the configuration.

    Parameter groups are those of mmsegmentation's recipes: the head, its norms too, at `head_rate`; the backbone at
    `backbone_rate`, and what has "norm" in its name there with `norm_decay` times the weight decay. With `layer_decay`
    a transformer's blocks learn the slower the earlier they are.
    """

    align_corners = False
    input_first = True

    def __init__(
        self,
        classes: int,
        backbone: Component,
        head: Component,
        head_rate: float = 10.0,
        backbone_rate: float = 1.0,
        norm_decay: float = 0.0,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__()
        self.rates = {"head": head_rate, "backbone": backbone_rate, "norm_decay": norm_decay, "layers": layer_decay}
        self.backbone, self.backbone_name = build_backbone(backbone), backbone.name
        widths = self.backbone.widths
        self.feature_channels = widths[-1]
        self.heads = nn.LayerDict(
            {"main": build(HEADS, head.name, head.params, "model.head", classes=classes, widths=widths)}
        )
        self.fixed_size = any(getattr(layer, "fixed_size", False) for layer in self.sublayers())
        if layer_decay != 1.0 and not hasattr(self.backbone, "blocks"):
            raise ConfigError(f"model.layer_decay: '{backbone.name}' has no single row of blocks: leave it out")

    def features(self, image: Tensor, kept: Optional[Tensor] = None) -> dict[str, Tensor]:
        """Every stage, the deepest as `main`; `kept` says which of a vision transformer's tokens are not masked."""
        if kept is not None:
            self.token_grid(*image.shape[2:])  # an error where it has none
        stages = self.backbone(image) if kept is None else self.backbone(image, kept)
        names = [*(f"stage{index + 1}" for index in range(len(stages) - 1)), "main"]
        return dict(zip(names, stages))

    def read(self, head: nn.Layer, features: dict[str, Tensor]) -> Tensor:
        return head(list(features.values()))

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        if not hasattr(self.backbone, "mask_token"):
            raise ConfigError(
                f"the tokens of '{self.backbone_name}' cannot be masked: it needs a backbone such as dinov2"
            )
        return self.backbone.grid(height, width)

    def classify(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"main": self.read(self.heads["main"], features)}

    def forward(
        self, image: Tensor, size: Optional[tuple[int, int]] = None, kept: Optional[Tensor] = None
    ) -> dict[str, Tensor]:
        logits = self.classify(self.features(image, kept))
        return at_image_size(logits, size or image.shape[2:], self.align_corners)

    def groups(self) -> list[ParamGroup]:
        rate, groups = self.rates["backbone"], []
        for depth, named in sorted(self._by_depth().items()):
            factor = rate * self.rates["layers"] ** depth
            norms = [item for item in named if "norm" in item[0]]
            others = [item for item in named if "norm" not in item[0]]
            suffix = f"_{depth}" if self.rates["layers"] != 1.0 else ""
            groups.append(group(f"backbone{suffix}", others, factor))
            groups.append(group(f"norms{suffix}", norms, factor, decay=self.rates["norm_decay"]))
        return [
            *filter(lambda g: g.parameters, groups),
            group("heads", self.heads.named_parameters(), self.rates["head"]),
        ]

    def _by_depth(self) -> dict[int, list[tuple[str, Tensor]]]:
        """The backbone's parameters by how many blocks lie between them and the head; all at 0 without layer_decay."""
        found: dict[int, list[tuple[str, Tensor]]] = {}
        blocks = len(self.backbone.blocks) if self.rates["layers"] != 1.0 else 0
        for name, parameter in self.backbone.named_parameters():
            parts = name.split(".")
            depth = blocks - 1 - int(parts[1]) if blocks and parts[0] == "blocks" else blocks
            found.setdefault(depth, []).append((name, parameter))
        return found

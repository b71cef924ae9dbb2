"""The contract of a segmentation network, the parameter groups it is trained in, and ensembles of networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional, Union

import numpy as np
from paddle import Tensor, nn

from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.models.layers import resize


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share factors on learning rate and weight decay.

    `listings`: how often the 2018 originals listed, and so updated, each of them.
    """

    name: str
    parameters: tuple[Tensor, ...]
    lr_factor: float = 1.0
    listings: int = 1
    decay: float = 1.0


class Box(NamedTuple):
    """A part of an image: rows from `top` to before `bottom`, columns from `left` to before `right`."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    def of(self, x: Tensor) -> Tensor:
        """This part of maps [..., H, W]."""
        return x[..., self.top : self.bottom, self.left : self.right]


class Outputs(dict[str, Tensor]):
    """Logits by level, and the `boxes` of those levels that cover only a part of the image."""

    def __init__(self, logits: Mapping[str, Tensor], boxes: Mapping[str, Box]) -> None:
        super().__init__(logits)
        self.boxes = boxes


def at_image_size(logits: Mapping[str, Tensor], size: Sequence[int], align_corners: bool = True) -> dict[str, Tensor]:
    """Every level at the size of the part of an image (height, width) that it covers."""
    boxes = logits.boxes if isinstance(logits, Outputs) else {}
    sizes = {level: boxes[level].size if level in boxes else size for level in logits}
    return Outputs({level: resize(x, sizes[level], align_corners) for level, x in logits.items()}, boxes)


class Segmenter(nn.Layer):
    """`model(image) -> {"main": logits[, "aux": logits]}` at image size, or at `size` (height, width) when given."""

    levels: tuple[str, ...] = ("main",)
    align_corners = True  # how its logits are resized; the mmsegmentation family of networks says False
    input_first = False  # whether logits are resized to the input before the image's own size (mmsegmentation)
    fixed_size = False  # whether a program of it, once exported, takes images of one size only
    feature_channels: int  # of features()["main"]
    heads: nn.LayerDict
    cropped: tuple[str, ...] = ()  # levels that in training cover only a part of the image: see random_box()

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """What each head reads, by the head's name."""
        raise NotImplementedError

    def last_stage(self, features: dict[str, Tensor]) -> Tensor:
        """The backbone's deepest features [N, C, h, w]."""
        return features["main"]

    def compared(self, features: dict[str, Tensor]) -> list[tuple[Tensor, Optional[Box]]]:
        """The deepest features, each with the part of the image that they are of (None: all of it)."""
        return [(self.last_stage(features), None)]

    def deepest(self, image: Tensor, box: Optional[Box]) -> Tensor:
        """The same as one row of compared(), of an image that has not been computed yet."""
        return self.last_stage(self.features(image))

    def random_box(self, size: Sequence[int], rng: np.random.Generator) -> Optional[Box]:
        """The part of images (height, width) that one training pass also sees in detail; None: it needs no such part.

        A network that returns a box takes it as `box` in features(), logits() and its call.
        """
        return None

    def read(self, head: nn.Layer, features: dict[str, Tensor]) -> Tensor:
        """What a head like `main` makes of features."""
        return head(features["main"])

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch tokens that it can mask in an image: `model(image, kept=...)`."""
        raise ConfigError(f"the tokens of {type(self).__name__} cannot be masked: it needs a backbone such as dinov2")

    def classify(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits of every level at the network's own resolution."""
        return {level: head(features[level]) for level, head in self.heads.items()}

    def logits(self, image: Tensor) -> dict[str, Tensor]:
        """Logits of every level at the network's own resolution."""
        return self.classify(self.features(image))

    def forward(self, image: Tensor, size: Optional[tuple[int, int]] = None) -> dict[str, Tensor]:
        return at_image_size(self.logits(image), size or image.shape[2:], self.align_corners)

    def main(self, image: Tensor) -> Tensor:
        """Logits of `main` at image size."""
        return resize(self.logits(image)["main"], image.shape[2:], self.align_corners)

    def groups(self) -> list[ParamGroup]:
        """Every trainable parameter in exactly one group."""
        return [group("all", self.named_parameters())]


def group(
    name: str, named: Iterable[tuple[str, Tensor]], lr_factor: float = 1.0, listings: int = 1, decay: float = 1.0
) -> ParamGroup:
    """A group of the trainable ones among `named` parameters."""
    return ParamGroup(name, tuple(p for _, p in named if not p.stop_gradient), lr_factor, listings, decay)


class Ensemble(nn.Layer):
    """Members must predict the same classes; weights need not sum to 1. evaluation.predictor does the averaging."""

    def __init__(self, members: Sequence[Segmenter], weights: Sequence[float] = ()) -> None:
        super().__init__()
        weights = list(weights) or [1.0] * len(members)
        if len(weights) != len(members) or min(weights) < 0 or sum(weights) <= 0:
            raise ConfigError(f"{len(members)} models need as many weights of 0 or more, not {weights}")
        self.members = nn.LayerList(list(members))
        self.weights = [w / sum(weights) for w in weights]


Network = Union[Segmenter, Ensemble]  # what can predict

"""HRDA (Hoyer et al., ECCV 2022): a network that sees all of an image at half its size and a part of it in detail.

`hrda` wraps any network with one head. The context is the whole image at half its size. In training one random crop
at full size is the detail; teachers and predictions see the detail of the whole image in overlapping windows. An
attention, computed from the context, says for every pixel (and class) how much the detail counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Optional

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_adaptseg.config.schema import Component
from paddle_adaptseg.core.errors import ConfigError, suggest
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.layers import resize, with_zeros
from paddle_adaptseg.models.segmenter import Box, Outputs, ParamGroup, Segmenter, at_image_size

COMPARED = ("context", "all")
UNFIT = {"hrda": "itself", "paddleseg": "a network of PaddleSeg, whose logits have the image's size"}
LEAST = 64  # of an image's sides; of its half a Mix Transformer can make nothing smaller


class Scales(dict[str, Tensor]):
    """The context's features by name; beside them the image, the box and the features of its detail, if it has one."""

    def __init__(self, context: dict[str, Tensor], image: Tensor, box: Optional[Box], detail: dict[str, Tensor]):
        super().__init__(context)
        self.image, self.box, self.detail = image, box, detail


class HRDA(Segmenter):
    """A network on the image at half its size and on a part of it in detail, joined by scale attention.

    Levels: `main` is both, `context` what the context adds to it, `detail` that of the crop or of all windows. `crop`
    is the size (width, height) of crop and windows; `classwise`: each class has an attention of its own; `compare`:
    what feature distance looks at, the context or all scales; `detail_batch`: windows computed at once (0: all).
    """

    levels = ("main", "context", "detail")
    cropped = ("detail",)
    fixed_size = True

    def __init__(
        self,
        classes: int,
        network: Component,
        crop: tuple[int, int] = (512, 512),
        divisible: int = 8,
        classwise: bool = True,
        attention_width: int = 256,
        compare: str = "context",
        detail_batch: int = 0,
    ) -> None:
        super().__init__()
        check_keywords(network, crop, divisible, compare, detail_batch)
        self.network = build_model(network, classes)
        if self.network.levels != ("main",):
            names = ", ".join(self.network.levels)
            raise ConfigError(f"model.network: hrda needs a network with one head, not {names} (aux: false)")
        outputs, main = classes if classwise else 1, self.network.heads["main"]
        channels = self.feature_channels = self.network.feature_channels
        self.align_corners, self.input_first = self.network.align_corners, self.network.input_first
        self.attention = (
            main.like(outputs, attention_width) if hasattr(main, "like") else nn.Conv2D(channels, outputs, 1)
        )
        self.window, self.divisible = (crop[1], crop[0]), divisible
        self.compare, self.detail_batch = compare, detail_batch

    def random_box(self, size: Sequence[int], rng: np.random.Generator) -> Box:
        """A crop of the image; as in the original the last offset never occurs."""
        window = [min(own, whole) for own, whole in zip(self.window, size)]
        places = [max(1, (whole - own + 1) // self.divisible) for own, whole in zip(window, size)]
        top, left = (int(rng.integers(0, count)) * self.divisible for count in places)
        return Box(top, top + window[0], left, left + window[1])

    def features(self, image: Tensor, box: Optional[Box] = None) -> Scales:
        context = self.network.features(halved(image))
        detail = {} if box is None else self.network.features(box.of(image))
        return Scales(context, image, box, detail)

    def last_stage(self, features: dict[str, Tensor]) -> Tensor:
        return self.network.last_stage(features)

    def compared(self, features: dict[str, Tensor]) -> list[tuple[Tensor, Optional[Box]]]:
        assert isinstance(features, Scales)
        context: list[tuple[Tensor, Optional[Box]]] = [(self.last_stage(features), None)]
        if self.compare == "context":
            return context
        if features.box is None:
            raise ConfigError("model.compare=all needs a method that trains on detail crops")
        return [*context, (self.last_stage(features.detail), features.box)]

    def deepest(self, image: Tensor, box: Optional[Box]) -> Tensor:
        return self.last_stage(self.network.features(halved(image) if box is None else box.of(image)))

    def classify(self, features: dict[str, Tensor]) -> Outputs:
        """Logits of every level at the network's own resolution."""
        assert isinstance(features, Scales)
        image, box = features.image, features.box
        context = self.network.classify(dict(features))["main"]
        attention = self.scale_attention(features)
        if box is None:
            detail, step = self.stitched(image)
        else:
            detail = self.network.classify(features.detail)["main"]
            step = stride(box.size, detail)
            detail = self.on_grid(detail, box, step)
        return fuse(context, attention, detail, box, image.shape[2:], step, self.align_corners)

    def scale_attention(self, features: Scales) -> Tensor:
        """How much the detail counts, from 0 to 1, on the context's grid [N, classes or 1, h, w]."""
        return F.sigmoid(self.network.read(self.attention, dict(features)))

    def logits(self, image: Tensor, box: Optional[Box] = None) -> Outputs:
        return self.classify(self.features(image, box))

    def forward(
        self, image: Tensor, size: Optional[tuple[int, int]] = None, box: Optional[Box] = None
    ) -> dict[str, Tensor]:
        return at_image_size(self.logits(image, box), size or image.shape[2:], self.align_corners)

    def stitched(self, image: Tensor) -> tuple[Tensor, int]:
        """The mean of overlapping detail windows' logits on the detail's grid, and its stride in pixels."""
        size, count = list(image.shape[2:]), image.shape[0]
        boxes = list(windows(size, self.window))
        parts: list[Tensor] = []
        for group in batches(boxes, self.detail_batch):
            found = self.network.logits(paddle.concat([box.of(image) for box in group]))["main"]
            parts += [found[i * count : (i + 1) * count] for i in range(len(group))]
        step = stride(boxes[0].size, parts[0])
        grid, total = [n // step for n in size], 0.0
        times = np.zeros([1, 1, *grid], np.float32)
        for box, part in zip(boxes, parts):
            part = self.on_grid(part, box, step)
            total = total + placed(part, box, grid, step)
            rows, columns = box.top // step, box.left // step
            times[:, :, rows : rows + part.shape[2], columns : columns + part.shape[3]] += 1
        return total * paddle.to_tensor(1.0 / times), step

    def on_grid(self, logits: Tensor, box: Box, step: int) -> Tensor:
        """Logits of a part of the image on the grid of one value for every `step` pixels; most networks give those."""
        size = [box.bottom // step - box.top // step, box.right // step - box.left // step]
        return resize(logits, size, self.align_corners)

    def groups(self) -> list[ParamGroup]:
        """The network's, with the attention among its head's."""
        head, own = self.network.heads["main"].parameters(), self.attention.parameters()
        own = tuple(p for p in own if not p.stop_gradient)
        groups, first = self.network.groups(), {id(p) for p in head}
        index = next(i for i, g in enumerate(groups) if any(id(p) in first for p in g.parameters))
        groups[index] = dataclasses.replace(groups[index], parameters=(*groups[index].parameters, *own))
        return groups


def check_keywords(network: Component, crop: Sequence[int], divisible: int, compare: str, detail_batch: int) -> None:
    """Refuse values that mean nothing."""
    if network.name in UNFIT:
        raise ConfigError(
            f"model.network: hrda cannot wrap {UNFIT[network.name]}: name a network such as encode_decode"
        )
    if min(crop) < 32 or divisible < 1 or detail_batch < 0:
        raise ConfigError(
            f"model: crop must be [width, height] of at least 32, divisible 1 or more and detail_batch 0 or more, "
            f"not {list(crop)}, {divisible}, {detail_batch}"
        )
    if compare not in COMPARED:
        raise ConfigError(f"model.compare: unknown '{compare}': {suggest(compare, COMPARED)}")


def halved(image: Tensor) -> Tensor:
    """Bilinear at half the size: the mean of two by two pixels. A last odd row or column is left out."""
    if min(image.shape[2:]) < LEAST:
        raise ConfigError(
            f"hrda sees images at half their size and needs sides of {LEAST} or more: this one is "
            f"{image.shape[3]}x{image.shape[2]}"
        )
    return F.avg_pool2d(image, 2)


def windows(size: Sequence[int], window: Sequence[int]) -> Iterator[Box]:
    """Windows (height, width) that overlap by half; the last ones are shifted inwards."""
    for top, bottom in spans(size[0], window[0]):
        for left, right in spans(size[1], window[1]):
            yield Box(top, bottom, left, right)


def spans(length: int, window: int) -> list[tuple[int, int]]:
    """Where windows of one axis begin and end."""
    window = min(window, length)
    step = max(1, window // 2)
    starts = [min(start, length - window) for start in range(0, max(1, length - window + step), step)]
    return [(start, start + window) for start in dict.fromkeys(starts)]


def batches(boxes: Sequence[Box], count: int) -> Iterator[Sequence[Box]]:
    """Boxes in groups of `count`; 0: all at once."""
    count = count or len(boxes)
    for first in range(0, len(boxes), count):
        yield boxes[first : first + count]


def stride(size: Sequence[int], logits: Tensor) -> int:
    """How many pixels of an image (height, width) each of its logits stands for: a power of two."""
    return 2 ** max(0, round(math.log2(size[0] / logits.shape[2])))


def placed(part: Tensor, box: Box, grid: Sequence[int], step: int) -> Tensor:
    """Logits of a part of the image among zeros on the grid of the whole."""
    top, left = box.top // step, box.left // step
    return with_zeros(part, left, grid[1] - left - part.shape[3], top, grid[0] - top - part.shape[2])


def fuse(
    context: Tensor, attention: Tensor, detail: Tensor, box: Optional[Box], size: Sequence[int], step: int, align: bool
) -> Outputs:
    """Detail where the attention says so, else context; outside the box only context.

    The attention is masked before it is enlarged, so that the border of the box blends.
    """
    grid, boxes = [n // step for n in size], {}
    if box is not None:
        mask = np.zeros([1, 1, *context.shape[2:]], np.float32)
        coarse = 2 * step
        mask[:, :, box.top // coarse : box.bottom // coarse, box.left // coarse : box.right // coarse] = 1.0
        attention, boxes = attention * paddle.to_tensor(mask), {"detail": box}
    shared = (1.0 - attention) * context
    inserted = detail if box is None else placed(detail, box, grid, step)
    fused = resize(attention, grid, align) * inserted + resize(shared, grid, align)
    return Outputs({"main": fused, "context": shared, "detail": detail}, boxes)

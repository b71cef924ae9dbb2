"""Mean teachers (Tarvainen and Valpola, NeurIPS 2017) and the labels that they give to unlabelled images.

All of it runs on the device: a parameter's average is one operation in its own memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core import distributed
from paddle_adaptseg.core.errors import ConfigError, suggest
from paddle_adaptseg.core.labels import IGNORE
from paddle_adaptseg.data.batch import Batch, Borders
from paddle_adaptseg.methods.padding import blanked
from paddle_adaptseg.methods.views import check_views, predicted
from paddle_adaptseg.models.segmenter import Segmenter

NORMS = (nn.layer.norm._BatchNormBase, nn.SyncBatchNorm)
PARTS, MODES = ("norms", "dropout"), ("train", "eval")
WEIGHTS, UPDATES = ("batch", "image", "pixel"), ("before", "after")


@dataclass(frozen=True)
class Teacher:
    """How a teacher follows the student. The defaults are DAFormer's; `ramp` 0 always takes `decay`.

    `modes` says whether its batch norm takes the batch's statistics (train) and whether its dropout acts (train).
    """

    decay: float = 0.999
    ramp: int = 1  # the decay is at most 1 - 1 / (step + ramp)
    update: str = "before"  # the step, or after it
    modes: Mapping[str, str] = field(default_factory=dict)  # norms: train, dropout: eval

    def check(self, path: str) -> Teacher:
        """Refuse values that mean nothing."""
        if not 0 <= self.decay <= 1 or self.ramp < 0:
            raise ConfigError(
                f"{path}: decay must be between 0 and 1 and ramp 0 or more, not {self.decay}, {self.ramp}"
            )
        if self.update not in UPDATES:
            raise ConfigError(f"{path}.update must be before or after (the step), not '{self.update}'")
        for part, mode in self.modes.items():
            if part not in PARTS or mode not in MODES:
                raise ConfigError(
                    f"{path}.modes: '{part}: {mode}' is unknown: {suggest(part, PARTS)}, each train or eval"
                )
        return self

    def factor(self, step: int) -> float:
        """How much of the old teacher stays in the update of a step."""
        return self.decay if self.ramp == 0 else max(0.0, min(1.0 - 1.0 / max(1, step + self.ramp), self.decay))

    def set_modes(self, network: nn.Layer) -> None:
        """Training or evaluation mode for every layer of the teacher."""
        modes = {"norms": "train", "dropout": "eval", **self.modes}
        for layer in network.sublayers(include_self=True):
            layer.training = modes["norms" if isinstance(layer, NORMS) else "dropout"] == "train"


def copy_network(source: nn.Layer, target: nn.Layer) -> None:
    """Copy every parameter and buffer."""
    tensors = target.state_dict()
    for name, tensor in source.state_dict().items():
        paddle.assign(tensor.detach(), output=tensors[name])


def averaged(network: nn.Layer) -> list[Tensor]:
    """The parameters that a teacher averages: all but running statistics, which Paddle counts among the parameters."""
    norms = [layer for layer in network.sublayers(include_self=True) if isinstance(layer, NORMS)]
    statistics = {id(t) for norm in norms for t in (norm._mean, norm._variance)}
    return [p for p in network.parameters() if id(p) not in statistics]


@paddle.no_grad()
def update_average(teacher: nn.Layer, student: nn.Layer, factor: float) -> None:
    """teacher = factor * teacher + (1 - factor) * student; running statistics stay, as in the originals."""
    weight = paddle.full([], 1.0 - factor)
    for old, new in zip(averaged(teacher), averaged(student)):
        if factor == 0.0:
            paddle.assign(new.detach(), output=old)
        else:
            # flat views: with as many dimensions as a convolution's kernel Paddle takes six times as long on a CPU
            old.reshape([-1]).lerp_(new.detach().reshape([-1]), weight.astype(old.dtype))


def freeze(network: Segmenter) -> Segmenter:
    """A network that no optimiser trains."""
    for parameter in network.parameters():
        parameter.stop_gradient = True
    return network


DEFAULT_TEACHER = Teacher()


@dataclass(frozen=True)
class PseudoLabels:
    """From a teacher's logits to labels and weights. Every pixel gets a label; its weight says how much it counts.

    `weight`: the share of sure pixels, one number for the batch (the originals) or for each image, or 1 for sure
    pixels and 0 for others. `margins` (top, bottom, left, right) weigh 0: rows, or shares of the image below 1; those
    of the picture that it was cut from are `data.target_margins`. `views`: [plain, mirror] averages both (VFM-UDA);
    `surest`: 1 takes of each image only the view of the least entropy, 0 all.
    """

    threshold: float = 0.968
    weight: str = "batch"
    margins: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    views: tuple[str, ...] = ("plain",)
    surest: int = 0

    def check(self, path: str) -> PseudoLabels:
        """Refuse values that mean nothing."""
        if self.weight not in WEIGHTS:
            raise ConfigError(f"{path}.weight: unknown kind '{self.weight}': {suggest(self.weight, WEIGHTS)}")
        if any(m < 0 or (m >= 1 and m != int(m)) for m in self.margins):
            raise ConfigError(f"{path}.margins must be whole rows or shares below 1, not {list(self.margins)}")
        check_views(self.views, self.surest, path)
        return self


DEFAULT_PSEUDO_LABELS = PseudoLabels()


class Pseudo(NamedTuple):
    """Labels [N, H, W] int64, what each pixel counts [N, H, W] float32, and the mean weight before margins."""

    label: Tensor
    weight: Tensor
    share: Tensor


@paddle.no_grad()
def labels_of(p: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The most probable class [N, H, W] int64 and whether its probability reaches the threshold [N, H, W] float32."""
    return p.argmax(axis=1), (p.max(axis=1) >= threshold).astype("float32")


def pixel_weights(sure: Tensor, kind: str, valid: Tensor, share: Optional[Tensor] = None) -> Tensor:
    """What each valid pixel counts [N, H, W]; `share` is that of the common batch, where that is more than this."""
    if kind == "pixel":
        return sure * valid
    if kind == "image":
        share = (sure * valid).sum(axis=[1, 2], keepdim=True) / valid.sum(axis=[1, 2], keepdim=True)
    return valid * (common_share([sure], [valid]) if share is None else share)


def without_margins(weight: Tensor, margins: Sequence[float]) -> Tensor:
    """The weights with 0 in the margins (top, bottom, left, right)."""
    if not any(margins):
        return weight
    height, width = weight.shape[1:]
    top, bottom, left, right = (
        int(m * n) if m < 1 else int(m) for m, n in zip(margins, (height, height, width, width))
    )
    inside = paddle.ones([1, max(0, height - top - bottom), max(0, width - left - right)], weight.dtype)
    if 0 in inside.shape:
        return paddle.zeros_like(weight)
    return weight * paddle.nn.functional.pad(inside.unsqueeze(0), [left, right, top, bottom]).squeeze(0)


def without_borders(weight: Tensor, borders: Borders) -> Tensor:
    """The weights with 0 in the borders of each image."""
    if borders is None:
        return weight
    return paddle.concat([without_margins(weight[i : i + 1], border) for i, border in enumerate(borders)])


def common_share(sure: Sequence[Tensor], valid: Sequence[Tensor]) -> Tensor:
    """The share of sure pixels among the valid ones [N, H, W] of all parts of a step and of all processes."""
    found, count = (paddle.stack([part.sum() for part in parts]).sum() for parts in (
        [s * v for s, v in zip(sure, valid)], valid))  # fmt: skip
    if distributed.world() == 1:
        return found / count
    found, count = distributed.sum_on_device(paddle.stack([found, count])).unbind()
    return (found / count).astype("float32")


class MeanTeacher(nn.Layer):
    """A network that follows a student and labels the target for it. All of it is in the state of its method."""

    def __init__(self, network: Segmenter, follows: Teacher, rule: PseudoLabels, pixels: Pixels) -> None:
        super().__init__()
        self.network, self.follows, self.rule, self.pixels = freeze(network), follows, rule, pixels
        self.found: dict[int, Pseudo] = {}

    def set_modes(self) -> None:
        """Training or evaluation mode of its layers."""
        self.follows.set_modes(self.network)

    def before_step(self, student: Segmenter, batches: Sequence[Batch], step: int, labels: bool) -> None:
        """Follow, where that comes first, and where asked label all parts of a step.

        The share of sure pixels is that of all parts and processes, so that many small batches equal a large one.
        Padding has no label and counts for nothing.
        """
        self.found.clear()
        if self.follows.update == "before":
            update_average(self.network, student, self.follows.factor(step))
        if not labels:
            return
        with paddle.no_grad():
            valid = [blanked(paddle.ones_like(batch.target_image)[:, :1], batch.target_areas).squeeze(1)
                     for batch in batches]  # fmt: skip
            seen = [labels_of(self.probability(batch.target_image, shown), self.rule.threshold)
                    for batch, shown in zip(batches, valid)]  # fmt: skip
            share = common_share([sure for _, sure in seen], valid) if self.rule.weight == "batch" else None
            for batch, (label, sure), shown in zip(batches, seen, valid):
                label = paddle.where(shown > 0, label, paddle.full_like(label, IGNORE))
                weight = pixel_weights(sure, self.rule.weight, shown, share)
                mean = weight.sum() / shown.sum()
                weight = without_borders(without_margins(weight, self.rule.margins), batch.target_borders)
                self.found[id(batch)] = Pseudo(label, weight, mean)

    @paddle.no_grad()
    def probability(self, image: Tensor, valid: Optional[Tensor] = None) -> Tensor:
        """Class probabilities [N, C, H, W] of the views."""
        return predicted(self.network, image, self.pixels, self.rule.views, self.rule.surest, valid)

    def labels(self, batch: Batch) -> Pseudo:
        """The pseudo-labels of a batch of this step."""
        return self.found[id(batch)]

    def after_step(self, student: Segmenter, step: int) -> None:
        """Follow, where that comes last."""
        if self.follows.update == "after":
            update_average(self.network, student, self.follows.factor(step))

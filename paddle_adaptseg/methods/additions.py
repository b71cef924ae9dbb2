"""What adds to any method, as values of its configuration: masked consistency here, feature distance beside it.

An addition has the hooks of a method (loaded, before_step, losses, after_step) and source_terms(), whose terms join
those of the source. It trains nothing of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core import distributed
from paddle_adaptseg.core.errors import ConfigError, suggest
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods.augment import DEFAULT_AUGMENT, Strong
from paddle_adaptseg.methods.base import Clock, Method, Ramp, Term, Terms
from paddle_adaptseg.methods.choices import MASKED_COLOURS, Choices, positions
from paddle_adaptseg.methods.losses import level_loss
from paddle_adaptseg.methods.mixing import block_grid, block_mask
from paddle_adaptseg.methods.teacher import (
    DEFAULT_PSEUDO_LABELS,
    DEFAULT_TEACHER,
    MeanTeacher,
    PseudoLabels,
    Teacher,
    copy_network,
)
from paddle_adaptseg.models.segmenter import Segmenter

IMAGES, MASKS = ("target", "source", "one_of_each"), ("blocks", "tokens")


class Addition(nn.Layer):
    """Base of additions. `host` is the method that it adds to."""

    unsaved_parts: tuple[str, ...] = ()

    def attach(self, host: Method) -> None:
        """Called once by the builder; a tuple, because a layer would become a part of this one."""
        self._host = (host,)

    @property
    def host(self) -> Any:
        return self._host[0]

    def set_modes(self) -> None:
        """Training or evaluation mode of its networks."""

    def loaded(self) -> None:
        """As Method.loaded()."""

    def before_step(self, batches: Sequence[Batch], clock: Clock) -> None:
        """As Method.before_step(), after the method's own."""

    def source_terms(self, features: Sequence, batch: Batch, clock: Clock) -> Terms:
        """Terms that join the source's, from the features that the segmenter has just computed of its image."""
        return {}

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        """Further groups of terms."""
        yield from ()

    def after_step(self, clock: Clock) -> None:
        """As Method.after_step()."""


class MaskedConsistency(Addition):
    """MIC (Hoyer et al., CVPR 2023): where blocks are masked the network predicts what a teacher sees without masks.

    Without a `teacher` and `pseudo_labels` of its own it takes those of the method. `images`: target; source, with its
    labels; or one_of_each, the first of both in the common batch of all processes and parts of a step. `mask`: blocks
    of pixels are set to 0, or a vision transformer sees its mask token in place of patches (VFM-UDA).
    """

    def __init__(
        self, make_segmenter: Callable[..., Segmenter], pixels: Pixels, seed: int,
        weights: Optional[dict[str, float]] = None, ratio: float = 0.7, block: int = 64, images: str = "target",
        teacher: Optional[Teacher] = None, pseudo_labels: Optional[PseudoLabels] = None,
        augment: Optional[Strong] = DEFAULT_AUGMENT, ramp: Optional[Ramp] = None, mask: str = "blocks",
    ) -> None:  # fmt: skip
        super().__init__()
        if images not in IMAGES:
            raise ConfigError(f"method.masked.images: unknown '{images}': {suggest(images, IMAGES)}")
        if mask not in MASKS:
            raise ConfigError(f"method.masked.mask: unknown '{mask}': {suggest(mask, MASKS)}")
        if not 0 <= ratio < 1 or block < 1:
            raise ConfigError(f"method.masked: ratio must be from 0 to below 1 and block above 0, not {ratio}, {block}")
        self.weights, self.ratio, self.block, self.images = weights or {"main": 1.0}, ratio, block, images
        self.mask = mask
        self.strong = None if augment is None else augment.check("method.masked.augment")
        self.pixels, self.ramp, self.choices = pixels, ramp or Ramp(), Choices(seed)
        self.own = teacher is not None or pseudo_labels is not None
        self._make = lambda: (make_segmenter(), teacher, pseudo_labels)
        self._batches: tuple[Batch, ...] = ()  # the parts of this step

    def attach(self, host: Method) -> None:
        super().attach(host)
        self.weights = host.check_levels(self.weights, "method.masked.weights")
        if self.mask == "tokens":
            host.segmenter.token_grid(host.least_size, host.least_size)  # an error where it has none
        if self.images != "target" and not host.uses_source:
            raise ConfigError(f"method.masked.images={self.images} masks source images, but this method reads none")
        its = getattr(host, "teacher", None)
        its = its if isinstance(its, MeanTeacher) else None
        if self.own:
            network, follows, rule = self._make()
            follows = (follows or (its.follows if its else DEFAULT_TEACHER)).check("method.masked.teacher")
            rule = (rule or (its.rule if its else DEFAULT_PSEUDO_LABELS)).check("method.masked.pseudo_labels")
            self.teacher = MeanTeacher(network, follows, rule, self.pixels)
        elif its is None and self.images != "source":
            raise ConfigError("method.masked.teacher is missing: this method has none of its own; {} is that of MIC")

    def factor(self, clock: Clock) -> float:
        """What its terms weigh in a step: nothing before the method's own teacher labels anything."""
        others = 1.0 if self.own or self.images == "source" else self.host.ramp(clock.step)
        return self.ramp(clock.step) * others

    def set_modes(self) -> None:
        if self.own:
            self.teacher.set_modes()

    def loaded(self) -> None:
        if self.own:
            copy_network(self.host.segmenter, self.teacher.network)

    def before_step(self, batches: Sequence[Batch], clock: Clock) -> None:
        self._batches = tuple(batches)
        if self.own:
            self.teacher.before_step(self.host.segmenter, batches, clock.step, self.factor(clock) > 0)

    def after_step(self, clock: Clock) -> None:
        if self.own:
            self.teacher.after_step(self.host.segmenter, clock.step)

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        factor = self.factor(clock)
        count = None
        if self.images == "one_of_each":
            if batch is not self._batches[0]:
                return
            factor *= len(self._batches)  # every part counts for its share of the step, but only the first is here
            count = paddle.full([], 1.0 if distributed.is_rank_zero() else 0.0)  # it holds the common batch's first
        if factor == 0.0:
            return
        image, label, weight, keys = self.masked_batch(batch, clock)
        places = [key for _, key in keys]
        image = self.choices.coloured(image, self.strong, self.pixels, MASKED_COLOURS, places, clock)
        logits = self.predict(image, keys, self.host.crop(image, clock, "masked"))
        yield {
            f"masked_{level}": Term(level_loss(logits, level, label, weight), share * factor, count)
            for level, share in self.weights.items()
        }

    def predict(self, image: Tensor, keys: Sequence[tuple[int, int]], crop: dict[str, Any]) -> dict[str, Tensor]:
        """The student's logits of images of which it does not see everything."""
        student, size = self.host.segmenter, image.shape[2:]
        if self.mask == "tokens":
            kept = self.choices.blocks(keys, student.token_grid(*size), self.ratio)
            return student(image, kept=paddle.to_tensor(kept.astype("float32")), **crop)
        kept = self.choices.blocks(keys, block_grid(size, self.block), self.ratio)
        return student(image * block_mask(kept, size), **crop)

    def masked_batch(
        self, batch: Batch, clock: Clock
    ) -> tuple[Tensor, Tensor, Optional[Tensor], list[tuple[int, int]]]:
        """Images, labels and weights before masking, and what the random choices of each are keyed by."""
        keys = positions(batch, clock)
        if self.images == "source":
            return batch.source_image, batch.source_label, None, [(0, key) for key in keys]
        pseudo = (self if self.own else self.host).teacher.labels(batch)
        assert batch.target_image is not None
        if self.images == "target":
            return batch.target_image, pseudo.label, pseudo.weight, [(1, key) for key in keys]
        image = paddle.concat([batch.source_image[:1], batch.target_image[:1]])
        label = paddle.concat([batch.source_label[:1], pseudo.label[:1]])
        weight = paddle.concat([paddle.ones_like(pseudo.weight[:1]), pseudo.weight[:1]])
        return image, label, weight, [(0, keys[0]), (1, keys[0])]


def class_indices(classes: Sequence[str], names: Sequence[str], path: str) -> list[int]:
    """Indices of classes that a configuration names or numbers."""
    known = {**{str(i): i for i in range(len(names))}, **{name: i for i, name in enumerate(names)}}
    for name in classes:
        if str(name) not in known:
            raise ConfigError(f"{path}: unknown class '{name}': {suggest(str(name), names)}")
    return [known[str(name)] for name in classes]

"""Self-training with a mean teacher: DACS (Tranheden et al., WACV 2021) and DAFormer's step (Hoyer et al., CVPR 2022).

A teacher labels the target; the student learns from the source and from images in which half of the source's classes
are pasted into the target. What differs between the papers are values; docs/methods.md says what each is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Callable, Optional

import paddle
from paddle import Tensor

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core import distributed
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.labels import IGNORE
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods.augment import DEFAULT_AUGMENT, Strong, mirror
from paddle_adaptseg.methods.base import Clock, Ramp, Term, Terms
from paddle_adaptseg.methods.choices import COLOURS, WEAK_SOURCE, WEAK_TARGET, Choices, positions
from paddle_adaptseg.methods.losses import MEANS, covered, labelled, level_loss
from paddle_adaptseg.methods.mixing import VALUES, choose_half, paste, pasted_pixels, present_values
from paddle_adaptseg.methods.readings import Balance, distance
from paddle_adaptseg.methods.taught import EVALUATED, Taught
from paddle_adaptseg.methods.teacher import DEFAULT_PSEUDO_LABELS, DEFAULT_TEACHER, MeanTeacher, PseudoLabels, Teacher
from paddle_adaptseg.models.segmenter import Segmenter

MIXES, ORIGINS = ("classmix", "none"), ("batch", "image")


class SelfTraining(Taught):
    """A mean teacher labels the target for the student; the defaults are DAFormer's step."""

    def __init__(
        self, segmenter: Segmenter, make_segmenter: Callable[..., Segmenter], pixels: Pixels, seed: int,
        names: Sequence[str], seg_weights: dict[str, float], weights: dict[str, float],
        teacher: Teacher = DEFAULT_TEACHER, pseudo_labels: PseudoLabels = DEFAULT_PSEUDO_LABELS,
        mix: str = "classmix", classes_from: str = "batch", source_mean: str = "all",
        augment: Optional[Strong] = DEFAULT_AUGMENT, evaluate: str = "student", ramp: Optional[Ramp] = None,
        weak: Optional[Strong] = None,
    ) -> None:  # fmt: skip
        super().__init__(segmenter, seg_weights)
        self.weights = self.check_levels(weights, "method.weights")
        self.check_words(mix=(mix, MIXES), classes_from=(classes_from, ORIGINS), source_mean=(source_mean, MEANS),
                         evaluate=(evaluate, EVALUATED))  # fmt: skip
        follows, rule = teacher.check("method.teacher"), pseudo_labels.check("method.pseudo_labels")
        self.teacher = MeanTeacher(make_segmenter(), follows, rule, pixels)
        self.strong = None if augment is None else augment.check("method.augment")
        self.weak = None if weak is None else weak.check("method.weak")
        self.mix, self.classes_from, self.source_mean, self.evaluated = mix, classes_from, source_mean, evaluate
        self.pixels, self.ramp, self.choices = pixels, ramp or Ramp(), Choices(seed)
        self.balance = Balance(names)
        self.common_values = paddle.zeros([1, VALUES])  # which label values occur in the common batch

    def before_step(self, batches: Sequence[Batch], clock: Clock) -> None:
        active = self.ramp(clock.step) > 0
        for batch in batches if active else ():
            check_sizes(batch)
        self.teacher.before_step(self.segmenter, batches, clock.step, active)
        if not active:
            return
        sources = [batch.source_label for batch in batches]
        self.balance.add(sources, [self.teacher.labels(batch).label for batch in batches])
        if self.mix == "classmix" and self.classes_from == "batch":
            self.common_values = common_values(sources)

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        source = self.weakly(batch.source_image, WEAK_SOURCE, batch, clock)
        yield self.seg_terms(self.segmenter(source, **self.crop(source, clock, "source")), batch, clock)
        factor = self.ramp(clock.step)
        if factor == 0.0:
            return
        image, label, weight, pasted = self.mixed(batch, clock)
        logits = self.segmenter(image, **self.crop(image, clock, "mixed"))
        self.observe_pseudo(batch, logits["main"], label, pasted, clock)
        yield {
            f"mix_{level}": Term(level_loss(logits, level, label, weight), share * factor)
            for level, share in self.weights.items()
        }

    def seg_terms(self, logits: Mapping[str, Tensor], batch: Batch, clock: Clock) -> Terms:
        """Cross entropy on the source, averaged over all pixels (DAFormer) or over the labelled ones (DACS)."""
        self.observe_source(logits["main"], clock)
        terms: Terms = {}
        for level, weight in self.seg_weights.items():
            count = labelled(covered(logits, level, batch.source_label)) if self.source_mean == "valid" else None
            loss = level_loss(logits, level, batch.source_label, None, self.source_mean)
            terms[f"seg_{level}"] = Term(loss, weight, count)
        return terms

    def weakly(self, image: Tensor, stream: int, batch: Batch, clock: Clock) -> Tensor:
        """Images with the weak changes of colours (VFM-UDA): the source's, and the target's that are pasted into."""
        return self.choices.coloured(image, self.weak, self.pixels, stream, positions(batch, clock), clock)

    @paddle.no_grad()
    def mixed(self, batch: Batch, clock: Clock) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image, label and weight on which the student learns from the target, and where source pixels are pasted."""
        pseudo, source = self.teacher.labels(batch), batch.source_label
        image, label, weight = batch.target_image, pseudo.label, pseudo.weight
        assert image is not None
        original, pasted = image, paddle.zeros_like(label).astype("bool")
        image = self.weakly(image, WEAK_TARGET, batch, clock)
        if self.mix == "classmix":
            present = present_values(source) if self.classes_from == "image" else self.common_values
            ranks = paddle.to_tensor(self.choices.class_ranks(batch, clock))
            pasted = pasted_pixels(source, choose_half(present.expand(ranks.shape), ranks))
            image, label = paste(pasted, batch.source_image, image), paste(pasted, source, label)
            weight = paste(pasted, (source != IGNORE).astype(weight.dtype), weight)
        if self.strong is not None:
            image = self.choices.coloured(image, self.strong, self.pixels, COLOURS, positions(batch, clock), clock)
            flags = self.choices.mirrored(batch, clock, self.strong.mirror_chance)
            image, label, weight, pasted = mirror(flags, image, label, weight, pasted)
        self.last = {"target_image": original[:1], "pseudo_label": pseudo.label[:1],
                     "mixed_image": image[:1], "mixed_label": label[:1], "mixed_weight": weight[:1]}  # fmt: skip
        return image, label, weight, pasted

    @paddle.no_grad()
    def observe_pseudo(self, batch: Batch, logits: Tensor, label: Tensor, pasted: Tensor, clock: Clock) -> None:
        """On watched steps: how the pseudo-labels share the classes, and how far student and teacher are apart."""
        if not clock.watch:
            return
        self.observed.update(self.balance.readings())
        self.observed["pseudo_weight"] = self.teacher.labels(batch).share
        from_target = pasted.logical_not().logical_and(label != IGNORE).astype("float32")
        agrees = (logits.argmax(axis=1) == label).astype("float32") * from_target
        self.observed["teacher_agreement"] = agrees.sum() / from_target.sum().clip(min=1.0)
        self.observed["teacher_distance"] = distance(self.teacher.network, self.segmenter)


def common_values(labels: Sequence[Tensor]) -> Tensor:
    """Which values occur in the labels of all parts of a step and of all processes [1, 256] float32."""
    found = paddle.concat([present_values(label) for label in labels]).max(axis=0, keepdim=True)
    if distributed.world() == 1:
        return found
    return (distributed.sum_on_device(found.flatten()) > 0).astype("float32").reshape(found.shape)


def check_sizes(batch: Batch) -> None:
    """Refuse domains of two sizes: pixels of one are pasted into the other."""
    assert batch.target_image is not None
    source, target = batch.source_image.shape[2:], batch.target_image.shape[2:]
    if list(source) != list(target):
        raise ConfigError(
            f"self_training pastes source into target, but source images are {source[1]}x{source[0]} and target images "
            f"{target[1]}x{target[0]}: set data.augment.crop, or one data.source.size and data.target.size"
        )

"""Source-free adaptation: from a trained network and unlabelled target images alone.

A mean teacher labels the target (Tarvainen and Valpola, NeurIPS 2017), the student learns these labels from images with
changed colours, and its predictions are made certain of each pixel and diverse over the batch (SHOT, Liang et al., ICML
2020). Diversity acts on the classes' shares in recent predictions, so that it is a mean over pixels like every other
term and several processes compute what one would. docs/practice.md says what each part is worth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Callable, Optional

import paddle
from paddle import Tensor

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core import distributed
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods.augment import DEFAULT_AUGMENT, Strong, mirror
from paddle_adaptseg.methods.base import Clock, Method, Ramp, Term, Terms
from paddle_adaptseg.methods.choices import COLOURS, Choices
from paddle_adaptseg.methods.choices import positions as places
from paddle_adaptseg.methods.losses import level_loss, mean_entropy, softmax
from paddle_adaptseg.methods.padding import joined, positions
from paddle_adaptseg.methods.readings import distance
from paddle_adaptseg.methods.taught import EVALUATED, Taught
from paddle_adaptseg.methods.teacher import DEFAULT_PSEUDO_LABELS, NORMS, MeanTeacher, PseudoLabels, Teacher
from paddle_adaptseg.models.segmenter import Segmenter

STATISTICS = ("target", "start")
SLOW = Teacher(decay=0.999, ramp=0, update="after")
MEMORY, MOST = 0.9, 10.0  # of the classes' shares, in steps; weight of a rare class


class SourceFree(Taught):
    """A teacher's labels, certain and diverse predictions, and the target's batch statistics; starts from weights.

    `statistics`: batch norm takes those of the `target`, or keeps those of the `start` weights.
    """

    uses_source = False
    needs_weights = True

    def __init__(
        self, segmenter: Segmenter, make_segmenter: Callable[..., Segmenter], pixels: Pixels, seed: int,
        names: Sequence[str], weights: dict[str, float], entropy: float = 0.0, diversity: float = 0.0,
        balance: float = 0.0, statistics: str = "target", teacher: Teacher = SLOW,
        pseudo_labels: PseudoLabels = DEFAULT_PSEUDO_LABELS, augment: Optional[Strong] = DEFAULT_AUGMENT,
        evaluate: str = "teacher", ramp: Optional[Ramp] = None,
    ) -> None:  # fmt: skip
        super().__init__(segmenter, None)
        self.weights = self.check_levels(weights, "method.weights")
        self.check_words(statistics=(statistics, STATISTICS), evaluate=(evaluate, EVALUATED))
        if min(entropy, diversity, balance) < 0:
            raise ConfigError(
                f"method: entropy, diversity and balance must be 0 or more, not {entropy}, {diversity}, {balance}"
            )
        mode = {"target": "train", "start": "eval"}[statistics]
        if teacher.check("method.teacher").modes.get("norms", mode) != mode:
            raise ConfigError(f"method.teacher.modes.norms contradicts method.statistics={statistics}: leave it out")
        follows = dataclasses.replace(teacher, modes={**teacher.modes, "norms": mode})
        self.teacher = MeanTeacher(make_segmenter(), follows, pseudo_labels.check("method.pseudo_labels"), pixels)
        self.register_buffer("shares", paddle.full([len(names)], 1.0 / len(names)))  # of the classes, in predictions
        self.seen: list[Tensor] = []  # of this step: the shares times the pixels that they are of
        self.strong = None if augment is None else augment.check("method.augment")
        self.entropy, self.diversity, self.balance = entropy, diversity, balance
        self.statistics, self.evaluated = statistics, evaluate
        self.pixels, self.ramp, self.choices = pixels, ramp or Ramp(), Choices(seed)

    def train(self, *mode: bool) -> Method:
        super().train(*mode)
        for layer in self.segmenter.sublayers() if self.statistics == "start" else ():
            if isinstance(layer, NORMS):
                layer.training = False
        return self

    def before_step(self, batches: Sequence[Batch], clock: Clock) -> None:
        self.teacher.before_step(self.segmenter, batches, clock.step, True)

    def after_step(self, clock: Clock) -> None:
        super().after_step(clock)
        found = paddle.stack(self.seen).sum(axis=0)
        self.seen.clear()
        if distributed.world() > 1:
            found = distributed.sum_on_device(found).astype(found.dtype)
        paddle.assign(MEMORY * self.shares + (1 - MEMORY) * found / found.sum(), output=self.shares)

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        image, label, weight = self.changed(batch, clock)
        factor, areas = self.ramp(clock.step), batch.target_areas
        logits = self.segmenter(image, **self.crop(image, clock, "target"))
        terms = {
            f"pseudo_{level}": Term(level_loss(logits, level, label, weight), share * factor)
            for level, share in self.weights.items()
        }
        seen, pixels = joined(logits["main"], areas), positions(logits["main"], areas)
        share = softmax(seen).mean(axis=[0, 2, 3])
        self.seen.append(share.detach() * (1.0 if pixels is None else pixels))
        if self.entropy:
            terms["ent_main"] = Term(mean_entropy(seen), self.entropy * factor, pixels)
        if self.diversity:
            often = (self.shares * len(self.shares)).clip(min=1e-6).log()  # above 0: more often than all classes alike
            terms["diversity_main"] = Term((share * often).sum(), self.diversity * factor, pixels)
        self.observe(batch, logits["main"], label, clock)
        yield terms

    @paddle.no_grad()
    def changed(self, batch: Batch, clock: Clock) -> tuple[Tensor, Tensor, Tensor]:
        """Target images with other colours, some of them mirrored, with the teacher's labels and weights."""
        pseudo, image = self.teacher.labels(batch), batch.target_image
        label, weight = pseudo.label, self.balanced(pseudo.label, pseudo.weight)
        image = self.choices.coloured(image, self.strong, self.pixels, COLOURS, places(batch, clock), clock)
        if self.strong is not None and batch.target_areas is None:
            flags = self.choices.mirrored(batch, clock, self.strong.mirror_chance)
            image, label, weight, _ = mirror(flags, image, label, weight, label)
        return image, label, weight

    def balanced(self, label: Tensor, weight: Tensor) -> Tensor:
        """The weights, with more for classes that are seldom predicted: share^-balance, at most MOST, mean about 1."""
        if not self.balance:
            return weight
        factor = (self.shares * len(self.shares)).clip(min=1e-6) ** -self.balance
        factor = (factor / (self.shares * factor).sum()).clip(max=MOST)
        known = label.clip(max=len(self.shares) - 1)
        return weight * factor.gather(known.flatten()).reshape(label.shape)

    @paddle.no_grad()
    def observe(self, batch: Batch, logits: Tensor, label: Tensor, clock: Clock) -> None:
        """On watched steps: confidence and classes, how much is learnt, and how far student and teacher are apart."""
        self.observe_target(logits, clock, batch.target_areas)
        if clock.watch:
            self.observed["pseudo_weight"] = self.teacher.labels(batch).share
            self.observed["teacher_agreement"] = (logits.argmax(axis=1) == label).astype("float32").mean()
            self.observed["teacher_distance"] = distance(self.teacher.network, self.segmenter)

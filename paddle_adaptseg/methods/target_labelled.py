"""A few labelled target images: a supervised batch of them beside whatever a method does.

The images come with data.target_labelled, which adds this to any method; what it weighs can be set here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods.additions import Addition
from paddle_adaptseg.methods.augment import Strong
from paddle_adaptseg.methods.base import Clock, Method, Ramp, Term, Terms
from paddle_adaptseg.methods.choices import LABELLED_COLOURS, Choices, positions
from paddle_adaptseg.methods.losses import covered, cross_entropy, labelled


class TargetLabelled(Addition):
    """Cross entropy on labelled target images; the default of `weights` is each level's weight on the source."""

    def __init__(
        self, pixels: Pixels, seed: int, weights: Optional[dict[str, float]] = None, augment: Optional[Strong] = None,
        ramp: Optional[Ramp] = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weights, self.pixels, self.choices, self.ramp = weights, pixels, Choices(seed), ramp or Ramp()
        self.strong = None if augment is None else augment.check("method.target_labelled.augment")

    def attach(self, host: Method) -> None:
        super().attach(host)
        weights = self.weights or host.seg_weights or {"main": 1.0}
        self.weights = host.check_levels(weights, "method.target_labelled.weights")

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        factor = self.ramp(clock.step)
        if factor == 0.0:
            return
        image, label = batch.labelled_image, batch.labelled_label
        image = self.choices.coloured(image, self.strong, self.pixels, LABELLED_COLOURS, positions(batch, clock), clock)
        logits = self.host.segmenter(image, **self.host.crop(image, clock, "labelled"))
        weights = self.weights or {}
        seen = {level: covered(logits, level, label) for level in weights}
        yield {
            f"labelled_{level}": Term(cross_entropy(logits[level], x), weights[level] * factor, labelled(x))
            for level, x in seen.items()
        }

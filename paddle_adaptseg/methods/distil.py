"""Distillation (Hinton et al., 2015): a light network learns an adapted network's predictions on both domains.

The teacher is read from a weights file with the network, the classes and the pixels of its own configuration, and never
changes. The student may be any network of the same classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Callable, Optional

import paddle
from paddle import Tensor

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.data.batch import Areas, Batch
from paddle_adaptseg.methods.augment import Strong, from_unit, to_unit
from paddle_adaptseg.methods.base import Clock, Method, Ramp, Term, Terms, Trained
from paddle_adaptseg.methods.choices import COLOURS, Choices
from paddle_adaptseg.methods.choices import positions as places
from paddle_adaptseg.methods.losses import log_softmax, softmax
from paddle_adaptseg.methods.padding import blanked, joined, positions
from paddle_adaptseg.methods.teacher import freeze
from paddle_adaptseg.methods.views import check_views, predicted
from paddle_adaptseg.models.segmenter import Segmenter

TAUGHT_ON = ("both", "target")


def divergence(logits: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over pixels of the Kullback-Leibler divergence of two softmax distributions, times temperature^2."""
    p, log_p = softmax(wanted / temperature), log_softmax(wanted / temperature)
    each = (p * (log_p - log_softmax(logits / temperature))).sum(axis=1)
    return each.mean() * temperature**2


class Distil(Method):
    """The student predicts what a fixed, adapted teacher predicts on target and, with `taught_on: both`, source images.

    With `seg_weights` it also learns the source's labels. The teacher sees images as they are or in `views`, whose mean
    or whose `surest` count as with pseudo-labels; the student sees them with the colours of `augment`.
    """

    eval_parts = ("teacher",)
    unsaved_parts = ("teacher",)

    def __init__(
        self, segmenter: Segmenter, trained: Callable[[str], Trained], pixels: Pixels, seed: int, names: Sequence[str],
        teacher_weights: str, weights: dict[str, float], seg_weights: Optional[dict[str, float]] = None,
        taught_on: str = "both", temperature: float = 1.0, views: tuple[str, ...] = ("plain",), surest: int = 0,
        augment: Optional[Strong] = None, ramp: Optional[Ramp] = None,
    ) -> None:  # fmt: skip
        super().__init__(segmenter, seg_weights)
        self.weights = self.whole_levels(weights, "method.weights")
        self.check_words(taught_on=(taught_on, TAUGHT_ON))
        if taught_on == "target" and seg_weights:
            raise ConfigError("method.seg_weights trains on source labels, which method.taught_on=target never reads")
        if temperature <= 0:
            raise ConfigError(f"method.temperature must be above 0, not {temperature}")
        check_views(views, surest, "method")
        found = trained(teacher_weights)
        if tuple(found.names) != tuple(names):
            raise ConfigError(
                f"method.teacher_weights: '{teacher_weights}' predicts other classes ({len(found.names)}) than "
                f"data.classes ({len(names)}): teacher and student must have the same"
            )
        self.teacher, self.teacher_pixels = freeze(found.network), found.pixels
        self.strong = None if augment is None else augment.check("method.augment")
        self.uses_source, self.temperature = taught_on == "both", temperature
        self.views, self.surest = views, surest
        self.pixels, self.choices, self.ramp = pixels, Choices(seed), ramp or Ramp()

    def notes(self) -> list[str]:
        sizes = [sum(int(p.size) for p in network.parameters()) for network in (self.teacher, self.segmenter)]
        told = ", ".join(f"{n} {size / 1e6:.2f} M parameters ({4 * size / 2**20:.1f} MB)" for n, size in
                         zip(("teacher", "student"), sizes))  # fmt: skip
        return [f"{told}: 1/{sizes[0] / sizes[1]:.1f} of it"]

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        if self.uses_source:
            logits, terms = self.taught(batch.source_image, "source", batch, batch.source_areas, clock)
            yield {**self.seg_terms(logits, batch, clock), **terms}
        logits, terms = self.taught(batch.target_image, "target", batch, batch.target_areas, clock)
        self.observe_target(logits["main"], clock, batch.target_areas)
        yield terms

    def wanted(self, image: Tensor, areas: Areas) -> Tensor:
        """The teacher's logits, or the logarithms of its probabilities over several views."""
        if self.views == ("plain",):
            return self.teacher.main(image)
        valid = blanked(paddle.ones_like(image)[:, :1], areas).squeeze(1)
        seen = predicted(self.teacher, image, self.teacher_pixels, self.views, self.surest, valid)
        return seen.clip(min=1e-9).log()

    def taught(
        self, image: Optional[Tensor], domain: str, batch: Batch, areas: Areas, clock: Clock
    ) -> tuple[dict[str, Tensor], Terms]:
        """The student's logits of images, and how far they are from the teacher's."""
        with paddle.no_grad():
            seen = image
            if self.pixels != self.teacher_pixels:
                seen = from_unit(to_unit(image, self.pixels), self.teacher_pixels)
            wanted = self.wanted(seen, areas)
            image = self.choices.coloured(image, self.strong, self.pixels, COLOURS, places(batch, clock), clock)
        logits, factor = self.segmenter(image, **self.crop(image, clock, domain)), self.ramp(clock.step)
        if clock.watch:
            agrees = joined(logits["main"], areas).argmax(axis=1) == joined(wanted, areas).argmax(axis=1)
            self.observed[f"distil_agreement_{domain}"] = agrees.astype("float32").mean()
        return logits, {
            f"distil_{domain}_{level}": Term(
                divergence(joined(x, areas), joined(wanted, areas), self.temperature),
                self.weights[level] * factor, positions(x, areas),
            )
            for level, x in logits.items() if level in self.weights
        }  # fmt: skip

"""Priors on target predictions, no discriminator: MinEnt (Vu et al., CVPR 2019), MaxSquare (Chen et al., ICCV 2019).

The loss rewards confident predictions on the target. The choice of loss decides how much each pixel counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

import paddle
from paddle import Tensor

from paddle_adaptseg.config.conversion import arguments, lookup
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods.base import Clock, Method, Ramp, Term, Terms
from paddle_adaptseg.methods.losses import (
    cross_entropy,
    hard_label,
    hard_labels,
    iw_entropy,
    iw_max_square,
    labelled,
    max_square,
    mean_entropy,
    softmax,
)
from paddle_adaptseg.methods.padding import image_parts
from paddle_adaptseg.models.segmenter import Segmenter


@dataclass(frozen=True)
class Prior:
    """A target loss, the name of its terms, and whether its original logs it with the weight applied.

    `mean_over`: "pixels", "images", or "chosen" ones, whose number comes with the loss.
    """

    loss: Callable[..., Tensor]
    term: str = "target"
    logged_weighted: bool = True
    mean_over: str = "pixels"


PRIORS: dict[str, Prior] = {
    "entropy": Prior(mean_entropy, "ent", logged_weighted=False),  # options: ratio
    "max_square": Prior(max_square),
    "iw_max_square": Prior(iw_max_square, mean_over="images"),  # options: ratio
    "iw_entropy": Prior(iw_entropy, mean_over="images"),  # options: ratio
    "hard": Prior(hard_label, mean_over="chosen"),  # options: threshold
}


class TargetPrior(Method):
    """A loss on the target for each level in `weights`. With `guidance` the aux head also learns what both agree on.

    Guidance is MaxSquare's multi-level form: where either head's confidence is above the threshold, `aux` learns the
    class of their mean, with the product of its weight on the source and that of `main` on the target.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        target_loss: str,
        weights: dict[str, float],
        seg_weights: dict[str, float],
        options: Optional[dict[str, float]] = None,
        guidance: Optional[float] = None,
        ramp: Optional[Ramp] = None,
    ) -> None:
        super().__init__(segmenter, seg_weights)
        self.weights = self.whole_levels(weights, "method.weights")
        self.prior = lookup(PRIORS, target_loss, "method.target_loss")
        self.options = arguments(self.prior.loss, options or {}, "method.options", {"logits"})
        if guidance is not None and "aux" not in self.seg_weights:
            raise ConfigError("method.guidance trains the aux head and needs method.seg_weights.aux")
        self.guidance, self.ramp = guidance, ramp or Ramp()

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        crop = self.crop(batch.source_image, clock, "source")
        yield self.seg_terms(self.segmenter(batch.source_image, **crop), batch, clock)
        factor = self.ramp(clock.step)
        if factor == 0.0:
            return
        image: Tensor = batch.target_image
        logits = self.segmenter(image, **self.crop(image, clock, "target"))
        areas = batch.target_areas
        self.observe_target(logits["main"], clock, areas)
        parts = {level: image_parts(x, areas) for level, x in logits.items()}
        padded = areas is not None
        terms = {f"{self.prior.term}_{k}": self.term(parts[k], padded, w * factor) for k, w in self.weights.items()}
        if self.guidance is not None:
            loss, count = mean_of([self.guided(main, aux) for main, aux in zip(parts["main"], parts["aux"])])
            self.observed["guided"] = count / sum(x.shape[0] * x.shape[2] * x.shape[3] for x in parts["main"])
            terms["target_aux"] = Term(loss, self.seg_weights["aux"] * self.weights["main"] * factor, count)
        yield terms

    def term(self, parts: Sequence[Tensor], padded: bool, weight: float) -> Term:
        """The prior as a term, weighted before or after it is logged, on the logits of a batch or, where images are
        padded, of each image."""
        losses = [self.prior.loss(logits, **self.options) for logits in parts]
        if self.prior.mean_over == "chosen":
            loss, count = mean_of(losses)
        elif self.prior.mean_over == "images" or not padded:
            loss, count = (sum(losses) / len(losses) if padded else losses[0]), None
        else:
            counts = [paddle.to_tensor(float(x.shape[2] * x.shape[3])) for x in parts]
            loss, count = mean_of(list(zip(losses, counts)))
        return Term(weight * loss, 1.0, count) if self.prior.logged_weighted else Term(loss, weight, count)

    def guided(self, main_logits: Tensor, aux_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy of the aux head with the class of both heads' mean where one is confident, and its pixels."""
        main, aux = softmax(main_logits.detach()), softmax(aux_logits.detach())
        confident = (main.max(axis=1) > self.guidance).logical_or(aux.max(axis=1) > self.guidance)
        label = hard_labels((main + aux) / 2, confident)
        return cross_entropy(aux_logits, label), labelled(label)


def mean_of(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The mean over all pixels, and their number, from means over parts of them and the parts' numbers."""
    if len(parts) == 1:
        return parts[0]
    counts = [count.astype("float32") for _, count in parts]
    total = sum(counts)
    return sum(loss * count for (loss, _), count in zip(parts, counts)) / total.clip(min=1.0), total

"""Priors on target predictions, no adversary: MinEnt (Vu et al., CVPR 2019), MaxSquare (Chen et al., ICCV 2019).

The segmenter is told to be sure on the target. How sure, and about which pixels first, is the choice of loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Callable, Optional

from paddle import Tensor

from paddle_adaptseg.batch import Batch
from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.losses import (
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
from paddle_adaptseg.methods.base import Clock, Method, Ramp, Term, Terms
from paddle_adaptseg.models.layers import resize_all
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.registry import lookup
from paddle_adaptseg.schema import arguments


@dataclass(frozen=True)
class Prior:
    """A target loss, the name of its terms, and whether its original logs it with the weight applied."""

    loss: Callable[..., Tensor]
    term: str = "target"
    logged_weighted: bool = True
    counted: bool = False  # the loss comes with the number of pixels that it is the mean of


PRIORS: dict[str, Prior] = {
    "entropy": Prior(mean_entropy, "ent", logged_weighted=False),  # options: ratio
    "max_square": Prior(max_square),
    "iw_max_square": Prior(iw_max_square),  # options: ratio
    "iw_entropy": Prior(iw_entropy),  # options: ratio
    "hard": Prior(hard_label, counted=True),  # options: threshold
}


class TargetPrior(Method):
    """A prior on every level in `weights`. With `guidance`, the aux head also learns what both heads agree on.

    Guidance is MaxSquare's multi-level form: where either head is surer than the threshold, `aux` learns the class
    of their mean, with the product of its weight on the source and that of `main` on the target.
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
        self.weights = self.check_levels(weights, "method.weights")
        self.prior = lookup(PRIORS, target_loss, "method.target_loss")
        self.options = arguments(self.prior.loss, options or {}, "method.options", {"logits"})
        if guidance is not None and "aux" not in self.seg_weights:
            raise ConfigError("method.guidance teaches the aux head: it needs method.seg_weights.aux")
        self.guidance, self.ramp = guidance, ramp or Ramp()

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        yield self.seg_terms(self.segmenter(batch.source_image), batch, clock)
        factor = self.ramp(clock.step)
        if factor == 0.0:
            return
        image: Tensor = batch.target_image
        logits = resize_all(self.segmenter.logits(image), image.shape[2:])
        self.observe_target(logits["main"], clock)
        terms = {f"{self.prior.term}_{k}": self.term(logits[k], w * factor) for k, w in self.weights.items()}
        if self.guidance is not None:
            loss, count = self.guided(logits)
            terms["target_aux"] = Term(loss, self.seg_weights["aux"] * self.weights["main"] * factor, count)
        yield terms

    def term(self, logits: Tensor, weight: float) -> Term:
        """The prior as a term, weighted before or after it is logged."""
        loss, count = self.prior.loss(logits, **self.options), None
        if self.prior.counted:
            loss, count = loss
        return Term(weight * loss, 1.0, count) if self.prior.logged_weighted else Term(loss, weight, count)

    def guided(self, logits: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cross entropy of the aux head with the class of both heads' mean where either is sure, and how many are."""
        main, aux = softmax(logits["main"].detach()), softmax(logits["aux"].detach())
        sure = (main.max(axis=1) > self.guidance).logical_or(aux.max(axis=1) > self.guidance)
        self.observed["guided"] = sure.astype("float32").mean()
        label = hard_labels((main + aux) / 2, sure)
        return cross_entropy(logits["aux"], label), labelled(label)

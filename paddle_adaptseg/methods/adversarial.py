"""Adversarial adaptation on the network's output: AdaptSegNet (Tsai et al., CVPR 2018).

Critics, one per level, learn to tell source from target output maps; the segmenter learns to make its target output
pass as source. Which map the critics see and which GAN objective they follow are values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from paddle import Tensor, nn

from paddle_adaptseg.batch import Batch
from paddle_adaptseg.losses import GAN_LOSSES, REPRESENTATIONS, SOURCE, TARGET
from paddle_adaptseg.methods.base import Clock, Method, Ramp, Term, Terms
from paddle_adaptseg.models.discriminator import discriminator
from paddle_adaptseg.models.layers import frozen
from paddle_adaptseg.models.segmenter import ParamGroup, Segmenter, group
from paddle_adaptseg.registry import lookup


class OutputAdversarial(Method):
    """One critic per level in `weights`; one key is the single-level method, two the multi-level one."""

    def __init__(
        self,
        segmenter: Segmenter,
        classes: int,
        weights: dict[str, float],
        seg_weights: dict[str, float],
        gan: str = "vanilla",
        represent: str = "softmax",
        critic_width: int = 64,
        ramp: Optional[Ramp] = None,
    ) -> None:
        super().__init__(segmenter, seg_weights)
        self.weights = self.check_levels(weights, "method.weights")
        self.gan = lookup(GAN_LOSSES, gan.lower(), "method.gan")
        self.represent = lookup(REPRESENTATIONS, represent, "method.represent")
        self.ramp = ramp or Ramp()
        self.critics = nn.LayerDict({level: discriminator(classes, critic_width) for level in self.weights})

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        logits = self.segmenter(batch.source_image)
        yield self.seg_terms(logits, batch, clock)
        factor = self.ramp(clock.step)
        if factor == 0.0:
            return
        source = self.maps(logits, detach=True)
        del logits
        target = self.maps(self.segmenter(batch.target_image))
        yield self.fooling_terms(target, factor)
        yield self.critic_terms(source, {level: x.detach() for level, x in target.items()}, clock)

    def players(self) -> dict[str, list[ParamGroup]]:
        return {**super().players(), "critics": [group("critics", self.critics.named_parameters())]}

    def maps(self, logits: dict[str, Tensor], detach: bool = False) -> dict[str, Tensor]:
        """What the critics look at, for every level that has one."""
        return {k: self.represent(logits[k].detach() if detach else logits[k]) for k in self.weights}

    def fooling_terms(self, target: dict[str, Tensor], factor: float) -> Terms:
        """The segmenter's target output should be taken for source; no gradient reaches the critics."""
        with frozen(self.critics):
            return {
                f"adv_{level}": Term(self.gan(self.critics[level](target[level]), SOURCE), weight * factor)
                for level, weight in self.weights.items()
            }

    def critic_terms(self, source: dict[str, Tensor], target: dict[str, Tensor], clock: Clock) -> Terms:
        """The critics should name the domain of detached maps; halves, as the originals log them."""
        terms: Terms = {}
        for level, critic in self.critics.items():
            for domain, x, answer in (("source", source, SOURCE), ("target", target, TARGET)):
                terms[f"d_{level}_{domain}"] = Term(self.gan(critic(x[level]), answer) / 2)
        return terms

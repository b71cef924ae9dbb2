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
from paddle_adaptseg.models.layers import frozen, resize, resize_all
from paddle_adaptseg.models.segmenter import ParamGroup, Segmenter, group
from paddle_adaptseg.registry import lookup


class OutputAdversarial(Method):
    """One critic per level in `weights`; one key is the single-level method, two the multi-level one.

    Critics look at maps of `critic_scale` times the image size: 1.0 in the papers, less for less memory and time.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        classes: int,
        weights: dict[str, float],
        seg_weights: dict[str, float],
        gan: str = "vanilla",
        represent: str = "softmax",
        critic_width: int = 64,
        critic_scale: float = 1.0,
        ramp: Optional[Ramp] = None,
    ) -> None:
        super().__init__(segmenter, seg_weights)
        self.weights = self.check_levels(weights, "method.weights")
        self.gan = lookup(GAN_LOSSES, gan.lower(), "method.gan")
        self.represent = lookup(REPRESENTATIONS, represent, "method.represent")
        self.critic_scale, self.ramp = critic_scale, ramp or Ramp()
        self.critics = nn.LayerDict({level: discriminator(classes, critic_width) for level in self.weights})

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        source = self.segmenter.logits(batch.source_image)
        yield self.seg_terms(resize_all(source, batch.source_image.shape[2:]), batch, clock)
        factor = self.ramp(clock.step)
        if factor == 0.0:
            return
        source_maps = self.maps({k: x.detach() for k, x in source.items()}, batch.source_image)
        target_maps = self.maps(self.segmenter.logits(batch.target_image), batch.target_image)
        yield self.fooling_terms(target_maps, factor)
        yield self.critic_terms(source_maps, {k: x.detach() for k, x in target_maps.items()})

    def players(self) -> dict[str, list[ParamGroup]]:
        return {**super().players(), "critics": [group("critics", self.critics.named_parameters())]}

    def maps(self, logits: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
        """What the critics look at, for every level that has one."""
        size = tuple(round(n * self.critic_scale) for n in image.shape[2:])
        return {level: self.represent(resize(logits[level], size)) for level in self.weights}

    def fooling_terms(self, target: dict[str, Tensor], factor: float) -> Terms:
        """The segmenter's target output should be taken for source; no gradient reaches the critics."""
        with frozen(self.critics):
            return {
                f"adv_{level}": Term(self.gan(self.critics[level](target[level]), SOURCE), weight * factor)
                for level, weight in self.weights.items()
            }

    def critic_terms(self, source: dict[str, Tensor], target: dict[str, Tensor]) -> Terms:
        """The critics should name the domain of detached maps; halves, as the originals log them."""
        terms: Terms = {}
        for level, critic in self.critics.items():
            for domain, x, answer in (("source", source, SOURCE), ("target", target, TARGET)):
                terms[f"d_{level}_{domain}"] = Term(self.gan(critic(x[level]), answer) / 2)
        return terms

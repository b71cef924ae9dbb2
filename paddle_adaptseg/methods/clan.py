"""Category-level adversaries: CLAN (Luo et al., Taking A Closer Look at Domain Shift, CVPR 2019).

Two heads on one stage are kept apart in their weights; where they disagree on a target pixel its class is not aligned
yet, and the adversarial loss weighs more there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

import paddle
from paddle import Tensor

from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.data.batch import Areas, Batch
from paddle_adaptseg.methods.adversarial import least_size
from paddle_adaptseg.methods.base import Clock, Method, Ramp, Term, Terms
from paddle_adaptseg.methods.losses import SOURCE, TARGET, cosine, focal_cross_entropy, labelled, softmax, weighted_bce
from paddle_adaptseg.methods.padding import blanked, joined, positions
from paddle_adaptseg.models.discriminator import discriminator
from paddle_adaptseg.models.layers import frozen, resize, resize_all
from paddle_adaptseg.models.segmenter import ParamGroup, Segmenter, group


class CLAN(Method):
    """`preheat` steps of a plain adversarial loss, then weighted by epsilon + lambda_local * (1 - heads' agreement).

    The weights of the adversarial loss and of the discrepancy fade linearly to 0 at the horizon.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        classes: int,
        preheat: int,
        lambda_adv: float = 0.001,
        lambda_weight: float = 0.01,
        lambda_local: float = 40.0,
        epsilon: float = 0.4,
        discriminator_width: int = 64,
        discriminator_scale: float = 1.0,
        ramp: Optional[Ramp] = None,
    ) -> None:
        super().__init__(segmenter, None)
        if "first" not in segmenter.levels:
            raise ConfigError("clan needs a network with two heads on one stage: a model whose name ends in _twin")
        self.preheat, self.epsilon, self.discriminator_scale = preheat, epsilon, discriminator_scale
        self.lambda_adv, self.lambda_weight, self.lambda_local = lambda_adv, lambda_weight, lambda_local
        self.ramp, self.least_size = ramp or Ramp(), least_size(discriminator_scale)
        self.discriminator = discriminator(classes, discriminator_width)

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        source = self.segmenter.logits(batch.source_image)
        full = resize_all(source, batch.source_image.shape[2:], self.segmenter.align_corners)
        self.observe_source(full["main"], clock)
        seg = sum(focal_cross_entropy(full[k], batch.source_label) for k in ("first", "second"))
        yield {"seg": Term(seg, pixels=labelled(batch.source_label))}
        del full
        fade = self.ramp(clock.step) * (1.0 - clock.step / clock.horizon)
        if fade == 0.0:
            return
        source_map = blanked(softmax(self.scaled(source["main"].detach(), batch.source_image)), batch.source_areas)
        logits, areas = self.segmenter.logits(batch.target_image), batch.target_areas
        self.observe_target(logits["main"], clock, areas)
        target = {k: self.scaled(x, batch.target_image) for k, x in logits.items()}
        disagreement = 1.0 - cosine(softmax(target["first"]), softmax(target["second"]), axis=1).unsqueeze(1)
        disagreement = joined(disagreement, areas)
        self.observed["weight_map_mean"] = disagreement.detach().mean()
        weight = self.epsilon + self.lambda_local * disagreement if clock.step > self.preheat else None
        target_map = blanked(softmax(target["main"]), areas)
        counted = positions(target_map, areas)
        adversarial = fade * self.lambda_adv * self.adversarial_loss(target_map, weight, areas)
        yield {"adv": Term(adversarial, pixels=counted), "weight": Term(fade * self.discrepancy())}
        on_source = joined(self.discriminate(source_map), batch.source_areas)
        on_target = joined(self.discriminate(target_map.detach()), areas)
        if clock.watch:
            right = (on_source < 0).astype("float32").mean() + (on_target > 0).astype("float32").mean()
            self.observed["discriminator_accuracy_main"] = right / 2
        weight = None if weight is None else weight.detach()
        yield {
            "d_source": Term(weighted_bce(on_source, SOURCE, None), pixels=positions(source_map, batch.source_areas)),
            "d_target": Term(weighted_bce(on_target, TARGET, weight), pixels=counted),
        }

    def players(self) -> dict[str, list[ParamGroup]]:
        return {**super().players(), "discriminators": [group("discriminators", self.discriminator.named_parameters())]}

    def scaled(self, logits: Tensor, image: Tensor) -> Tensor:
        """Logits at the size of the discriminator's input."""
        return resize(logits, [round(n * self.discriminator_scale) for n in image.shape[2:]])

    def discriminate(self, x: Tensor) -> Tensor:
        """The discriminator's output for every pixel."""
        return resize(self.discriminator(x), x.shape[2:])

    def adversarial_loss(self, target_map: Tensor, weight: Optional[Tensor], areas: Areas) -> Tensor:
        """The segmenter's adversarial loss: the target map, labelled as source; the discriminator gets no gradient."""
        with frozen(self.discriminator):
            return weighted_bce(joined(self.discriminate(target_map), areas), SOURCE, weight)

    def discrepancy(self) -> Tensor:
        """2 * lambda * (cosine of the two heads' parameters + 1): keeps the heads apart."""
        heads = (self.segmenter.heads[k].parameters() for k in ("first", "second"))
        first, second = (paddle.concat([p.flatten() for p in head]) for head in heads)
        return 2 * self.lambda_weight * (cosine(first, second) + 1)

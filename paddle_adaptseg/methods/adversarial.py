"""Adversarial adaptation on the network's output: AdaptSegNet (Tsai et al., CVPR 2018).

Discriminators, one per level, learn to classify output maps as source or target; the segmenter learns to make the
discriminators classify its target output as source. The representation of the map and the GAN loss are values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Optional

from paddle import Tensor, nn

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.data.batch import Areas, Batch
from paddle_adaptseg.methods.base import Clock, Method, Ramp, Term, Terms
from paddle_adaptseg.methods.losses import GAN_LOSSES, REPRESENTATIONS, SOURCE, TARGET, vanilla_gan
from paddle_adaptseg.methods.padding import blanked, joined, positions
from paddle_adaptseg.models.discriminator import discriminator, feature_discriminator
from paddle_adaptseg.models.layers import frozen, resize_all
from paddle_adaptseg.models.segmenter import ParamGroup, Segmenter, at_image_size, group


def least_size(discriminator_scale: float) -> int:
    """The least side of an image whose map suits a discriminator: below 16 its last convolutions see only padding."""
    return math.ceil(Method.least_size / discriminator_scale)


class OutputAdversarial(Method):
    """One discriminator for each level in `weights`: one level is the single-level method, two the multi-level one.

    The input of the discriminators has `discriminator_scale` times the image size: 1.0 in the papers; smaller
    values need less memory and time.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        classes: int,
        weights: dict[str, float],
        seg_weights: dict[str, float],
        gan: str = "vanilla",
        represent: str = "softmax",
        discriminator_width: int = 64,
        discriminator_scale: float = 1.0,
        ramp: Optional[Ramp] = None,
    ) -> None:
        super().__init__(segmenter, seg_weights)
        self.weights = self.whole_levels(weights, "method.weights")
        self.gan = lookup(GAN_LOSSES, gan.lower(), "method.gan")
        self.represent = lookup(REPRESENTATIONS, represent, "method.represent")
        self.discriminator_scale, self.ramp = discriminator_scale, ramp or Ramp()
        self.least_size = least_size(discriminator_scale)
        self.discriminators = nn.LayerDict(
            {level: self.make_discriminator(classes, discriminator_width) for level in self.weights}
        )

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        logits, source = self.outputs(batch.source_image, clock, "source")
        yield self.seg_terms(logits, batch, clock)
        factor = self.ramp(clock.step)
        if factor == 0.0:
            return
        source = {level: blanked(x.detach(), batch.source_areas) for level, x in source.items()}
        logits, target = self.outputs(batch.target_image, clock, "target")
        self.observe_target(logits["main"], clock, batch.target_areas)
        del logits
        target = {level: blanked(x, batch.target_areas) for level, x in target.items()}
        yield self.adversarial_terms(target, factor, batch.target_areas)
        yield self.discriminator_terms(source, {level: x.detach() for level, x in target.items()}, batch, clock)

    def players(self) -> dict[str, list[ParamGroup]]:
        mine = group("discriminators", self.discriminators.named_parameters())
        return {**super().players(), "discriminators": [mine]}

    def make_discriminator(self, classes: int, width: int) -> nn.Layer:
        """A discriminator for the input that outputs() returns."""
        return discriminator(classes, width)

    def outputs(self, image: Tensor, clock: Clock, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The logits of an image at its size, and the discriminators' input for every level that has one."""
        align = self.segmenter.align_corners
        logits = self.segmenter.logits(image, **self.crop(image, clock, name))
        full = at_image_size(logits, image.shape[2:], align)
        size = [round(n * self.discriminator_scale) for n in image.shape[2:]]
        smaller = full if self.discriminator_scale == 1.0 else resize_all(logits, size, align)
        return full, {level: self.represent(smaller[level]) for level in self.weights}

    def adversarial_terms(self, target: dict[str, Tensor], factor: float, areas: Areas) -> Terms:
        """The segmenter's adversarial loss: its target output, labelled as source; discriminators get no gradient."""
        with frozen(self.discriminators):
            return {
                f"adv_{level}": self.gan_term(self.discriminators[level](target[level]), SOURCE, areas, weight * factor)
                for level, weight in self.weights.items()
            }

    def discriminator_terms(
        self, source: dict[str, Tensor], target: dict[str, Tensor], batch: Batch, clock: Clock
    ) -> Terms:
        """The losses of the discriminators on detached maps; halved, as the originals log them."""
        terms: Terms = {}
        for level, network in self.discriminators.items():
            on_source, on_target = network(source[level]), network(target[level])
            for name, output, answer, areas in (
                ("source", on_source, SOURCE, batch.source_areas),
                ("target", on_target, TARGET, batch.target_areas),
            ):
                term = self.gan_term(output, answer, areas)
                terms[f"d_{level}_{name}"] = term._replace(loss=term.loss / 2)
            if clock.watch:
                shown = joined(on_source, batch.source_areas), joined(on_target, batch.target_areas)
                self.observed[f"discriminator_accuracy_{level}"] = self.accuracy(*shown)
        return terms

    def gan_term(self, output: Tensor, answer: float, areas: Areas, weight: float = 1.0) -> Term:
        """The GAN loss over the discriminator's outputs on the images, without padding."""
        return Term(self.gan(joined(output, areas), answer), weight, positions(output, areas))

    def accuracy(self, source: Tensor, target: Tensor) -> Tensor:
        """Share of correct outputs, each domain counting half."""
        middle = 0.0 if self.gan is vanilla_gan else (SOURCE + TARGET) / 2
        return ((source < middle).astype("float32").mean() + (target > middle).astype("float32").mean()) / 2


class FeatureAdversarial(OutputAdversarial):
    """The paper's ablation: one discriminator on the features that the main head reads (tune `weights.main`)."""

    def __init__(
        self,
        segmenter: Segmenter,
        weights: dict[str, float],
        seg_weights: dict[str, float],
        gan: str = "vanilla",
        discriminator_width: int = 64,
        ramp: Optional[Ramp] = None,
    ) -> None:
        if set(weights) != {"main"}:
            raise ConfigError("feature_adversarial has one discriminator: method.weights must be {main: ...}")
        if not segmenter.feature_channels:
            raise ConfigError(
                "feature_adversarial needs features, and this network has no backbone: use another method"
            )
        super().__init__(
            segmenter, segmenter.feature_channels, weights, seg_weights, gan, "softmax", discriminator_width, 1.0, ramp
        )

    def make_discriminator(self, channels: int, width: int) -> nn.Layer:
        return feature_discriminator(channels, width)

    def outputs(self, image: Tensor, clock: Clock, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        features = self.segmenter.features(image, **self.crop(image, clock, name))
        logits = at_image_size(self.segmenter.classify(features), image.shape[2:])
        return logits, {"main": features["main"]}

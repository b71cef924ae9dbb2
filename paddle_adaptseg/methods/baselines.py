"""Baselines that show what a method really adds: batch-norm adaptation, and adversaries on features, not outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.batch import Batch
from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.methods.adversarial import OutputAdversarial
from paddle_adaptseg.methods.base import Clock, Method, Ramp, Terms
from paddle_adaptseg.models.discriminator import feature_discriminator
from paddle_adaptseg.models.layers import resize_all
from paddle_adaptseg.models.segmenter import Segmenter


class BNAdapt(Method):
    """Source training whose batch-norm statistics also see the target: the adversary's gradient is all that is missing.

    The originals' "adversarial weight 0" is this, not source only.
    """

    def __init__(self, segmenter: Segmenter, seg_weights: dict[str, float]) -> None:
        super().__init__(segmenter, seg_weights)
        norms = [layer for layer in segmenter.sublayers() if isinstance(layer, nn.BatchNorm2D)]
        if not [layer for layer in norms if not layer._use_global_stats]:
            raise ConfigError("bn_adapt needs a model.norm with batch statistics (batch or batch_fixed_affine)")

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        yield self.seg_terms(self.segmenter(batch.source_image), batch, clock)
        with paddle.no_grad():  # a forward pass in training mode updates the running statistics
            logits = self.segmenter.logits(batch.target_image)["main"]
            self.observe_target(logits, clock, batch.target_areas)


class FeatureAdversarial(OutputAdversarial):
    """The paper's ablation: one discriminator on the features that the main head reads (tune `weights.main` anew)."""

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
        super().__init__(
            segmenter, segmenter.feature_channels, weights, seg_weights, gan, "softmax", discriminator_width, 1.0, ramp
        )

    def make_discriminator(self, channels: int, width: int) -> nn.Layer:
        return feature_discriminator(channels, width)

    def look(self, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        features = self.segmenter.features(image)
        logits = resize_all(self.segmenter.classify(features), image.shape[2:], self.segmenter.align_corners)
        return logits, {"main": features["main"]}

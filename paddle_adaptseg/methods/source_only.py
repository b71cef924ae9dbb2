"""The baselines against which methods are measured: training on the source alone, and with batch-norm adaptation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

import paddle
from paddle import nn

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods.augment import Strong
from paddle_adaptseg.methods.base import Clock, Method, Terms
from paddle_adaptseg.methods.choices import WEAK_SOURCE, Choices, positions
from paddle_adaptseg.models.segmenter import Segmenter

CAFFE = Pixels()


class SourceOnly(Method):
    """Supervised training on the source; the target is never used, not even by batch statistics.

    `weak`: random changes of colours.
    """

    uses_target = False

    def __init__(
        self, segmenter: Segmenter, seg_weights: dict[str, float], pixels: Pixels = CAFFE, seed: int = 0,
        weak: Optional[Strong] = None,
    ) -> None:  # fmt: skip
        super().__init__(segmenter, seg_weights)
        self.weak = None if weak is None else weak.check("method.weak")
        self.pixels, self.choices = pixels, Choices(seed)

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        keys = positions(batch, clock)
        image = self.choices.coloured(batch.source_image, self.weak, self.pixels, WEAK_SOURCE, keys, clock)
        yield self.seg_terms(self.segmenter(image, **self.crop(image, clock, "source")), batch, clock)


class BNAdapt(Method):
    """Source training whose batch-norm statistics also see the target: AdaptSegNet without its adversarial gradient.

    The originals' "adversarial weight 0" is this, not source only.
    """

    def __init__(self, segmenter: Segmenter, seg_weights: dict[str, float]) -> None:
        super().__init__(segmenter, seg_weights)
        norms = [layer for layer in segmenter.sublayers() if isinstance(layer, nn.BatchNorm2D)]
        if not [layer for layer in norms if not layer._use_global_stats]:
            raise ConfigError("bn_adapt needs a model.norm with batch statistics (batch or batch_fixed_affine)")

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        crop = self.crop(batch.source_image, clock, "source")
        yield self.seg_terms(self.segmenter(batch.source_image, **crop), batch, clock)
        crop = self.crop(batch.target_image, clock, "target")
        with paddle.no_grad():  # a forward pass in training mode updates the running statistics
            logits = self.segmenter.logits(batch.target_image, **crop)["main"]
            self.observe_target(logits, clock, batch.target_areas)

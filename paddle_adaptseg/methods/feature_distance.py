"""Feature distance (DAFormer, Hoyer et al., CVPR 2022): features of things stay near those of the ImageNet network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

import paddle
from paddle import Tensor

from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.labels import IGNORE
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods.additions import Addition, class_indices
from paddle_adaptseg.methods.base import Clock, Method, Term, Terms
from paddle_adaptseg.methods.teacher import copy_network, freeze
from paddle_adaptseg.models.segmenter import Segmenter


def pool_label(label: Tensor, size: Sequence[int], classes: int, min_ratio: float) -> Tensor:
    """The class [N, h, w] that at least `min_ratio` of each cell's pixels carry, else IGNORE; label [N, H, W].

    Ignored pixels count as a class of their own. Cells divide the label evenly where its sides are multiples of them.
    """
    batch, height, width = label.shape
    rows = (paddle.arange(height) * size[0] // height).reshape([1, -1, 1])
    columns = (paddle.arange(width) * size[1] // width).reshape([1, 1, -1])
    images = paddle.arange(batch).reshape([-1, 1, 1])
    values = paddle.where(label == IGNORE, paddle.full_like(label, classes), label)
    place = (((images * size[0] + rows) * size[1] + columns) * (classes + 1) + values).flatten()
    counts = paddle.zeros([batch * size[0] * size[1] * (classes + 1)])
    counts = paddle.put_along_axis(counts, place, paddle.ones(place.shape), axis=0, reduce="add")
    counts = counts.reshape([batch, *size, classes + 1])
    best = counts.argmax(axis=-1)
    sure = (counts.max(axis=-1) >= min_ratio * counts.sum(axis=-1)).logical_and(best < classes)
    return paddle.where(sure, best, paddle.full_like(best, IGNORE))


def masked_distance(features: Tensor, fixed: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked cells [N, h, w] of the l2 norm over channels; 0 of an empty mask, never NaN.

    The gradient of the norm at 0 is 0, so that equal features pull nowhere.
    """
    squares = ((features - fixed.detach()) ** 2).sum(axis=1)
    different = squares > 0
    norm = paddle.where(different, squares, paddle.ones_like(squares)).sqrt() * different.astype(squares.dtype)
    mask = mask.astype(squares.dtype)
    return (norm * mask).sum() / mask.sum().clip(min=1.0)


class FeatureDistance(Addition):
    """Keeps features of `things` near those of a fixed network: of the start weights, or of a file (`restore_from`).

    The fixed network is in evaluation mode. One from a file is read again when a run is resumed; the other is saved.
    """

    def __init__(
        self, make_segmenter: Callable[..., Segmenter], names: Sequence[str], things: tuple[str, ...],
        weight: float = 0.005, min_ratio: float = 0.75, restore_from: str = "",
    ) -> None:  # fmt: skip
        super().__init__()
        self.count, self.weight, self.min_ratio = len(names), weight, min_ratio
        self.chosen = class_indices(things, names, "method.feature_distance.things")
        self.fixed = freeze(make_segmenter(restore_from) if restore_from else make_segmenter())
        self.unsaved_parts = ("fixed",) if restore_from else ()

    def attach(self, host: Method) -> None:
        super().attach(host)
        if not host.uses_source:
            raise ConfigError(
                "method.feature_distance looks at source images, but this method reads none: leave it out"
            )

    def loaded(self) -> None:
        if not self.unsaved_parts:
            copy_network(self.host.segmenter, self.fixed)

    def set_modes(self) -> None:
        for layer in self.fixed.sublayers(include_self=True):
            layer.training = False

    def source_terms(self, features: Sequence, batch: Batch, clock: Clock) -> Terms:
        if not features:
            raise ConfigError("method.feature_distance needs a method whose first terms come from the source image")
        terms: Terms = {}
        for own, box in self.host.segmenter.compared(features[0]):
            with paddle.no_grad():
                fixed = self.fixed.deepest(batch.source_image, box)
                label = batch.source_label if box is None else box.of(batch.source_label)
                label = pool_label(label, own.shape[2:], self.count, self.min_ratio)
                mask = sum((label == c).astype("float32") for c in self.chosen)
            terms["fd_detail" if terms else "fd"] = Term(masked_distance(own, fixed, mask), self.weight, mask.sum())
        if clock.watch:
            self.host.observed["feature_distance_cells"] = terms["fd"].pixels
        return terms

"""Building blocks shared by the networks: norm policies, resizing, initialisation, and the frozen() context."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn


@dataclass(frozen=True)
class NormPolicy:
    """How a network normalises; it holds whatever .train() or .eval() says.

    `stats`: "batch" normalises with batch statistics in training, "frozen" always with the stored ones, "group" has
    no statistics. `affine`: whether scale and shift are trained.
    """

    stats: str
    affine: bool
    stem_affine: bool = False

    def stem(self) -> NormPolicy:
        """The policy of the first layer, whose scale and shift MaxSquare keeps fixed while it trains the others."""
        return replace(self, affine=self.affine and (self.stats == "group" or self.stem_affine))

    def __call__(self, channels: int) -> nn.Layer:
        """A normalisation layer for `channels`."""
        if self.stats == "group":
            return nn.GroupNorm(min(8, channels // 4), channels)
        return nn.BatchNorm2D(
            channels,
            weight_attr=ParamAttr(trainable=self.affine),
            bias_attr=ParamAttr(trainable=self.affine),
            use_global_stats=True if self.stats == "frozen" else None,
        )


NORMS: Mapping[str, NormPolicy] = {
    "batch_fixed_affine": NormPolicy("batch", affine=False),  # AdaptSegNet, ADVENT, CLAN
    "frozen": NormPolicy("frozen", affine=False),
    "batch": NormPolicy("batch", affine=True, stem_affine=True),
    "batch_fixed_stem": NormPolicy("batch", affine=True),  # MaxSquare
    "group": NormPolicy("group", affine=True),
}


def conv(
    fan_in: int, fan_out: int, kernel: int, stride: int = 1, dilation: int = 1, padding: Optional[int] = None
) -> nn.Conv2D:
    """A convolution without bias that keeps the size (over the stride), as the originals initialise it."""
    padding = dilation * (kernel // 2) if padding is None else padding
    return nn.Conv2D(fan_in, fan_out, kernel, stride, padding, dilation, weight_attr=normal_init(), bias_attr=False)


def normal_init(std: float = 0.01) -> ParamAttr:
    """Weights from a normal distribution."""
    return ParamAttr(initializer=nn.initializer.Normal(0.0, std))


def resize(x: Tensor, size: Sequence[int], align_corners: bool = True) -> Tensor:
    """Bilinear resize to (height, width), with aligned corners as AdaptSegNet and its family train and evaluate."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    if _PRODUCTS or _enlarges_on_a_cpu(x, size):
        return _resize_by_products(x, size, align_corners)
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=align_corners)


@paddle.jit.not_to_static
def _enlarges_on_a_cpu(x: Tensor, size: Sequence[int]) -> bool:
    """Where two matrix products are three times as fast as Paddle's operator."""
    if not paddle.in_dynamic_mode() or not x.place.is_cpu_place() or x.dtype != paddle.float32:
        return False
    return x.shape[2] <= size[0] and x.shape[3] <= size[1]


def resize_like(x: Tensor, other: Tensor, align_corners: bool = True) -> Tensor:
    """Resize to another map's height and width, which a traced program may learn only when it runs."""
    size = list(other.shape[2:])
    if all(isinstance(n, int) and n > 0 for n in size):
        return resize(x, size, align_corners)
    shape = paddle.shape(other)
    return F.interpolate(x, size=[shape[2], shape[3]], mode="bilinear", align_corners=align_corners)


_PRODUCTS: list[bool] = []  # not empty: inside resize_by_products()


@contextlib.contextmanager
def resize_by_products() -> Iterator[None]:
    """Inside, resize() is two matrix products, for programs of fixed size: Paddle 3.3 refuses the operator in oneDNN.

    So are Paddle's own interpolate, which others' networks call, wherever sizes are known, and adaptive means
    of unequal cells, at which paddle2onnx crashes. paddle.shape() is plain numbers then, so that sizes are known later
    too. The products keep equal batch dimensions, because oneDNN computes broadcast ones wrongly.
    """
    _PRODUCTS.append(True)
    before = F.interpolate, F.adaptive_avg_pool2d, paddle.shape
    F.interpolate, F.adaptive_avg_pool2d, paddle.shape = _interpolate, _adaptive_mean, _shape
    try:
        yield
    finally:
        F.interpolate, F.adaptive_avg_pool2d, paddle.shape = before
        _PRODUCTS.pop()


_PLAIN_INTERPOLATE, _PLAIN_MEAN, _PLAIN_SHAPE = F.interpolate, F.adaptive_avg_pool2d, paddle.shape


def _known(sizes: Sequence) -> bool:
    return all(isinstance(n, int) and n > 0 for n in sizes)


@paddle.jit.not_to_static
def _shape(x: Tensor, *more: Any) -> Any:
    return list(x.shape) if _known(x.shape) and not more else _PLAIN_SHAPE(x, *more)


@paddle.jit.not_to_static
def _interpolate(
    x: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool = False,
    **more: Any,
) -> Tensor:
    if isinstance(scale_factor, (int, float)) and _known(x.shape):
        size, scale_factor = [int(n * scale_factor) for n in x.shape[2:]], None
    usual = all({"align_mode": 0, "data_format": "NCHW", "name": None}.get(k) == v for k, v in more.items())
    fits = mode == "bilinear" and usual and isinstance(size, (list, tuple)) and x.ndim == 4
    if fits and _known(x.shape) and _known(size):
        return x if list(x.shape[2:]) == list(size) else _resize_by_products(x, size, align_corners)
    return _PLAIN_INTERPOLATE(x, size, scale_factor, mode, align_corners, **more)


@paddle.jit.not_to_static
def _adaptive_mean(x: Tensor, output_size: Any, data_format: str = "NCHW", name: Any = None) -> Tensor:
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if not _known((*x.shape, *size)) or data_format != "NCHW" or not any(n % m for n, m in zip(x.shape[2:], size)):
        return _PLAIN_MEAN(x, output_size, data_format, name)
    return _products(x, _cells(x.shape[2], size[0]), _cells(x.shape[3], size[1]))


def _cells(old: int, new: int) -> Tensor:
    """What each of `old` samples adds to the means of `new` cells [new, old]; neighbouring cells share samples."""
    first, last = paddle.arange(new) * old // new, ((paddle.arange(new) + 1) * old + new - 1) // new
    at = paddle.arange(old).unsqueeze(0)
    inside = (at >= first.unsqueeze(1)).astype("float32") * (at < last.unsqueeze(1)).astype("float32")
    return inside / inside.sum(axis=1, keepdim=True)


def _resize_by_products(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    rows, columns = _weights(x.shape[2], size[0], align_corners), _weights(x.shape[3], size[1], align_corners)
    return _products(x, rows, columns)


def _products(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """A map [N, C, h, w] with its axes mixed by two matrices [H, h] and [W, w]."""
    batch, channels, height, width = x.shape
    planes, size = batch * channels, (rows.shape[0], columns.shape[0])
    x = paddle.matmul(x.reshape([planes * height, width]), columns.t())
    rows = rows.unsqueeze(0).expand([planes, size[0], height])
    return paddle.matmul(rows, x.reshape([planes, height, size[1]])).reshape([batch, channels, *size])


def _weights(old: int, new: int, align_corners: bool) -> Tensor:
    """What each of `old` samples adds to each of `new` ones [new, old]."""
    position = paddle.arange(new, dtype="float32")
    if align_corners:
        position = position * ((old - 1) / max(new - 1, 1))
    else:
        position = ((position + 0.5) * (old / new) - 0.5).clip(0, old - 1)
    return F.relu(1 - (position.unsqueeze(1) - paddle.arange(old, dtype="float32").unsqueeze(0)).abs())


class Concat(nn.Layer):
    """Joins maps of one size, `channels` in all. They are made while they are asked for, so that no list of them stays
    alive longer than needed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, maps: Iterator[Tensor]) -> Tensor:
        return paddle.concat(list(maps), axis=1)


def resize_all(logits: Mapping[str, Tensor], size: Sequence[int], align_corners: bool = True) -> dict[str, Tensor]:
    """Every level's logits at (height, width)."""
    return {level: resize(x, size, align_corners) for level, x in logits.items()}


@contextlib.contextmanager
def frozen(layer: nn.Layer) -> Iterator[None]:
    """Forward passes inside build graphs through `layer` to its inputs, but not to its parameters."""
    before = [(p, p.stop_gradient) for p in layer.parameters()]
    for parameter, _ in before:
        parameter.stop_gradient = True
    try:
        yield
    finally:
        for parameter, stop in before:
            parameter.stop_gradient = stop


@contextlib.contextmanager
def inference(layer: nn.Layer) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of every sublayer is restored afterwards."""
    before = [(sub, sub.training) for sub in layer.sublayers(include_self=True)]
    layer.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        for sub, training in before:
            sub.training = training


def with_zeros(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """A map [N, C, H, W] with zeros around it, by joining: paddle2onnx 2.1 pads with whatever it finds in memory."""
    for axis, before, after in ((3, left, right), (2, top, bottom)):
        shapes = [[count if place == axis else n for place, n in enumerate(x.shape)] for count in (before, after)]
        parts = [paddle.zeros(shape, x.dtype) for shape in shapes[:1] if before]
        parts += [x, *(paddle.zeros(shape, x.dtype) for shape in shapes[1:] if after)]
        x = paddle.concat(parts, axis=axis) if len(parts) > 1 else x
    return x

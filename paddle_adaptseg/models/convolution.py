"""The convolution layer of all networks. On a CPU oneDNN computes it.

Paddle's own CPU convolution copies patches into a matrix on one core; oneDNN works on the image with all of them
(docs/performance.md). Elsewhere, and for what oneDNN does not take, it is Paddle's. A graph with such a convolution can
be run backward once: with retain_graph, Paddle crashes in every gradient of one's own; without_onednn() is for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Optional

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_adaptseg.models.onednn import Geometry, library, operation, output_shape, takes


class Conv2D(nn.Conv2D):
    """A convolution. On a CPU oneDNN computes it, unless it is a mere product of matrices (1x1)."""

    def forward(self, x: Tensor) -> Tensor:
        stride, padding, dilation = (tuple(_pair(v)) for v in (self._stride, self._padding, self._dilation))
        product = tuple(self._kernel_size) == stride == (1, 1)
        if product or self._groups > 1 or not usable(x, self.weight):
            return nn.Conv2D.forward(self, x)  # tracing cannot follow super()
        geometry = (tuple(x.shape), tuple(self.weight.shape), stride, padding, dilation)
        return convolve(x, self.weight, self.bias, geometry) if takes(geometry) else nn.Conv2D.forward(self, x)


def _pair(value: int | Sequence[int]) -> Sequence[int]:
    return (value, value) if isinstance(value, int) else value


def _forward(x: Tensor, weight: Tensor, bias: Optional[Tensor], geometry: Geometry) -> Tensor:
    y = paddle.empty(output_shape(geometry), dtype="float32")
    given = {"src": x, "weights": weight, "dst": y}
    operation("forward", geometry, bias is not None)(given if bias is None else {**given, "bias": bias})
    return y


class _Convolution(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias, geometry, needed):
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.needed, ctx.bias = geometry, needed, bias is not None
        return _forward(x, weight, bias, geometry)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensor()
        dy = _rows(dy)
        dx, dw, db = None, None, None
        if ctx.needed[0]:
            dx = paddle.empty(x.shape, dtype="float32")
            operation("backward_data", ctx.geometry, False)({"diff_src": dx, "weights": weight, "diff_dst": dy})
        if ctx.needed[1]:
            dw = paddle.empty(weight.shape, dtype="float32")
            given = {"src": x, "diff_weights": dw, "diff_dst": dy}
            if ctx.bias:
                db = paddle.empty(weight.shape[:1], dtype="float32")
                given["diff_bias"] = db
            operation("backward_weights", ctx.geometry, ctx.bias)(given)
        return (dx, dw, db) if ctx.bias else (dx, dw)


def _rows(x: Tensor) -> Tensor:
    return x if x.is_contiguous() else x.contiguous()


_OFF: list[bool] = []  # not empty: inside without_onednn()


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    """Inside, every convolution is Paddle's own: for mixed precision, whose casts it must see, and for comparisons."""
    _OFF.append(True)
    try:
        yield
    finally:
        _OFF.pop()


def usable(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can take this convolution now."""
    if _OFF or not paddle.in_dynamic_mode() or not x.place.is_cpu_place():
        return False
    return x.dtype == weight.dtype == paddle.float32 and library() is not None


def convolve(x: Tensor, weight: Tensor, bias: Optional[Tensor], geometry: Geometry) -> Tensor:
    """A convolution of one group with gradients for whatever wants them."""
    needed = (not x.stop_gradient, not weight.stop_gradient)
    if any(needed) and paddle.is_grad_enabled():
        return _Convolution.apply(_rows(x), weight, bias, geometry, needed)
    return _forward(_rows(x), weight, bias, geometry)

"""The convolution layer of all networks, alone or with the activation after it. On a CPU oneDNN computes it.

Paddle's own CPU convolution copies patches into a matrix on one core; oneDNN works on the image with all of them
(docs/performance.md). Elsewhere, and for what oneDNN does not take, it is Paddle's. A graph with such a convolution can
be run backward once: with retain_graph, Paddle crashes in every gradient of one's own; without_onednn() is for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_adaptseg.cpu import on_cpu
from paddle_adaptseg.cpu.arena import empty
from paddle_adaptseg.cpu.onednn import empty_last, lies_last
from paddle_adaptseg.cpu.operations import (
    Geometry,
    add,
    convolution,
    output_shape,
    pair,
    relu_backward,
    takes,
)


class Conv2D(nn.Conv2D):
    """A convolution. On a CPU oneDNN computes it, unless it is a mere product of row-major matrices (1x1)."""

    def forward(self, x: Tensor) -> Tensor:
        product = tuple(self._kernel_size) == pair(self._stride) == (1, 1)
        if self._groups > 1 or not on_cpu(x, self.weight) or (product and not lies_last(x)):
            return nn.Conv2D.forward(self, x)  # tracing cannot follow super()
        geometry = self.geometry(x.shape)
        return convolve(x, self.weight, self.bias, geometry) if takes(geometry) else nn.Conv2D.forward(self, x)

    def activated(self, x: Tensor, slope: float) -> Tensor:
        """The convolution and a (leaky) ReLU as one operation, whose result lies channels last on a CPU."""
        if self._groups == 1 and on_cpu(x, self.weight) and takes(self.geometry(x.shape)):
            return convolve(x, self.weight, self.bias, self.geometry(x.shape), slope)
        y = nn.Conv2D.forward(self, x)
        return F.leaky_relu(y, slope) if slope else F.relu(y)

    def geometry(self, shape: Sequence[int]) -> Geometry:
        """Everything that decides which operation a map of this shape needs."""
        numbers = pair(self._stride), pair(self._padding), pair(self._dilation)
        return (tuple(shape), tuple(self.weight.shape), *numbers)


class ConvSequence(nn.Sequential):
    """Layers in order; on a CPU a convolution and the (leaky) ReLU after it are one operation."""

    def forward(self, x: Tensor) -> Tensor:
        return self._joined(x) if on_cpu(x) else nn.Sequential.forward(self, x)

    def _joined(self, x: Tensor) -> Tensor:
        layers = list(self)
        for layer, after in zip(layers, [*layers[1:], None]):
            if isinstance(layer, Conv2D) and isinstance(after, (nn.ReLU, nn.LeakyReLU)):
                x = layer.activated(x, getattr(after, "_negative_slope", 0.0))
            elif not isinstance(layer, (nn.ReLU, nn.LeakyReLU)):
                x = layer(x)
        return x


def _forward(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], geometry: Geometry, slope: Optional[float] = None
) -> Tensor:
    y = empty(output_shape(geometry)) if slope is None else empty_last(output_shape(geometry))
    given = {"src": x, "weights": weight, "dst": y}
    operation = convolution("forward", geometry, bias is not None, slope)
    operation(given if bias is None else {**given, "bias": bias})
    return y


class _Convolution(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias, geometry, slope, needed):
        y = _forward(x, weight, bias, geometry, slope)
        ctx.save_for_backward(x, weight, *(() if slope is None else (y.detach(),)))
        ctx.geometry, ctx.slope, ctx.needed, ctx.bias = geometry, slope, needed, bias is not None
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, *result = ctx.saved_tensor()
        dy = whole(dy)
        if result:
            dz = empty_last(dy.shape)
            relu_backward(tuple(dy.shape), ctx.slope)({"dst": result[0], "diff_dst": dy, "diff_src": dz})
            dy = dz
        dx, dw, db = None, None, None
        if ctx.needed[0]:
            dx = empty_last(x.shape) if lies_last(x) else empty(x.shape)
            convolution("backward_data", ctx.geometry, False)({"diff_src": dx, "weights": weight, "diff_dst": dy})
        if ctx.needed[1]:
            dw = paddle.empty(weight.shape, dtype="float32")
            given = {"src": x, "diff_weights": dw, "diff_dst": dy}
            if ctx.bias:
                db = paddle.empty(weight.shape[:1], dtype="float32")
                given["diff_bias"] = db
            convolution("backward_weights", ctx.geometry, ctx.bias)(given)
        return (dx, dw, db) if ctx.bias else (dx, dw)


def whole(x: Tensor) -> Tensor:
    """A map without gaps in memory, in rows or channels last."""
    return x if x.is_contiguous() or lies_last(x) else x.contiguous()


@paddle.jit.not_to_static
def shared(x: Tensor, count: int) -> tuple[Tensor, ...]:
    """`x` for several readers. Where it lies channels last, so does the sum of their gradients."""
    if on_cpu(x) and not x.stop_gradient and paddle.is_grad_enabled() and lies_last(x):
        return _Shared.apply(x, count)
    return (x,) * count


class _Shared(PyLayer):
    @staticmethod
    def forward(ctx, x, count):
        ctx.set_materialize_grads(False)
        return tuple(x.transpose([0, 1, 2, 3]) for _ in range(count))  # Paddle takes x itself for a change in place

    @staticmethod
    def backward(ctx, *gradients):
        first, *others = [whole(g) for g in gradients if g is not None]
        if not others:
            return first
        total = empty_last(first.shape)
        for other in others:
            add(tuple(total.shape), relu=False)({"src": first, "other": other, "dst": total})
            first = total
        return total


def convolve(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], geometry: Geometry, slope: Optional[float] = None
) -> Tensor:
    """A convolution of one group with gradients for whatever wants them, and a ReLU of this slope if one is given."""
    needed = (not x.stop_gradient, not weight.stop_gradient)
    if any(needed) and paddle.is_grad_enabled():
        return _Convolution.apply(whole(x), weight, bias, geometry, slope, needed)
    return _forward(whole(x), weight, bias, geometry, slope)

"""A convolution and the batch norm after it as one operation with a gradient of its own, on a CPU.

oneDNN computes both on all cores, channels last, with nothing copied in between. Only the convolution's result is kept
for the backward pass; what follows from it (norm, ReLU) is computed again, which costs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_adaptseg.cpu import on_cpu
from paddle_adaptseg.cpu.arena import empty
from paddle_adaptseg.cpu.onednn import empty_last
from paddle_adaptseg.cpu.operations import (
    convolution,
    norm,
    norm_backward,
    output_shape,
    relu_backward,
    takes,
)
from paddle_adaptseg.models.convolution import Conv2D, whole

Gradients = tuple[Optional[Tensor], ...]


@dataclass(frozen=True)
class Kept:
    """What a unit's backward pass needs: the convolution's result and the statistics it was normalised with."""

    z: Tensor
    mean: Tensor
    variance: Tensor
    given: bool  # statistics that were stored, not the batch's


@dataclass(frozen=True)
class Unit:
    """A convolution without bias and its batch norm."""

    conv: Conv2D
    norm: nn.Layer

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether oneDNN takes it for a map of this shape."""
        plain = type(self.norm) is nn.BatchNorm2D and self.norm.weight is not None and self.conv.bias is None
        return plain and self.conv._groups == 1 and takes(self.conv.geometry(shape))

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the result for a map of this shape."""
        return output_shape(self.conv.geometry(shape))

    def parameters(self) -> tuple[Tensor, ...]:
        """In the order of the gradients that backward() gives."""
        return self.conv.weight, self.norm.weight, self.norm.bias

    def forward(self, x: Tensor, relu: bool, rows: bool = False) -> tuple[Tensor, Kept]:
        """norm(conv(x)), channels last or in `rows`, and what backward() needs; statistics move as Paddle's do."""
        z = empty_last(self.shape(x.shape))
        convolution("forward", self.conv.geometry(x.shape), False)({"src": x, "weights": self.conv.weight, "dst": z})
        layer = self.norm
        if layer._use_global_stats or not layer.training:
            kept = Kept(z, layer._mean.clone(), layer._variance.clone(), True)
            return self.normalised(kept, relu, rows), kept
        mean, variance = (paddle.empty(t.shape, dtype="float32") for t in (layer._mean, layer._variance))
        kept = Kept(z, mean, variance, False)
        operation = norm(tuple(z.shape), layer._epsilon, False, relu, True)
        given = self._tensors(kept, y := empty(z.shape) if rows else empty_last(z.shape))
        if relu:
            given["workspace"] = operation.workspace()
        operation(given)
        for running, now in ((layer._mean, kept.mean), (layer._variance, kept.variance)):
            running.scale_(layer._momentum)
            running.add_(now * (1 - layer._momentum))
        return y, kept

    def normalised(self, kept: Kept, relu: bool, rows: bool = False) -> Tensor:
        """The result again, from what was kept."""
        y = empty(kept.z.shape) if rows else empty_last(kept.z.shape)
        norm(tuple(y.shape), self.norm._epsilon, True, relu, False)(self._tensors(kept, y))
        return y

    def backward(
        self, x: Tensor, kept: Kept, dy: Tensor, free: Tensor, wanted: Sequence[bool]
    ) -> tuple[Optional[Tensor], Gradients]:
        """Gradients of x and of parameters(), as far as `wanted` says; memory to write in is `free`, or is `dy`."""
        scale, shift = (paddle.empty(p.shape, dtype="float32") for p in (self.norm.weight, self.norm.bias))
        given = {"src": kept.z, "mean": kept.mean, "variance": kept.variance, "scale": self.norm.weight}
        given.update(diff_dst=dy, diff_src=free, diff_scale=scale, diff_shift=shift)
        norm_backward(tuple(kept.z.shape), self.norm._epsilon, kept.given)(given)
        geometry, dx, dw = self.conv.geometry(x.shape), None, None
        if wanted[1]:
            dw = paddle.empty(self.conv.weight.shape, dtype="float32")
            convolution("backward_weights", geometry, False)({"src": x, "diff_weights": dw, "diff_dst": free})
        if wanted[0]:
            dx = empty_last(x.shape)
            given = {"diff_src": dx, "weights": self.conv.weight, "diff_dst": free}
            convolution("backward_data", geometry, False)(given)
        return dx, (dw, scale if wanted[2] else None, shift if wanted[3] else None)

    def _tensors(self, kept: Kept, y: Tensor) -> dict[str, Tensor]:
        statistics = {"mean": kept.mean, "variance": kept.variance}
        return {"src": kept.z, **statistics, "scale": self.norm.weight, "shift": self.norm.bias, "dst": y}


@paddle.jit.not_to_static  # Paddle 2.6 does not end tracing a loop with returns
def fits(x: Tensor, units: Sequence[Unit]) -> bool:
    """Whether units can run here on `x`, one after the other."""
    if not on_cpu(x, units[0].conv.weight):
        return False
    shape = tuple(x.shape)  # without an annotation, which Paddle 2.6 cannot trace
    for unit in units:
        if not unit.fits(shape):
            return False
        shape = unit.shape(shape)
    return True


class ConvNorm(nn.Sequential):
    """A convolution, its norm and, if there is one, a ReLU; its result lies in rows."""

    def forward(self, x: Tensor) -> Tensor:
        unit = Unit(self[0], self[1])
        return normed(x, unit, len(self) > 2, True) if fits(x, [unit]) else nn.Sequential.forward(self, x)


def wants(x: Tensor, parameters: Sequence[Tensor]) -> Optional[list[bool]]:
    """Which of `x` and the parameters want a gradient; None when no graph is built."""
    wanted = [not t.stop_gradient for t in (x, *parameters)]
    return wanted if paddle.is_grad_enabled() and any(wanted) else None


def normed(x: Tensor, unit: Unit, relu: bool, rows: bool = False) -> Tensor:
    """norm(conv(x)) and a ReLU on demand, channels last or in `rows`."""
    x, wanted = whole(x), wants(x, unit.parameters())
    if wanted is None:
        return unit.forward(x, relu, rows)[0]
    return _Unit.apply(x, (unit, relu, rows, wanted), *unit.parameters())


class _Unit(PyLayer):
    @staticmethod
    def forward(ctx, x, about, *parameters):
        unit, relu, rows, _ = ctx.about = about
        y, ctx.kept = unit.forward(x, relu, rows)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensor()
        unit, relu, _, wanted = ctx.about
        dy, free = whole(dy), empty_last(dy.shape)
        if relu:
            result = unit.normalised(ctx.kept, relu)
            relu_backward(tuple(dy.shape))({"dst": result, "diff_dst": dy, "diff_src": free})
            dy = free
        dx, gradients = unit.backward(x, ctx.kept, dy, free, wanted)
        return (dx, *gradients)

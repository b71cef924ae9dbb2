"""A convolution and the batch norm after it as one operation with a gradient of its own.

oneDNN computes both on all cores, channels last, with nothing copied in between. Only the convolution's result is kept
for the backward pass; what follows from it (norm, ReLU) is computed again, which costs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_adaptseg.cpu.arena import empty
from paddle_adaptseg.cpu.convolution import (
    geometry_of,
    gradient_of_map,
    gradients_of_kernel,
    run_forward,
    through_relu,
)
from paddle_adaptseg.cpu.gradient import Gradients, differentiable
from paddle_adaptseg.cpu.onednn import contiguous, empty_last
from paddle_adaptseg.cpu.operations import moments, norm, norm_backward, output_shape

ROWS = 256  # so many values are added up in float32, and their sums in float64

TensorGradients = tuple[Optional[Tensor], ...]


@dataclass(frozen=True)
class Saved:
    """What a unit's backward pass needs: the convolution's result and the statistics it was normalised with."""

    z: Tensor
    mean: Tensor
    variance: Tensor
    given: bool  # statistics that were stored, not the batch's


@dataclass(frozen=True)
class Unit:
    """A convolution without bias and its batch norm."""

    conv: nn.Conv2D
    norm: nn.BatchNorm2D

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the result for a map of this shape."""
        return output_shape(geometry_of(self.conv, shape))

    def parameters(self) -> tuple[Tensor, ...]:
        """Kernel, scale and shift: in the order of the gradients that backward() gives."""
        return contiguous(self.conv.weight), self.norm.weight, self.norm.bias

    def forward(self, x: Tensor, parameters: Sequence[Tensor], relu: bool, rows: bool = False) -> tuple[Tensor, Saved]:
        """norm(conv(x)), channels last or in `rows`, and what backward() needs; statistics move as Paddle's do."""
        geometry, layer = geometry_of(self.conv, x.shape), self.norm
        z = run_forward(x, parameters[0], [], geometry, empty_last(output_shape(geometry)))
        y = empty(z.shape) if rows else empty_last(z.shape)
        given = bool(layer._use_global_stats) or not layer.training
        if given:
            saved = Saved(z, layer._mean.clone(), layer._variance.clone(), given)
        else:
            saved = Saved(z, *statistics(z, empty_last(z.shape) if rows else y), given)
            for running, now in ((layer._mean, saved.mean), (layer._variance, saved.variance)):
                running.scale_(layer._momentum)
                running.add_(now * (1 - layer._momentum))
        return self.normalised(saved, parameters, relu, y), saved

    def normalised(self, saved: Saved, parameters: Sequence[Tensor], relu: bool, y: Tensor) -> Tensor:
        """The result from what was kept, written into `y`."""
        given = {"src": saved.z, "mean": saved.mean, "variance": saved.variance, "dst": y}
        given.update(scale=parameters[1], shift=parameters[2])
        norm(tuple(y.shape), self.norm._epsilon, relu)(given)
        return y

    def backward(
        self, x: Tensor, saved: Saved, parameters: Sequence[Tensor], dy: Tensor, free: Tensor, wanted: Sequence[bool]
    ) -> tuple[Optional[Tensor], TensorGradients]:
        """Gradients of x and of the parameters, as far as `wanted` says; memory to write in is `free`, or is `dy`."""
        scale, shift = (paddle.empty(p.shape, dtype="float32") for p in parameters[1:])
        given = {"src": saved.z, "mean": saved.mean, "variance": saved.variance, "scale": parameters[1]}
        given.update(diff_dst=dy, diff_src=free, diff_scale=scale, diff_shift=shift)
        norm_backward(tuple(saved.z.shape), self.norm._epsilon, saved.given)(given)
        geometry = geometry_of(self.conv, x.shape)
        kernel = gradients_of_kernel(x, parameters[0], geometry, free, wanted[1:2])
        dx = gradient_of_map(x, parameters[0], geometry, free, last=True) if wanted[0] else None
        return dx, (*kernel, scale if wanted[2] else None, shift if wanted[3] else None)


def statistics(z: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel of a map; `free`, another such map, is overwritten.

    oneDNN sums a whole map in float32, which leaves four digits of a large one. So the map is passed as one
    of few rows and many channels, and the means and variances of the parts are combined in float64.
    """
    count, channels = z.size // z.shape[1], z.shape[1]
    parts = max(1, count // ROWS)
    rows = count // parts
    taken = parts * rows
    flat, other = (x.transpose([0, 2, 3, 1]).reshape([count, channels]) for x in (z, free))
    shape = (1, parts * channels, rows, 1)
    many = (x[:taken].reshape([1, rows, 1, parts * channels]).transpose([0, 3, 1, 2]) for x in (flat, other))
    mean, variance = (paddle.empty([parts * channels], dtype="float32") for _ in range(2))
    moments(shape)({**dict(zip(("src", "dst"), many)), "mean": mean, "variance": variance})
    means, variances = (x.numpy().reshape(parts, channels).astype(np.float64) for x in (mean, variance))
    rest = flat[taken:].numpy().astype(np.float64)
    middle = (rows * means.sum(0) + rest.sum(0)) / count
    spread = rows * (variances + (means - middle) ** 2).sum(0) + ((rest - middle) ** 2).sum(0)
    return paddle.to_tensor(middle.astype(np.float32)), paddle.to_tensor((spread / count).astype(np.float32))


def normed(x: Tensor, unit: Unit, relu: bool, rows: bool = False) -> Tensor:
    """norm(conv(x)) and a ReLU on demand, channels last or in `rows`."""

    def operation(wanted: Sequence[bool], x: Tensor, *parameters: Tensor) -> tuple[Tensor, Gradients]:
        y, saved = unit.forward(x, parameters, relu, rows)

        def gradient(dy: Tensor) -> TensorGradients:
            free = empty_last(dy.shape)
            if relu:
                result = unit.normalised(saved, parameters, relu, empty_last(dy.shape))
                dy = through_relu(result, dy, free)
            dx, gradients = unit.backward(x, saved, parameters, dy, free, wanted)
            return (dx, *gradients)

        return y, gradient

    return differentiable(operation, contiguous(x), *unit.parameters())

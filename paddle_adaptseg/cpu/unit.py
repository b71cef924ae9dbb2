"""A convolution and the batch norm after it. oneDNN computes both, channels last, with nothing copied in between."""

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
)
from paddle_adaptseg.cpu.onednn import contiguous, empty_last
from paddle_adaptseg.cpu.operations import moments, norm, norm_backward, output_shape

ROWS = 256  # so many values are added up in float32, and their sums in float64
PIECE = 2**22  # numbers of a map that are looked at at once, with as many written beside them

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

    def forward(
        self, x: Tensor, parameters: Sequence[Tensor], relu: bool, rows: bool = False, keep: bool = True
    ) -> tuple[Tensor, Saved]:
        """norm(conv(x)), channels last or in `rows`, and what backward() needs; statistics move as Paddle's do.

        Where nothing is to `keep` for backward(), the result takes the place of the convolution's.
        """
        geometry, layer = geometry_of(self.conv, x.shape), self.norm
        z = run_forward(x, parameters[0], [], geometry, empty_last(output_shape(geometry)))
        given = bool(layer._use_global_stats) or not layer.training
        if given:
            saved = Saved(z, layer._mean.clone(), layer._variance.clone(), given)
        else:
            saved = Saved(z, *statistics(z), given)
            for running, now in ((layer._mean, saved.mean), (layer._variance, saved.variance)):
                running.scale_(layer._momentum)
                running.add_(now * (1 - layer._momentum))
        y = empty(z.shape) if rows else empty_last(z.shape) if keep else z
        return self.normalised(saved, parameters, relu, y), saved

    def normalised(self, saved: Saved, parameters: Sequence[Tensor], relu: bool, y: Tensor) -> Tensor:
        """The result from what was kept, written into `y`."""
        given = {"src": saved.z, "mean": saved.mean, "variance": saved.variance, "dst": y}
        given.update(scale=parameters[1], shift=parameters[2])
        norm(tuple(y.shape), self.norm._epsilon, relu)(given)
        return y

    def backward(
        self,
        x: Tensor,
        saved: Saved,
        parameters: Sequence[Tensor],
        dy: Tensor,
        free: Tensor,
        wanted: Sequence[bool],
        last: bool = True,
    ) -> tuple[Optional[Tensor], TensorGradients]:
        """Gradients of x (channels `last`, or as it lies) and of the parameters, as far as `wanted` says.

        Memory to write in is `free`, or is `dy`.
        """
        scale, shift = (paddle.empty(p.shape, dtype="float32") for p in parameters[1:])
        given = {"src": saved.z, "mean": saved.mean, "variance": saved.variance, "scale": parameters[1]}
        given.update(diff_dst=dy, diff_src=free, diff_scale=scale, diff_shift=shift)
        norm_backward(tuple(saved.z.shape), self.norm._epsilon, saved.given)(given)
        geometry = geometry_of(self.conv, x.shape)
        kernel = gradients_of_kernel(x, parameters[0], geometry, free, wanted[1:2])
        dx = gradient_of_map(x, parameters[0], geometry, free, last) if wanted[0] else None
        return dx, (*kernel, scale if wanted[2] else None, shift if wanted[3] else None)


def statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel of a map.

    oneDNN sums a whole map in float32, which leaves four digits of a large one. So pieces of the map are passed as
    maps of few rows and many channels, and the means and variances of all parts are combined in float64.
    """
    count, channels = z.size // z.shape[1], z.shape[1]
    flat = z.transpose([0, 2, 3, 1]).reshape([count, channels])
    step = min(count, max(ROWS, PIECE // channels))
    free = empty([step, channels])
    found = [part for first in range(0, count, step) for part in _moments(flat[first : first + step], free)]
    weights = np.concatenate([np.full(len(means), rows) for rows, means, _ in found]).reshape(-1, 1) / count
    means, variances = (np.concatenate(parts).astype(np.float64) for parts in list(zip(*found))[1:])
    middle = (weights * means).sum(0)
    spread = (weights * (variances + (means - middle) ** 2)).sum(0)
    return paddle.to_tensor(middle.astype(np.float32)), paddle.to_tensor(spread.astype(np.float32))


def _moments(flat: Tensor, free: Tensor) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Of pixels [count, channels]: how many are in a part, and the parts' means and variances [parts, channels].

    `free`, as many pixels or more, is overwritten.
    """
    count, channels = flat.shape
    parts = max(1, count // ROWS)
    rows = count // parts
    taken = parts * rows
    shape = (1, parts * channels, rows, 1)
    many = (x[:taken].reshape([1, rows, 1, parts * channels]).transpose([0, 3, 1, 2]) for x in (flat, free))
    mean, variance = (paddle.empty([parts * channels], dtype="float32") for _ in range(2))
    moments(shape)({**dict(zip(("src", "dst"), many)), "mean": mean, "variance": variance})
    rest = flat[taken:].numpy()
    single = [(1, rest, np.zeros_like(rest))] if len(rest) else []
    return [(rows, mean.numpy().reshape(parts, channels), variance.numpy().reshape(parts, channels)), *single]

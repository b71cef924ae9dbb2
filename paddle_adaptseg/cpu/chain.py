"""Convolutions with their norms and ReLUs in a row as one operation with a gradient of its own.

Only the convolutions' results are kept for the backward pass; what follows from them (norm, ReLU) is computed again,
which costs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from paddle import Tensor

from paddle_adaptseg.cpu.convolution import through_relu
from paddle_adaptseg.cpu.gradient import Gradients, differentiable
from paddle_adaptseg.cpu.onednn import contiguous, empty_last, lies_last
from paddle_adaptseg.cpu.unit import Saved, TensorGradients, Unit

Parameters = Sequence[Sequence[Tensor]]


def chained(x: Tensor, units: Sequence[Unit], relu: bool, rows: bool = False) -> Tensor:
    """Units with a ReLU after each, after the last one on demand; the result lies channels last or in `rows`."""

    def operation(wanted: Sequence[bool], x: Tensor, *flat: Tensor) -> tuple[Tensor, Gradients]:
        parameters = by_unit(flat)
        y, saved = forward(x, units, parameters, relu, rows, keep=any(wanted))

        def gradient(dy: Tensor) -> TensorGradients:
            free = empty_last(dy.shape)
            if relu:
                dy = through_relu(units[-1].normalised(saved[-1], parameters[-1], True, empty_last(dy.shape)), dy, free)
            dx, found = backward(x, saved, units, parameters, dy, free, wanted, lies_last(x))
            return (dx, *(g for gradients in found for g in gradients))

        return y, gradient

    return differentiable(operation, contiguous(x), *parameters_of(units))


def parameters_of(units: Sequence[Unit]) -> list[Tensor]:
    """Kernel, scale and shift of every unit."""
    return [p for unit in units for p in unit.parameters()]


def by_unit(flat: Sequence) -> list[Sequence]:
    """What there is for every parameter, by unit."""
    return [flat[first : first + 3] for first in range(0, len(flat), 3)]


def forward(
    x: Tensor, units: Sequence[Unit], parameters: Parameters, relu: bool, rows: bool = False, keep: bool = True
) -> tuple[Tensor, list[Saved]]:
    """The result, and what backward() needs if that is to `keep`."""
    saved: list[Saved] = []
    for index, unit in enumerate(units):
        more = index < len(units) - 1
        x, one = unit.forward(x, parameters[index], more or relu, rows and not more, keep)
        if keep:
            saved.append(one)
        del one
    return x, saved


def backward(
    x: Tensor,
    saved: list[Saved],
    units: Sequence[Unit],
    parameters: Parameters,
    dy: Tensor,
    free: Tensor,
    wanted: Sequence[bool],
    last: bool = True,
) -> tuple[Optional[Tensor], list[TensorGradients]]:
    """Gradients of x and of the parameters by unit; what was kept is let go of when it has been read."""
    flags, found, dx = by_unit(wanted[1:]), list[TensorGradients](), None
    for index in reversed(range(len(units))):
        kept, before = saved.pop(), x
        if index:
            before = units[index - 1].normalised(saved[-1], parameters[index - 1], True, empty_last(saved[-1].z.shape))
        needs = (bool(index) or wanted[0], *flags[index])
        dx, gradients = units[index].backward(
            before, kept, parameters[index], dy, free, needs, last=bool(index) or last
        )
        found.insert(0, gradients)
        if index:
            assert dx is not None
            dy = free = through_relu(before, dx, dx)
    return dx, found

"""A residual block as one operation with a gradient of its own: maps stay channels last from block to block.

Of a block only its convolutions' results are kept for the backward pass, and its output, which the next block keeps
too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from paddle import Tensor

from paddle_adaptseg.cpu.convolution import added, through_relu
from paddle_adaptseg.cpu.gradient import Gradients, differentiable
from paddle_adaptseg.cpu.onednn import contiguous, empty_last
from paddle_adaptseg.cpu.operations import add
from paddle_adaptseg.cpu.unit import Saved, TensorGradients, Unit


def residual(x: Tensor, units: Sequence[Unit], shortcut: Optional[Unit]) -> Tensor:
    """relu(units(x) + shortcut(x)), with a ReLU after every unit but the last; the shortcut may be x itself."""
    every = [*units, *([] if shortcut is None else [shortcut])]

    def operation(wanted: Sequence[bool], x: Tensor, *flat: Tensor) -> tuple[Tensor, Gradients]:
        parameters = [flat[3 * i : 3 * i + 3] for i in range(len(every))]
        y, saved = _forward(x, every, parameters, shortcut is not None)
        result = y.detach()  # y itself would keep its graph alive through what is kept for it
        return y, lambda dy: _backward(x, result, every, parameters, saved, shortcut is not None, wanted, dy)

    return differentiable(operation, contiguous(x), *(p for unit in every for p in unit.parameters()))


def _forward(
    x: Tensor, units: Sequence[Unit], parameters: Sequence[Sequence[Tensor]], projected: bool
) -> tuple[Tensor, list[Saved]]:
    saved, y, main = [], x, len(units) - projected
    for index in range(main):
        y, one = units[index].forward(y, parameters[index], relu=index < main - 1)
        saved.append(one)
    other = x
    if projected:
        other, one = units[-1].forward(x, parameters[-1], relu=False)
        saved.append(one)
    add(tuple(y.shape), relu=True)({"src": y, "other": other, "dst": y})
    return y, saved


def _backward(
    x: Tensor,
    y: Tensor,
    units: Sequence[Unit],
    parameters: Sequence[Sequence[Tensor]],
    saved: list[Saved],
    projected: bool,
    wanted: Sequence[bool],
    dy: Tensor,
) -> TensorGradients:
    """Gradients of x and of all parameters; what was kept is let go of when it has been read."""
    flags = [wanted[1 + 3 * i : 4 + 3 * i] for i in range(len(units))]
    dy = through_relu(y, dy, empty_last(y.shape))
    side = saved.pop() if projected else None
    found: list[TensorGradients] = []
    dx, free = dy, empty_last(y.shape)
    for index in reversed(range(len(saved))):
        last, before = saved.pop(), x
        if index:
            before = units[index - 1].normalised(saved[-1], parameters[index - 1], True, empty_last(saved[-1].z.shape))
        needs = (bool(index) or wanted[0], *flags[index])
        dx, gradients = units[index].backward(before, last, parameters[index], dx, free, needs)
        found.insert(0, gradients)
        if index:
            dx = free = through_relu(before, dx, dx)
    if side is not None:
        dy, gradients = units[-1].backward(x, side, parameters[-1], dy, dy, (wanted[0], *flags[-1]))
        found.append(gradients)
    return (added(dx, dy) if wanted[0] else None, *(g for gradients in found for g in gradients))

"""A residual block as one operation with a gradient of its own: maps stay channels last from block to block.

Of a block only its convolutions' results are kept for the backward pass, and its output, which the next block keeps
too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from paddle import Tensor

from paddle_adaptseg.cpu import chain
from paddle_adaptseg.cpu.convolution import added, through_relu
from paddle_adaptseg.cpu.gradient import Gradients, differentiable
from paddle_adaptseg.cpu.onednn import contiguous, empty_last
from paddle_adaptseg.cpu.operations import add
from paddle_adaptseg.cpu.unit import TensorGradients, Unit


def residual(x: Tensor, units: Sequence[Unit], shortcut: Optional[Unit]) -> Tensor:
    """relu(units(x) + shortcut(x)), with a ReLU after every unit but the last; the shortcut may be x itself."""
    side = [] if shortcut is None else [shortcut]
    own = 3 * len(units)

    def operation(wanted: Sequence[bool], x: Tensor, *flat: Tensor) -> tuple[Tensor, Gradients]:
        main, beside = chain.by_unit(flat[:own]), chain.by_unit(flat[own:])
        y, saved = chain.forward(x, units, main, relu=False, keep=any(wanted))
        other, saved_beside = chain.forward(x, side, beside, relu=False, keep=any(wanted))
        add(tuple(y.shape), relu=True)({"src": y, "other": other, "dst": y})
        result = y.detach()  # y itself would keep its graph alive through what is kept for it

        def gradient(dy: Tensor) -> TensorGradients:
            dy = through_relu(result, dy, empty_last(dy.shape))
            free = empty_last(dy.shape)
            dx, found = chain.backward(x, saved, units, main, dy, free, wanted[: 1 + own])
            if side:
                needs = (wanted[0], *wanted[1 + own :])
                dy, more = chain.backward(x, saved_beside, side, beside, dy, dy, needs)
                found += more
            return (added(dx, dy) if wanted[0] else None, *(g for gradients in found for g in gradients))

        return y, gradient

    return differentiable(operation, contiguous(x), *chain.parameters_of([*units, *side]))

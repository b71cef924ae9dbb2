"""A residual block as one operation with a gradient of its own, on a CPU: maps stay channels last from block to block.

Of a block only its convolutions' results are kept for the backward pass, and its output, which the next block keeps
too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_adaptseg.cpu.onednn import empty_last
from paddle_adaptseg.cpu.operations import add, relu_backward
from paddle_adaptseg.models.convolution import whole
from paddle_adaptseg.models.unit import Gradients, Kept, Unit, wants


def norms_of(block: nn.Layer) -> list[nn.Layer]:
    """The norms of a block that runs as one operation on a CPU; of any other block, none."""
    units, shortcut = block.units() if hasattr(block, "units") else ((), None)
    norms = [unit.norm for unit in (*units, *([] if shortcut is None else [shortcut]))]
    return norms if all(type(norm) is nn.BatchNorm2D for norm in norms) else []


def residual(x: Tensor, units: Sequence[Unit], shortcut: Optional[Unit]) -> Tensor:
    """relu(units(x) + shortcut(x)), with a ReLU after every unit but the last; the shortcut may be x itself."""
    every = [*units, *([] if shortcut is None else [shortcut])]
    parameters = [p for unit in every for p in unit.parameters()]
    x, wanted = whole(x), wants(x, parameters)
    if wanted is None:
        return _forward(x, units, shortcut)[0]
    return _Residual.apply(x, (units, shortcut, wanted), *parameters)


def _forward(x: Tensor, units: Sequence[Unit], shortcut: Optional[Unit]) -> tuple[Tensor, list[Kept]]:
    kept, y = [], x
    for unit in units:
        y, one = unit.forward(y, relu=unit is not units[-1])
        kept.append(one)
    other = x
    if shortcut is not None:
        other, one = shortcut.forward(x, relu=False)
        kept.append(one)
    add(tuple(y.shape), relu=True)({"src": y, "other": other, "dst": y})
    return y, kept


class _Residual(PyLayer):
    @staticmethod
    def forward(ctx, x, block, *parameters):
        units, shortcut, _ = ctx.block = block
        y, ctx.kept = _forward(x, units, shortcut)
        ctx.save_for_backward(x, y.detach())
        return y

    @staticmethod
    def backward(ctx, dy):
        x, y = ctx.saved_tensor()
        (units, shortcut, wanted), kept = ctx.block, ctx.kept
        flags = [wanted[1 + 3 * i : 4 + 3 * i] for i in range(len(kept))]
        dy = _through_relu(y, whole(dy), empty_last(y.shape))
        side = (shortcut, kept.pop(), flags.pop()) if shortcut is not None else None
        found: list[Gradients] = []
        dx, free = dy, empty_last(y.shape)
        for unit in reversed(units):
            last = kept.pop()
            before = units[len(kept) - 1].normalised(kept[-1], relu=True) if kept else x
            dx, gradients = unit.backward(before, last, dx, free, (bool(kept) or wanted[0], *flags.pop()))
            found.insert(0, gradients)
            if kept:
                dx = free = _through_relu(before, dx, dx)
        if side is not None:
            dy, gradients = side[0].backward(x, side[1], dy, dy, (wanted[0], *side[2]))
            found.append(gradients)
        if wanted[0]:
            add(tuple(x.shape), relu=False)({"src": dx, "other": dy, "dst": dx})
        return (dx, *(g for gradients in found for g in gradients))


def _through_relu(y: Tensor, dy: Tensor, result: Tensor) -> Tensor:
    """The gradient before a ReLU whose result was `y`, written into `result`, which may be `dy`."""
    relu_backward(tuple(y.shape))({"dst": y, "diff_dst": dy, "diff_src": result})
    return result

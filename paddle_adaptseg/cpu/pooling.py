"""Max pooling that keeps maps channels last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from paddle import Tensor, nn

from paddle_adaptseg.cpu.gradient import Gradients, differentiable
from paddle_adaptseg.cpu.library import Refused
from paddle_adaptseg.cpu.onednn import empty_last
from paddle_adaptseg.cpu.operations import Window, max_pool, max_pool_backward


def window_of(pool: nn.MaxPool2D, shape: Sequence[int]) -> Optional[Window]:
    """What a pooling of square windows does to a map of this shape; None where oneDNN has no operation for it."""
    kernel, stride, padding = pool.ksize, pool.stride or pool.ksize, pool.padding
    sizes = [n + 2 * padding - kernel + (stride - 1 if pool.ceil_mode else 0) for n in shape[2:]]
    window = tuple(shape), (*shape[:2], *(size // stride + 1 for size in sizes)), kernel, stride, padding
    try:
        return window if max_pool(window) and max_pool_backward(window) else None
    except Refused:
        return None


def pooled(x: Tensor, window: Window) -> Tensor:
    """Max pooling of a map that lies channels last."""

    def operation(wanted: Sequence[bool], x: Tensor) -> tuple[Tensor, Gradients]:
        forward, y = max_pool(window), empty_last(window[1])
        chosen = forward.workspace()
        forward({"src": x, "dst": y, "workspace": chosen})

        def gradient(dy: Tensor) -> tuple[Tensor]:
            dx = empty_last(window[0])
            max_pool_backward(window)({"diff_dst": dy, "diff_src": dx, "workspace": chosen})
            return (dx,)

        return y, gradient

    return differentiable(operation, x)

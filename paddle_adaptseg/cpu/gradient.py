"""How an operation of ours becomes part of Paddle's graph.

Paddle runs a gradient of one's own once: it releases it although the graph is retained, and crashes when it meets it
again. A hook on the result, which Paddle calls before, turns the crash into an error. A gradient here is not a graph
either, so it cannot be differentiated again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Callable, Optional

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddle_adaptseg.cpu.onednn import contiguous

Gradients = Callable[[Tensor], tuple[Optional[Tensor], ...]]
Operation = Callable[..., tuple[Tensor, Gradients]]

ADVICE = "set run.accelerate=off, or PADDLE_ADAPTSEG_ACCELERATE=off, to let Paddle compute it"


def differentiable(operation: Operation, *tensors: Tensor) -> Tensor:
    """The result of operation(wanted, *tensors) in Paddle's graph.

    The operation returns its result and the function from the result's gradient to those of the tensors, None for
    what is not `wanted`.
    """
    wanted = [paddle.is_grad_enabled() and not tensor.stop_gradient for tensor in tensors]
    if not any(wanted):
        return operation(wanted, *tensors)[0]
    done: list[bool] = []
    y = _Node.apply(operation, wanted, done, *tensors)
    y.register_hook(_Once(done))
    return y


class _Once:
    """Called with the gradient of a result, before the operation's own gradient is asked for."""

    def __init__(self, done: Sequence[bool]) -> None:
        self.done = done

    def __call__(self, gradient: Tensor) -> None:
        if self.done:
            _refuse("a graph with accelerated operations can be run backward once")


class _Node(PyLayer):
    @staticmethod
    def forward(ctx, operation, wanted, done, *tensors):
        y, ctx.gradient = operation(wanted, *tensors)
        ctx.done = done
        return y

    @staticmethod
    def backward(ctx, dy):
        ctx.done.append(True)
        if paddle.is_grad_enabled():
            _refuse("gradients of accelerated operations cannot be differentiated again (create_graph)")
        gradient, ctx.gradient = ctx.gradient, None
        found = gradient(contiguous(dy))
        return found if len(found) > 1 else found[0]


def _refuse(what: str) -> None:
    print(f"{what}: {ADVICE}", file=sys.stderr)  # Paddle drops what a hook raises, and says that something was raised
    raise RuntimeError(f"{what}: {ADVICE}")

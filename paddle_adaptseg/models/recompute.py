"""Less memory for more time: a block keeps only its input, and runs forward again when its gradient is asked for.

Running statistics move once, and gradients equal the plain ones to the last bit on a CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer


class Recomputed(nn.Layer):
    """A block that can be told to recompute; its subclasses say in run() what forward() would do."""

    recompute = False

    def run(self, x: Tensor) -> Tensor:
        """The block's own computation."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if self.recompute and self.training and paddle.in_dynamic_mode() and paddle.is_grad_enabled():
            return _Again.apply(x, self)
        return self.run(x)


class _Again(PyLayer):
    @staticmethod
    def forward(ctx, x, block):
        ctx.save_for_backward(x)
        ctx.block, ctx.state = block, paddle.get_rng_state()
        with paddle.no_grad():
            return block.run(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensor()
        x, now = x.detach(), paddle.get_rng_state()
        x.stop_gradient = False
        paddle.set_rng_state(ctx.state)
        with paddle.enable_grad(), _still(ctx.block):
            y = ctx.block.run(x)
        paddle.set_rng_state(now)
        paddle.autograd.backward([y], [dy])
        return x.grad


@contextlib.contextmanager
def _still(block: nn.Layer) -> Iterator[None]:
    """Inside, running statistics stay as they are: Paddle's momentum is what it keeps of them."""
    norms = [(layer, layer._momentum) for layer in block.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    for layer, _ in norms:
        layer._momentum = 1.0
    try:
        yield
    finally:
        for layer, momentum in norms:
            layer._momentum = momentum


def set_recompute(network: nn.Layer, on: bool) -> int:
    """Tell every block of a network, and say how many there are."""
    blocks = [layer for layer in network.sublayers() if isinstance(layer, Recomputed)]
    for block in blocks:
        block.recompute = on
    return len(blocks)

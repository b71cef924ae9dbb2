"""Less memory for more time: a block keeps only its input, and runs forward again when its gradient is asked for.

Running statistics move once, and gradients equal the plain ones to the last bit on a CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_adaptseg.config import EVERY_STAGE
from paddle_adaptseg.errors import ConfigError, suggest


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


def blocks_of(network: nn.Layer, stages: Sequence[str] = EVERY_STAGE) -> list[Recomputed]:
    """The blocks of some stages: those in whose dotted name ("backbone.layer3.5") a stage's name is a part."""
    blocks = {name: layer for name, layer in network.named_sublayers() if isinstance(layer, Recomputed)}
    if stages == EVERY_STAGE:
        return list(blocks.values())
    known = dict.fromkeys(part for name in blocks for part in name.split(".") if not part.isdigit())
    for stage in stages:
        if stage not in known:
            raise ConfigError(f"run.recompute: the network has no stage '{stage}': {suggest(stage, known)}")
    return [layer for name, layer in blocks.items() if set(stages) & set(name.split("."))]


def set_recompute(network: nn.Layer, stages: Sequence[str]) -> None:
    """Tell the blocks of some stages to recompute, and all others not to."""
    for layer in network.sublayers():
        if isinstance(layer, Recomputed):
            layer.recompute = False
    chosen = blocks_of(network, stages)
    if stages and not chosen:
        raise ConfigError("run.recompute does nothing for this network: it has no blocks that can run again")
    for block in chosen:
        block.recompute = True

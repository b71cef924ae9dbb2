"""Less memory for more time: a block keeps only its input, and runs forward again when its gradient is asked for.

Running statistics move once, and gradients equal the plain ones to the last bit on a CPU. Networks know nothing of it:
the chosen blocks get another forward().
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import MethodType

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_adaptseg.config.schema import EVERY_STAGE
from paddle_adaptseg.core.errors import ConfigError, suggest
from paddle_adaptseg.models.dinov2 import Block
from paddle_adaptseg.models.mit import MixBlock
from paddle_adaptseg.models.resnet import Bottleneck
from paddle_adaptseg.models.small import BasicBlock

BLOCKS = (Bottleneck, BasicBlock, MixBlock, Block)  # what can run again


def _forward(block: nn.Layer, x: Tensor) -> Tensor:
    """What a block that recomputes has in the place of its forward()."""
    if block.training and paddle.in_dynamic_mode() and paddle.is_grad_enabled() and not x.stop_gradient:
        done: list[bool] = []
        y = _Again.apply(x, block, done)
        y.register_hook(lambda _: _refuse_twice(done))
        return y
    return _run(block, x)


def _run(block: nn.Layer, x: Tensor) -> Tensor:
    """The block's own computation."""
    return type(block).forward(block, x)


def _refuse_twice(done: list[bool]) -> None:
    """Paddle calls this before the block's own gradient, which crashes when it is asked for again."""
    if done:
        raise RuntimeError("a graph with recomputed blocks can be run backward once: leave run.recompute out")


class _Again(PyLayer):
    @staticmethod
    def forward(ctx, x, block, done):
        ctx.save_for_backward(x)
        ctx.done = done
        ctx.block, ctx.state = block, paddle.get_rng_state()
        with paddle.no_grad():
            return _run(block, x)

    @staticmethod
    def backward(ctx, dy):
        ctx.done.append(True)
        (x,) = ctx.saved_tensor()
        x, now = x.detach(), paddle.get_rng_state()
        x.stop_gradient = False
        paddle.set_rng_state(ctx.state)
        with paddle.enable_grad(), _still(ctx.block):
            y = _run(ctx.block, x.transpose(list(range(x.ndim))))  # no leaf, as in the first run
        paddle.set_rng_state(now)
        paddle.autograd.backward([y], [dy])
        return x.grad


@contextlib.contextmanager
def _still(block: nn.Layer) -> Iterator[None]:
    """Inside, running statistics stay as they are: Paddle's momentum is what it keeps of them."""
    norms = [(layer, layer._momentum) for layer in block.sublayers() if hasattr(layer, "_variance")]
    for layer, _ in norms:
        layer._momentum = 1.0
    try:
        yield
    finally:
        for layer, momentum in norms:
            layer._momentum = momentum


def blocks_of(network: nn.Layer, stages: Sequence[str] = EVERY_STAGE) -> list[nn.Layer]:
    """The blocks of some stages: those in whose dotted name ("backbone.layer3.5") a stage's name is a part."""
    blocks = {name: layer for name, layer in network.named_sublayers() if isinstance(layer, BLOCKS)}
    if stages == EVERY_STAGE:
        return list(blocks.values())
    known = dict.fromkeys(part for name in blocks for part in name.split(".") if not part.isdigit())
    for stage in stages:
        if stage not in known:
            raise ConfigError(f"run.recompute: the network has no stage '{stage}': {suggest(stage, known)}")
    return [layer for name, layer in blocks.items() if set(stages) & set(name.split("."))]


def set_recompute(network: nn.Layer, stages: Sequence[str]) -> None:
    """Let the blocks of some stages recompute, and no others."""
    for block in blocks_of(network):
        vars(block).pop("forward", None)
    chosen = blocks_of(network, stages)
    if stages and not chosen:
        raise ConfigError("run.recompute does nothing for this network: it has no blocks that can run again")
    for block in chosen:
        block.forward = MethodType(_forward, block)  # type: ignore[method-assign]

"""Less memory for more time: a block keeps only its input, and runs forward again when its gradient is asked for.

Paddle's own `recompute` does it, which restores random numbers and mixed precision. It would move running statistics
twice, so that batch norms are held still meanwhile. Gradients equal the plain ones to the last bit on a CPU. Networks
know nothing of it: the chosen blocks get another forward().
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import MethodType

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.config.schema import EVERY_STAGE
from paddle_adaptseg.core.errors import ConfigError, suggest

BLOCKS = {"resnet.Bottleneck", "small.BasicBlock", "mit.MixBlock", "dinov2.Block"}  # what can run again


def is_block(layer: nn.Layer) -> bool:
    """Whether a layer can run again, by its name: most runs have loaded one of these modules only."""
    kinds = (f"{kind.__module__}.{kind.__name__}" for kind in type(layer).__mro__)
    return any(kind.removeprefix("paddle_adaptseg.models.") in BLOCKS for kind in kinds)


def _forward(block: nn.Layer, x: Tensor) -> Tensor:
    """What a block that recomputes has in the place of its forward()."""
    if not (block.training and paddle.in_dynamic_mode() and paddle.is_grad_enabled() and not x.stop_gradient):
        return _run(block, x)
    from paddle.distributed.fleet.utils import recompute

    done: list[bool] = []

    def run(x: Tensor) -> Tensor:
        if not paddle.is_grad_enabled():
            return _run(block, x)  # the first time, when nothing is kept
        done.append(True)
        with _still(block):
            return _run(block, x.transpose(list(range(x.ndim))))  # no leaf, as in the first run

    y = recompute(run, x)
    y.register_hook(lambda _: _refuse_twice(done))
    return y


def _run(block: nn.Layer, x: Tensor) -> Tensor:
    """The block's own computation."""
    return type(block).forward(block, x)


def _refuse_twice(done: list[bool]) -> None:
    """Paddle calls this before the block's own gradient, which crashes when it is asked for again."""
    if done:
        raise RuntimeError("a graph with recomputed blocks can be run backward once: leave run.recompute out")


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
    blocks = {name: layer for name, layer in network.named_sublayers() if is_block(layer)}
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

"""The passes of a step, and the bytes that each of them takes: the teacher's, then one for each group of terms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods.base import Clock, Method
from paddle_adaptseg.models.recompute import is_block
from paddle_adaptseg.training.counters import Watch, watched
from paddle_adaptseg.training.precision import Precision
from paddle_adaptseg.training.step import TrainState, backward


@dataclass(frozen=True)
class Pass:
    """Bytes before a pass, kept for its backward pass, and needed at its peak beside both.

    `again`: the most above what was there before in each part of the work of blocks that recompute.
    """

    before: int
    kept: int
    more: int
    again: Sequence[int] = ()


def passes_of(state: TrainState, batches: Sequence[Batch], clock: Clock) -> list[Pass]:
    """The passes of a step up to its optimisers, whose gradients stay."""
    method, found = state.method, list[Pass]()
    method.train()
    with watched() as watch:
        for part in method.parts():
            part.before_step(batches, clock)
    found.append(Pass(watch.before, 0, watch.peak))
    groups = iter(method.all_losses(batches[-1], clock))
    while True:
        with watched() as watch, marked(method, watch):
            terms = next(groups, None)
            if terms is None:
                return found
            watch.kept, number = watch.now(), len(watch.parts)
            backward(terms, 1.0, Precision())
            terms.clear()
        parts = watch.parts
        found.append(Pass(watch.before, watch.kept, parts[number] - watch.kept, parts[:number] + parts[number + 1 :]))


@contextlib.contextmanager
def marked(method: Method, watch: Watch) -> Iterator[None]:
    """Inside, blocks that recompute are watched layer by layer in both directions: the last of each stage, beside which
    most is kept.

    What is needed of one layer grows with the powers of an area, which the most of many different ones does not.
    """
    named = [(name, layer) for name, layer in method.segmenter.named_sublayers() if is_block(layer)]
    last = {name.rpartition(".")[0]: block for name, block in named if "forward" in vars(block)}
    layers = [layer for block in last.values() for layer in block.sublayers() if not layer.sublayers()]

    def after(layer: nn.Layer, given: Any, made: paddle.Tensor) -> None:
        if not made.stop_gradient:  # in the second run: nothing is kept of the first one
            watch.mark()
            made.register_hook(lambda gradient: watch.mark())

    hooks = [layer.register_forward_post_hook(after) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

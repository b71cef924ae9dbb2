"""How much memory a training step will need, counted on a small picture before it starts.

What a backward pass reads again are the results of convolutions, linear layers, norms and pooling, what linear layers
and layer norms were given, and the scores of attention: hooks count them on a picture of a sixteenth of the area.
Accelerated residual blocks compute their norms again and keep their results instead. Full-size logits count by size,
weights with their momentum; gradients come while results go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.config import EVERY_STAGE, Config
from paddle_adaptseg.data import label_space
from paddle_adaptseg.methods.base import Method
from paddle_adaptseg.models.dinov2 import SelfAttention
from paddle_adaptseg.models.layers import inference
from paddle_adaptseg.models.mit import EfficientAttention
from paddle_adaptseg.models.recompute import blocks_of

KEPT = (
    nn.Conv2D,
    nn.Conv2DTranspose,
    nn.Linear,
    nn.BatchNorm2D,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.MaxPool2D,
    EfficientAttention,
    SelfAttention,
)
SHRINK = 4  # the picture on which is counted has 1/4 of the width and height
WORTH_SAYING = 200_000_000  # bytes that recomputing must save to be mentioned
FULL_SIZE_MAPS = 4  # logits, their softmax and the two gradients, at the size of the picture


@dataclass(frozen=True)
class Estimate:
    """Bytes of a step: in all, and what remembering only the inputs of all blocks, or of those chosen, saves."""

    total: int
    saving: int
    recomputes: bool = False

    def text(self) -> str:
        """One line for a person."""
        size = f"about {self.total / 1e9:.1f} GB for tensors at this size (the framework's own memory comes on top)"
        if self.recomputes or self.saving < WORTH_SAYING:
            return f"memory: {size}"
        return f"memory: {size}; run.recompute=true saves about {self.saving / 1e9:.1f} GB"


def estimate(method: Method, config: Config) -> Estimate:
    """What one step of a method holds at its peak, which is the larger of its two pictures' passes."""
    width, height = max((config.data.source.size, config.data.target.size), key=lambda size: size[0] * size[1])
    stages = config.run.recompute or EVERY_STAGE
    plain, again = _kept(method, height // SHRINK, width // SHRINK, stages)
    parameters = sum(p.size * (4 if p.stop_gradient else 8) for p in method.parameters())
    batch, levels = config.data.batch_size, len(method.segmenter.levels)
    maps = 4 * FULL_SIZE_MAPS * batch * levels * len(label_space(config)) * height * width
    factor = batch * SHRINK**2 / (1 if config.run.precision == "fp32" else 2)
    total = parameters + maps + (again if config.run.recompute else plain) * factor
    return Estimate(int(total), int((plain - again) * factor), bool(config.run.recompute))


def _numbers(layer: nn.Layer, given: Tensor, output: Tensor) -> int:
    """What is kept of a layer: its result, and of attention the scores, which grow with the square of the area."""
    if isinstance(layer, (nn.Linear, nn.LayerNorm)):
        return output.size + given.size
    if not isinstance(layer, (EfficientAttention, SelfAttention)):
        return output.size
    queries = output.size // output.shape[-1] // output.shape[0]
    return SHRINK**2 * layer.heads * queries * max(1, queries // getattr(layer, "reduction", 1) ** 2)


@contextlib.contextmanager
def _smaller_input(segmenter: nn.Layer) -> Iterator[None]:
    """Inside, a network that brings every picture to a size of its own works at a quarter of it."""
    backbone = getattr(segmenter, "backbone", None)
    size = getattr(backbone, "image_size", 0)
    if size:
        backbone.image_size = size // SHRINK
    try:
        yield
    finally:
        if size:
            backbone.image_size = size


def _kept(method: Method, height: int, width: int, stages: Sequence[str]) -> tuple[int, int]:
    """Bytes that a forward pass of one small picture keeps: plain, and when the blocks of some stages recompute."""
    every, blocks = blocks_of(method.segmenter), blocks_of(method.segmenter, stages)
    inside = {id(sub): index for index, block in enumerate(blocks) for sub in block.sublayers()}
    lean = {id(block): block.computed_again() for block in every if hasattr(block, "computed_again")}
    made_again = {id(norm) for norms in lean.values() for norm in norms}
    plain, outside, per_block = [], [], [0] * len(blocks)

    def count(layer, inputs, output):
        size, passing = 4 * _numbers(layer, inputs[0], output), id(layer) in made_again
        if not passing:
            plain.append(size)
        if id(layer) in inside:
            per_block[inside[id(layer)]] += size
        elif not passing:
            outside.append(size)

    def count_block(block, inputs, output):
        if lean.get(id(block)):
            plain.append(4 * output.size)
        if lean.get(id(block)) or block in blocks:
            outside.append(4 * output.size)

    hooks = [x.register_forward_post_hook(count) for x in method.segmenter.sublayers() if isinstance(x, KEPT)]
    hooks += [block.register_forward_post_hook(count_block) for block in every]
    try:
        with inference(method), _smaller_input(method.segmenter):
            method.segmenter.logits(paddle.zeros([1, 3, height, width]))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(plain), sum(outside) + max(per_block, default=0)

"""The random choices of self-training as pure functions of (seed, step, image): resuming needs no random state.

An image is known by its position in the endless stream of training data, which says both its step and its place in the
common batch of all processes. Numbers are drawn on the host, so nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np
from paddle import Tensor

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods.augment import Strong
from paddle_adaptseg.methods.base import Clock
from paddle_adaptseg.models.segmenter import Box, Segmenter

# Random streams; those of the data are smaller.
CLASSES, BLOCKS, MIRROR, COLOURS, MASKED_COLOURS, WEAK_SOURCE, WEAK_TARGET, BOXES, LABELLED_COLOURS = range(100, 109)
VALUES = 256  # values that a label may hold, 255 (ignore) among them
PASSES = ("source", "target", "mixed", "masked", "labelled")  # of one step, each with a detail crop of its own


def positions(batch: Batch, clock: Clock) -> Sequence[int]:
    """The place of every image in the stream of training data."""
    count = len(batch)
    return batch.positions or range(clock.step * count, (clock.step + 1) * count)


class Choices:
    """Draws what ClassMix pastes, which blocks stay, and how colours change."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def rng(self, stream: int, *key: int) -> np.random.Generator:
        """A generator for one step or image."""
        return np.random.default_rng([self.seed, stream, *key])

    def class_ranks(self, batch: Batch, clock: Clock) -> np.ndarray:
        """A random number [N, 256] float32 for every label value of every image: the smallest ones are pasted."""
        keys = positions(batch, clock)
        return np.stack([self.rng(CLASSES, key).random(VALUES, np.float32) for key in keys])

    def box(self, segmenter: Segmenter, size: Sequence[int], clock: Clock, name: str) -> Optional[Box]:
        """The detail crop of one of a step's passes: the same for the whole batch, in all processes and parts."""
        return segmenter.random_box(size, self.rng(BOXES, clock.step, PASSES.index(name)))

    def blocks(self, keys: Sequence[tuple[int, int]], grid: tuple[int, int], ratio: float) -> np.ndarray:
        """Which blocks or tokens stay [len(keys), rows, columns] bool; a key is an image's domain and position."""
        return np.stack([self.rng(BLOCKS, *key).random(grid) > ratio for key in keys])

    def mirrored(self, batch: Batch, clock: Clock, chance: float) -> list[bool]:
        """Which images are mirrored."""
        return [bool(self.rng(MIRROR, key).random() < chance) for key in positions(batch, clock)]

    def colours(self, stream: int, keys: Sequence[int], clock: Clock, together: bool) -> tuple[list, list]:
        """For every image a generator of whether, and one of how its colours change; `together`: whether all do."""
        whether = [self.rng(stream, 0, clock.step, *([] if together else [key])) for key in keys]
        return whether, [self.rng(stream, 1, key) for key in keys]

    def coloured(
        self, image: Tensor, strong: Optional[Strong], pixels: Pixels, stream: int, keys: Sequence[int], clock: Clock
    ) -> Tensor:
        """Images with other colours; the same ones without `strong`."""
        if strong is None:
            return image
        return strong(image, pixels, *self.colours(stream, keys, clock, strong.together))

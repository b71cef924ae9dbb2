"""What is known of a kind of weights: how it looks, our names for it, and what it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Callable, Optional

import numpy as np

from paddle_adaptseg.weights import NOTHING
from paddle_adaptseg.weights.names import Rules

Arrays = Mapping[str, np.ndarray]

REST = r"^(heads|pyramid|decoder)\."  # all but the backbone
TORCHVISION_PIXELS = {"order": "rgb", "mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


@dataclass(frozen=True)
class Kind:
    """A kind of weights: how to recognise it, how to rename it, what to leave out, what it needs."""

    title: str
    matches: Callable[[Arrays], bool]
    rules: Rules = ()
    prepare: Optional[Callable[[Arrays], dict[str, np.ndarray]]] = None  # before that: layouts and joined tensors
    leave_out: str = NOTHING  # a pattern of original names that have no place here
    absent: str = NOTHING  # a pattern of our names that such files lack
    model: Mapping[str, object] = field(default_factory=dict)
    pixels: Optional[Mapping[str, object]] = None  # None: Caffe's BGR means
    seen: str = ""  # labels that it was trained with and that a target's network must not have seen

    def overrides(self) -> list[str]:
        """The configuration overrides that these weights bring along."""
        pixels = {k: list(v) if isinstance(v, tuple) else v for k, v in (self.pixels or {}).items()}
        return [f"model.{k}={v}" for k, v in self.model.items()] + pixel_overrides(pixels)


def pixel_overrides(pixels: Mapping[str, object]) -> list[str]:
    """The configuration overrides that set these pixels."""
    return [f"data.pixels.{key}={value}".replace(" ", "") for key, value in pixels.items()]


def has(*names: str) -> Callable[[Arrays], bool]:
    """Whether all these tensors are there."""
    return lambda arrays: all(name in arrays for name in names)

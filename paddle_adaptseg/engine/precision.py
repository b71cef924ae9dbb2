"""Mixed precision of a step through one context: which operations run in 16 bits, and how gradients are scaled.

The scale is fixed (`run.loss_scale`), so nothing about it needs saving; where it was too large, gradients are not
finite, and `run.on_nonfinite: skip` passes over the step. Weights and optimisers stay in 32 bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import paddle

from paddle_adaptseg.config import Run
from paddle_adaptseg.engine.optim import Player
from paddle_adaptseg.errors import ConfigError

DTYPES: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Precision:
    """How a step computes; the default changes nothing."""

    kind: str = "fp32"
    scale: float = 1.0

    @contextlib.contextmanager
    def casting(self) -> Iterator[None]:
        """Inside, matrix products and convolutions run in 16 bits."""
        if self.kind == "fp32":
            yield
            return
        with paddle.amp.auto_cast(dtype=DTYPES[self.kind]):
            yield

    @paddle.no_grad()
    def unscale(self, players: Mapping[str, Player]) -> None:
        """Divide the scale out of all gradients."""
        if self.scale != 1.0:
            for player in players.values():
                for _, gradient in player.gradients():
                    gradient.scale_(1.0 / self.scale)


FULL = Precision()


def precision_of(run: Run) -> Precision:
    """The precision that a configuration asks for."""
    if run.precision not in DTYPES:
        raise ConfigError(f"run.precision must be one of {', '.join(DTYPES)}, not '{run.precision}'")
    if run.precision != "fp32" and paddle.get_device() == "cpu":
        raise ConfigError(f"run.precision={run.precision} needs a GPU: Paddle has no mixed precision on a CPU")
    if run.loss_scale <= 0:
        raise ConfigError(f"run.loss_scale must be above 0, not {run.loss_scale}")
    return Precision(run.precision, run.loss_scale if run.precision == "fp16" else 1.0)

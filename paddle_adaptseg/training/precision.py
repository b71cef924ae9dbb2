"""How a step computes: in 32 bits, or in mixed precision by Paddle's own `paddle.amp`.

bf16 has the range of 32 bits and needs nothing more. fp16's losses are multiplied by a scale, which Paddle's GradScaler
doubles after 2000 steps without an overflow. It is halved after one with, which changes no weight.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import paddle

from paddle_adaptseg.config.schema import Run
from paddle_adaptseg.core.errors import ConfigError, TrainingError
from paddle_adaptseg.core.runtime import check_autocast, stage
from paddle_adaptseg.training.optim import Player

DTYPES: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
LEAST_SCALE = 2.0**-10  # gradients that overflow at this scale do not fail for want of range
COUNTS = ("incr_count", "decr_count")  # steps since the scale changed


class AllPlayers:
    """What a GradScaler needs of an optimiser, for all players at once: an overflow in one is a skipped step of all."""

    def __init__(self, players: Mapping[str, Player]) -> None:
        self.players, self.stepped = players, False
        self._param_groups = [{"params": group.parameters} for p in players.values() for group in p.groups]

    def step(self) -> None:
        """Step every player."""
        self.stepped = True
        for player in self.players.values():
            player.step()


def make_scaler(scale: float) -> Any:
    """Paddle's scaler, but for halving the scale: to report it, `update()` of 2.6.2 and 3.3.1 takes the float() of an
    array of one number, which NumPy refuses from 2.4 on. Precision halves it through the scaler's own setter."""
    return paddle.amp.GradScaler(init_loss_scaling=scale, decr_every_n_nan_or_inf=2**31 - 1)


class Precision:
    """How a step computes; the default changes nothing."""

    def __init__(self, kind: str = "fp32", scale: float = 65536.0) -> None:
        self.kind = kind
        self.scaler: Any = make_scaler(scale) if kind == "fp16" else None

    @contextlib.contextmanager
    def casting(self) -> Iterator[None]:
        """Inside, matrix products and convolutions run in 16 bits."""
        if self.kind == "fp32":
            yield
            return
        with paddle.amp.auto_cast(dtype=DTYPES[self.kind]):
            yield

    def scale(self, loss: paddle.Tensor) -> paddle.Tensor:
        """A loss as its backward pass starts from it."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    @stage("optimiser")
    def step(self, players: Mapping[str, Player], step: int) -> str:
        """Step all players and drop their gradients; returns why no weight was changed, if it was so."""
        together = AllPlayers(players)
        if self.scaler is None:
            together.step()
        else:
            self.scaler.step(together)  # divides the scale out of all gradients first
            self.scaler.update()
        if together.stepped:
            return ""
        for player in players.values():
            player.clear()
        return self._skipped(step)

    def _skipped(self, step: int) -> str:
        scale = self.loss_scale() * self.scaler.get_decr_ratio()
        self.scaler.set_init_loss_scaling(scale)
        if scale < LEAST_SCALE:
            raise TrainingError(
                f"step {step}: gradients are not finite at any scale of fp16's losses (it is down to {scale:g}): use "
                "run.precision=bf16 or fp32, or a lower learning rate"
            )
        return f"step {step}: fp16's gradients overflowed; no weight was changed, the loss scale is now {scale:g}"

    def loss_scale(self) -> float:
        """The present scale; a copy from the device."""
        return float(self.scaler.state_dict()["scale"][0])

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps; nothing without a scaler."""
        if self.scaler is None:
            return {}
        held = self.scaler.state_dict()
        return {"scale": self.loss_scale(), **{name: held[name] for name in COUNTS}}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take over what state() returned; checkpoints without it start with the configured scale."""
        if self.scaler is not None and state:
            counts = {name: int(state[name]) for name in COUNTS}
            scale = np.array([state["scale"]], np.float32)
            self.scaler.load_state_dict({**self.scaler.state_dict(), **counts, "scale": scale})


def precision_of(run: Run) -> Precision:
    """The precision that a configuration asks for."""
    if run.precision not in DTYPES:
        raise ConfigError(f"run.precision must be one of {', '.join(DTYPES)}, not '{run.precision}'")
    if run.precision != "fp32" and paddle.get_device() == "cpu":
        raise ConfigError(f"run.precision={run.precision} needs a GPU: Paddle has no mixed precision on a CPU")
    if run.precision != "fp32":
        check_autocast("run.precision", run.precision)
    if run.loss_scale <= 0:
        raise ConfigError(f"run.loss_scale must be above 0, not {run.loss_scale}")
    return Precision(run.precision, run.loss_scale)

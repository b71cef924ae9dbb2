"""Numbers that are not finite: found before any weight is touched, said with all that helps, or passed over if asked.

A step that is passed over leaves no trace: gradients are cleared, and what no optimiser trains (running statistics) is
put back, so only the count in the state tells of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import paddle

from paddle_adaptseg.config import Run
from paddle_adaptseg.engine.optim import Player
from paddle_adaptseg.errors import TrainingError, shorten
from paddle_adaptseg.methods.base import Method

RECALL = 3  # finished steps whose losses are told


class NotFinite(TrainingError):
    """A loss or gradient is NaN or infinite."""


@dataclass(frozen=True)
class Found:
    """What is looked at before any weight is touched: each part's losses, and whether gradients are finite."""

    names: tuple[str, ...]
    values: np.ndarray  # [len(names)] float64
    gradients: float  # finite where all gradients are


def collect(collected: Sequence[tuple[str, paddle.Tensor]], players: Mapping[str, Player]) -> Found:
    """The losses and one number for all gradients: the only copy that a step takes from the device to the host."""
    found = [g for player in players.values() for _, g in player.gradients()]
    sums = [paddle.abs(g).sum().astype("float32") for g in found]
    whole = [paddle.stack(sums).sum()] if sums else []  # NaN and Inf survive a sum; NaN may get lost in a maximum
    values = paddle.stack([*(loss.reshape([]) for _, loss in collected), *whole]).numpy().astype(np.float64)
    names = tuple(name for name, _ in collected)
    return Found(names, values[: len(names)], float(values[len(names) :].sum()))


def check_losses(found: Found, step: int, files: Sequence[str]) -> dict[str, float]:
    """Mean of every term over the parts of a step; `step` is the number under which it would be logged."""
    values, names = found.values, np.array(found.names)
    losses = {name: float(values[names == name].mean()) for name in dict.fromkeys(names.tolist())}
    bad = [f"{name} = {value}" for name, value in losses.items() if not np.isfinite(value)]
    if bad:
        raise NotFinite(f"step {step}: {', '.join(bad)}; batch: {', '.join(files) or 'unknown'}")
    return losses


def check_gradients(found: Found, players: Mapping[str, Player], step: int, files: Sequence[str]) -> None:
    """Refuse gradients that are not finite: finite losses can have such."""
    if not np.isfinite(found.gradients):
        named = [(name, g) for player in players.values() for name, g in player.gradients()]
        bad = [name for name, g in named if not bool(paddle.isfinite(g).all())]
        raise NotFinite(f"step {step}: gradients of {shorten(bad, 4)} are not finite; batch: {', '.join(files)}")


def check_arrays(arrays: Mapping[str, np.ndarray], step: int) -> None:
    """Refuse to save what is not finite."""
    bad = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad:
        raise TrainingError(f"step {step}: {len(bad)} tensors hold NaN or Inf ({shorten(bad, 4)}); nothing was saved")


class Guard:
    """Decides what a step that is not finite means: the end (`run.on_nonfinite: stop`), or nothing (`skip`)."""

    def __init__(self, run: Run, method: Method, players: Mapping[str, Player]) -> None:
        self.skips, self.most = run.on_nonfinite == "skip", run.max_nonfinite
        self.method, self.players = method, players
        self.recent: deque[str] = deque(maxlen=RECALL)
        self.buffers: list[tuple[paddle.Tensor, paddle.Tensor]] = []

    def before_step(self) -> None:
        """Remember what a forward pass changes."""
        if self.skips:
            moving = (t for t in self.method.state_dict().values() if t.stop_gradient)
            self.buffers = [(tensor, tensor.clone()) for tensor in moving]

    def finished(self, step: int, losses: Mapping[str, float]) -> None:
        """Remember the losses of a finished step."""
        self.recent.append(f"step {step}: " + " ".join(f"{k} {v:.4g}" for k, v in losses.items()))

    def undo(self, error: NotFinite, skipped: int) -> None:
        """Take the step back, or raise the error with all that helps when it must not be passed over."""
        last = f"; no weight was changed; last losses: {' | '.join(self.recent) or 'none'}"
        if not self.skips:
            raise NotFinite(f"{error}{last}") from None
        if skipped >= self.most:
            raise NotFinite(f"{error}; {skipped} steps were skipped already (run.max_nonfinite){last}") from None
        for buffer, value in self.buffers:
            buffer.set_value(value)
        for player in self.players.values():
            player.clear()

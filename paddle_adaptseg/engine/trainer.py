"""The training loop. It runs one backward pass per group of terms that the method yields, and steps every player."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np
import paddle

from paddle_adaptseg import runtime
from paddle_adaptseg.batch import Batch
from paddle_adaptseg.checkpoint import Snapshot
from paddle_adaptseg.config import Config, Schedule
from paddle_adaptseg.configfile import dump
from paddle_adaptseg.engine.optim import Player, poly
from paddle_adaptseg.errors import CheckpointError, TrainingError
from paddle_adaptseg.methods.base import Clock, Method, Terms
from paddle_adaptseg.metrics import ConfusionMatrix
from paddle_adaptseg.weights import arrays_of, load_arrays


@dataclass
class TrainState:
    """Everything that survives a run. `step` counts finished steps."""

    method: Method
    players: dict[str, Player]
    step: int = 0
    best_step: int = 0
    best_miou: float = float("nan")

    def snapshot(self, config: Config) -> Snapshot:
        """The state as arrays and a record."""
        arrays = {f"method/{k}": v for k, v in arrays_of(self.method).items()}
        for name, player in self.players.items():
            arrays.update({f"optim/{name}/{k}": v for k, v in player.state().items()})
        best = {"best_step": self.best_step, "best_miou": None if np.isnan(self.best_miou) else self.best_miou}
        return Snapshot(arrays, {"step": self.step, **best, "config": dump(config), "paddle": paddle.__version__})

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a snapshot; names that do not match are an error."""
        groups: dict[str, dict[str, np.ndarray]] = {"method/": {}, **{f"optim/{n}/": {} for n in self.players}}
        for name, array in snapshot.arrays.items():
            prefix = next((p for p in groups if name.startswith(p)), None)
            if prefix is None:
                raise CheckpointError(f"checkpoint of step {snapshot.step} is of another method: it holds '{name}'")
            groups[prefix][name[len(prefix) :]] = array
        load_arrays(self.method, groups["method/"], f"checkpoint of step {snapshot.step}")
        for name, player in self.players.items():
            player.load(groups[f"optim/{name}/"])
        best = snapshot.record.get("best_miou")
        self.step, self.best_step = snapshot.step, int(snapshot.record.get("best_step", 0))
        self.best_miou = float("nan") if best is None else float(best)


@dataclass
class StepReport:
    """What one step produced: unweighted losses, rates, and readings of watched steps."""

    losses: dict[str, float]
    rates: dict[str, float]
    readings: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0

    def scalars(self) -> dict[str, float]:
        """All numbers under the names of their curves."""
        return {
            **{f"loss/{k}": v for k, v in self.losses.items()},
            **{f"rate/{k}": v for k, v in self.rates.items()},
            **self.readings,
            "speed/images_per_second": self.images / self.seconds if self.seconds else 0.0,
        }


def run_steps(state: TrainState, config: Config, batches: Iterator[Batch], after: Callable[[StepReport], None]) -> None:
    """Train from the state's step to the schedule's stop; `after` is called when a step is finished."""
    schedule, log_every = config.schedule, config.run.log_every
    while state.step < schedule.stop:
        watch = (state.step + 1) % log_every == 0 or state.step + 1 == schedule.stop
        clock = Clock(state.step, schedule.horizon, watch)
        runtime.seed_step(config.run.seed, state.step)
        report = train_step(state, clock, schedule, batches)
        state.step += 1
        after(report)


def train_step(state: TrainState, clock: Clock, schedule: Schedule, batches: Iterator[Batch]) -> StepReport:
    """One step of every player on `iter_size` batches."""
    began = time.perf_counter()
    factor = poly(clock.step, schedule)
    rates = {k: v for player in state.players.values() for k, v in player.set_rate(factor).items()}
    collected: list[tuple[str, paddle.Tensor]] = []
    images, files, readings = 0, tuple[str, ...](), {}
    state.method.train()
    state.method.observed.clear()
    for _ in range(schedule.iter_size):
        batch = next(batches)
        for terms in state.method.losses(batch, clock):
            backward(terms, schedule.iter_size)
            collected += [(name, term.loss.detach()) for name, term in terms.items()]
            terms.clear()
        images, files = images + len(batch.source_label), files + batch.files
    losses = check_finite(collected, clock.step, files)
    for player in state.players.values():
        player.step()
    state.method.after_step(clock)
    if clock.watch:
        readings = read_observed(state.method.observed, batch)
    return StepReport(losses, rates, readings, images, time.perf_counter() - began)


def backward(terms: Terms, parts: int) -> None:
    """Gradients of the weighted sum, divided over the parts of an accumulated batch."""
    total = sum(term.weight * term.loss for term in terms.values())
    (total / parts if parts > 1 else total).backward()


def check_finite(collected: list[tuple[str, paddle.Tensor]], step: int, files: tuple[str, ...]) -> dict[str, float]:
    """Mean of every term over the parts; one that is not finite stops training before any weight is touched."""
    values = paddle.stack([loss.reshape([]) for _, loss in collected]).numpy().astype(np.float64)
    names = np.array([name for name, _ in collected])
    losses = {name: float(values[names == name].mean()) for name in dict.fromkeys(names.tolist())}
    bad = {name: value for name, value in losses.items() if not np.isfinite(value)}
    if bad:
        listed = ", ".join(f"{name} = {value}" for name, value in bad.items())
        raise TrainingError(f"step {step}: {listed}; batch: {', '.join(files) or 'unknown'}; no weight was changed")
    return losses


def read_observed(observed: dict[str, Any], batch: Batch) -> dict[str, float]:
    """Numbers from what a method observed; the source prediction becomes the source batch's mIoU."""
    readings = {f"health/{k}": float(v) for k, v in observed.items() if not k.endswith("_prediction")}
    if "source_prediction" in observed:
        truth = batch.source_label.numpy()
        prediction = observed["source_prediction"].numpy()
        matrix = ConfusionMatrix(int(max(prediction.max(), truth[truth < 255].max(initial=0))) + 1)
        matrix.update(truth, prediction)
        readings["source_batch/mIoU"] = 100 * matrix.miou()
    return readings

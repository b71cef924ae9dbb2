"""The training loop, and one step: a backward pass for each group of terms that the method yields, then all players."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np
import paddle

from paddle_adaptseg.config.loading import dump
from paddle_adaptseg.config.schema import Config, Run, Schedule
from paddle_adaptseg.core import distributed, runtime
from paddle_adaptseg.core.errors import CheckpointError, ConfigError
from paddle_adaptseg.core.labels import IGNORE
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.evaluation.logits import count_pairs
from paddle_adaptseg.evaluation.metrics import ConfusionMatrix
from paddle_adaptseg.methods.base import Clock, Method, Terms
from paddle_adaptseg.training.allreduce import average_gradients, common_losses, weigh
from paddle_adaptseg.training.checkpoint import Snapshot
from paddle_adaptseg.training.guards import Guard, NotFinite, check_gradients, check_losses, collect
from paddle_adaptseg.training.optim import Player, poly
from paddle_adaptseg.weights import arrays_of, load_arrays

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


@dataclass
class TrainState:
    """Everything that must survive an interruption. `step` counts steps, skipped ones included."""

    method: Method
    players: dict[str, Player]
    step: int = 0
    best_step: int = 0
    best_miou: float = float("nan")
    skipped: int = 0  # steps taken back because a number was not finite
    pending: bool = False  # the evaluation of this step was broken off
    quarantined: dict[str, str] = field(default_factory=dict)  # files passed over, and why

    def snapshot(self, config: Config) -> Snapshot:
        """The state as arrays and a record."""
        arrays = {f"method/{k}": v for k, v in arrays_of(self.method).items()}
        for name, player in self.players.items():
            arrays.update({f"optim/{name}/{k}": v for k, v in player.state().items()})
        best = {"best_step": self.best_step, "best_miou": None if np.isnan(self.best_miou) else self.best_miou}
        more = {"skipped": self.skipped, "pending": self.pending, "quarantined": dict(self.quarantined)}
        version = {"config": dump(config), "paddle": paddle.__version__, "processes": distributed.world()}
        return Snapshot(arrays, {"step": self.step, **best, **more, **version})

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
        best, record = snapshot.record.get("best_miou"), snapshot.record
        self.skipped, self.pending = int(record.get("skipped", 0)), bool(record.get("pending", False))
        self.quarantined = dict(record.get("quarantined", {}))
        self.step, self.best_step = snapshot.step, int(snapshot.record.get("best_step", 0))
        self.best_miou = float("nan") if best is None else float(best)


@dataclass
class StepReport:
    """What one step produced: unweighted losses, learning rates, and readings of watched steps."""

    losses: dict[str, float]
    learning_rates: dict[str, float]
    readings: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    skipped: str = ""  # why the step was taken back, if it was

    def scalars(self) -> dict[str, float]:
        """All numbers under the names of their curves."""
        return {
            **{f"loss/{k}": v for k, v in self.losses.items()},
            **{f"rate/{k}": v for k, v in self.learning_rates.items()},
            **self.readings,
            "speed/images_per_second": self.images / self.seconds if self.seconds else 0.0,
        }

    def line(self) -> str:
        """The losses in one line."""
        losses = "  ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        miou = self.readings.get("source_batch/mIoU", float("nan"))
        return losses + ("" if np.isnan(miou) else f"  source mIoU {miou:.1f}")


def run_steps(state: TrainState, config: Config, batches: Iterator[Batch], after: Callable[[StepReport], None]) -> None:
    """Train from the state's step to the schedule's stop; `after` is called when a step is finished."""
    schedule, log_every = config.schedule, config.run.log_every
    precision = precision_of(config.run)
    guard = Guard(config.run, state.method, state.players)
    while state.step < schedule.stop:
        watch = (state.step + 1) % log_every == 0 or state.step + 1 == schedule.stop
        clock = Clock(state.step, schedule.horizon, watch)
        runtime.seed_step(config.run.seed, state.step, distributed.rank())
        guard.before_step()
        try:
            report = train_step(state, clock, schedule, batches, precision)
            guard.finished(state.step + 1, report.losses)
        except NotFinite as error:
            guard.undo(error, state.skipped)
            state.skipped += 1
            report = StepReport({}, {}, skipped=str(error))
        state.step += 1
        after(report)


def train_step(
    state: TrainState, clock: Clock, schedule: Schedule, batches: Iterator[Batch], precision: Precision = FULL
) -> StepReport:
    """One step of every player on `iter_size` batches."""
    began = time.perf_counter()
    factor = poly(clock.step, schedule)
    learning_rates: dict[str, float] = {}
    for name, player in state.players.items():
        for group, lr in player.set_learning_rate(factor).items():
            learning_rates[f"{name}_{group}" if group in learning_rates else group] = lr
    collected: list[tuple[str, paddle.Tensor]] = []
    images, files, readings = 0, tuple[str, ...](), {}
    state.method.train()
    state.method.observed.clear()
    step_batches = [next(batches) for _ in range(schedule.iter_size)]
    with precision.casting():
        for part in state.method.parts():
            part.before_step(step_batches, clock)
    for batch in step_batches:
        with precision.casting():
            for terms in state.method.all_losses(batch, clock):
                weigh(terms)
                backward(terms, precision.scale / schedule.iter_size)
                collected += [(name, term.loss.detach().astype("float32")) for name, term in terms.items()]
                terms.clear()
        images, files = images + len(batch), files + batch.files
    precision.unscale(state.players)
    average_gradients(state.players, state.method)
    found = collect(collected, state.players)
    losses = common_losses(lambda: check_losses(found, clock.step + 1, files))
    check_gradients(found, state.players, clock.step + 1, files)
    for player in state.players.values():
        player.step()
    with paddle.no_grad():
        for part in state.method.parts():
            part.after_step(clock)
    if clock.watch:
        readings = read_observed(state.method.observed, batch)
    return StepReport(losses, learning_rates, readings, images * distributed.world(), time.perf_counter() - began)


def backward(terms: Terms, scale: float) -> None:
    """Gradients of the weighted sum times a scale: the share of one part of an accumulated batch, and fp16's."""
    total = sum(term.weight * term.loss for term in terms.values())
    (total * scale if scale != 1.0 else total).backward()


def read_observed(observed: dict[str, Any], batch: Batch) -> dict[str, float]:
    """Numbers from what a method observed; the source prediction becomes the source batch's mIoU."""
    plain = {f"health/{k}": v for k, v in observed.items() if not k.endswith("_prediction")}
    numbers = {k: v.astype("float32").reshape([]) for k, v in plain.items() if isinstance(v, paddle.Tensor)}
    values = paddle.stack(list(numbers.values())).tolist() if numbers else []  # one copy for all
    readings = {**{k: float(v) for k, v in plain.items() if k not in numbers}, **dict(zip(numbers, values))}
    if "source_prediction" in observed:
        matrix = ConfusionMatrix(IGNORE)  # as many classes as labels can have
        matrix.add_pairs(count_pairs(batch.source_label, observed["source_prediction"]))
        readings["source_batch/mIoU"] = 100 * matrix.miou()
    return readings

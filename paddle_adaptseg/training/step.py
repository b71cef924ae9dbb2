"""The training loop, and one step: a backward pass for each group of terms that the method yields, then all players."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np
import paddle

from paddle_adaptseg.config.loading import dump
from paddle_adaptseg.config.schema import Config, Run, Schedule
from paddle_adaptseg.core import distributed, runtime
from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.core.labels import IGNORE
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.evaluation.logits import count_pairs
from paddle_adaptseg.evaluation.metrics import ConfusionMatrix
from paddle_adaptseg.methods.base import Clock, Method, Terms
from paddle_adaptseg.training.allreduce import agree, average_gradients, weigh
from paddle_adaptseg.training.checkpoint import Snapshot
from paddle_adaptseg.training.guards import Guard, Measured, NotFinite, check_finite, measure, read
from paddle_adaptseg.training.optim import Player, poly, set_learning_rates
from paddle_adaptseg.training.precision import Precision
from paddle_adaptseg.weights import arrays_of, load_arrays


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
    precision: Precision = field(default_factory=Precision)
    deferred: bool = False  # losses are looked at when they are logged: a GPU need not wait for the host at every step
    unread: list[Measured] = field(default_factory=list)  # steps that nobody has looked at yet

    def check_unread(self) -> list[tuple[int, dict[str, float]]]:
        """Look at all steps that were not: (step, losses) of each; an error names the first that was not finite."""
        steps, self.unread = self.unread, []
        if not steps:
            return []
        try:
            return [(m.step, check_finite(m, v, self.checks_gradients)) for m, v in zip(steps, read(steps))]
        except NotFinite as error:
            error.late = True
            raise

    @property
    def checks_gradients(self) -> bool:
        """Whether gradients that are not finite are an error; with fp16 they are a step that the scaler skips."""
        return self.precision.scaler is None

    def snapshot(self, config: Config) -> Snapshot:
        """The state as arrays and a record."""
        self.check_unread()
        arrays = {f"method/{k}": v for k, v in arrays_of(self.method).items()}
        for name, player in self.players.items():
            arrays.update({f"optim/{name}/{k}": v for k, v in player.state().items()})
        best = {"best_step": self.best_step, "best_miou": None if np.isnan(self.best_miou) else self.best_miou}
        more = {"skipped": self.skipped, "pending": self.pending, "quarantined": dict(self.quarantined)}
        more["scaler"] = self.precision.state()
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
        self.precision.restore(record.get("scaler", {}))
        self.step, self.best_step = snapshot.step, int(snapshot.record.get("best_step", 0))
        self.best_miou = float("nan") if best is None else float(best)


@dataclass
class StepReport:
    """What one step produced: unweighted losses, learning rates, and readings of watched steps."""

    losses: dict[str, float]
    learning_rates: dict[str, float]
    readings: dict[str, float] = field(default_factory=dict)
    checked: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # steps looked at in this one
    images: int = 0
    seconds: float = 0.0
    skipped: str = ""  # why the step was taken back, if it was
    note: str = ""  # what else there is to say about it
    votes: Sequence[float] = ()  # sums over all processes of what each was asked (run_steps)

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


def run_steps(
    state: TrainState,
    config: Config,
    batches: Iterator[Batch],
    after: Callable[[StepReport], None],
    votes: Callable[[], Sequence[float]] = tuple,
) -> None:
    """Train from the state's step to the schedule's stop; `after` is called when a step is finished.

    `votes` are numbers that every step sums over all processes beside its losses.
    """
    schedule, run, log_every = config.schedule, config.run, config.run.log_every
    guard = Guard(run, state.method, state.players)
    state.deferred = defers(run)
    if run.profile:
        from paddle_adaptseg.training.profile import profiled

        after = profiled(after, state.method, config, state.step)
    while state.step < schedule.stop:
        watch = (state.step + 1) % log_every == 0 or state.step + 1 == schedule.stop
        clock = Clock(state.step, schedule.horizon, watch)
        runtime.seed_step(run.seed, state.step, distributed.rank())
        guard.before_step()
        try:
            report = train_step(state, clock, schedule, batches, votes)
            for step, losses in report.checked:
                guard.finished(step, losses)
        except NotFinite as error:
            guard.undo(error, state.skipped)
            state.skipped += 1
            report = StepReport({}, {}, skipped=str(error))
        state.step += 1
        after(report)


def defers(run: Run) -> bool:
    """Whether losses stay on the device until a step is logged."""
    return paddle.get_device() != "cpu" and distributed.world() == 1 and run.on_nonfinite != "skip"


def train_step(
    state: TrainState,
    clock: Clock,
    schedule: Schedule,
    batches: Iterator[Batch],
    votes: Callable[[], Sequence[float]] = tuple,
) -> StepReport:
    """One step of every player on `iter_size` batches."""
    began = time.perf_counter()
    report = StepReport({}, set_learning_rates(state.players, poly(clock.step, schedule)))
    state.method.train()
    state.method.observed.clear()
    with runtime.stage("loader wait"):
        step_batches = [next(batches) for _ in range(schedule.iter_size)]
    with runtime.stage("labels"), state.precision.casting():
        for part in state.method.parts():
            part.before_step(step_batches, clock)
    collected = [pair for batch in step_batches for pair in accumulate(state, clock, batch, 1 / schedule.iter_size)]
    files = tuple(name for batch in step_batches for name in batch.files)
    report.checked = check_step(state, measure(collected, state.players, clock.step + 1, files), report, votes)
    report.note = state.precision.step(state.players, clock.step + 1)
    with runtime.stage("after the step"), paddle.no_grad():
        for part in state.method.parts():
            part.after_step(clock)
    if clock.watch:
        report.checked = state.check_unread() or report.checked
        report.readings = read_observed(state.method.observed, step_batches[-1])
        if state.precision.scaler is not None:
            report.readings["precision/loss_scale"] = state.precision.loss_scale()
    report.losses = report.checked[-1][1] if report.checked else {}
    report.images = distributed.world() * sum(len(batch) for batch in step_batches)
    report.seconds = time.perf_counter() - began
    return report


def accumulate(state: TrainState, clock: Clock, batch: Batch, share: float) -> list[tuple[str, paddle.Tensor]]:
    """All backward passes on one batch, which adds `share` of its gradients; returns its losses."""
    collected: list[tuple[str, paddle.Tensor]] = []
    groups = state.method.all_losses(batch, clock)
    while True:
        with runtime.stage("forward"), state.precision.casting():
            terms = next(groups, None)
        if terms is None:
            return collected
        weigh(terms)
        backward(terms, share, state.precision)
        collected += [(name, term.loss.detach().astype("float32")) for name, term in terms.items()]
        terms.clear()


def check_step(
    state: TrainState, measured: Measured, report: StepReport, votes: Callable[[], Sequence[float]]
) -> list[tuple[int, dict[str, float]]]:
    """Refuse a step that is not finite before any weight changes, and average what several processes computed.

    Returns the losses of the step, or nothing while it stays unread.
    """
    if distributed.world() > 1:
        losses, report.votes = agree(measured, votes(), state.checks_gradients)
        average_gradients(state.players, state.method)
    elif state.deferred:
        state.unread.append(measured)
        return []
    else:
        report.votes = votes()
        losses = check_finite(measured, read([measured])[0], state.checks_gradients)
    return [(measured.step, losses)]


@runtime.stage("backward")
def backward(terms: Terms, share: float, precision: Precision) -> None:
    """Gradients of the weighted sum times the share of one part of an accumulated batch."""
    total = sum(term.weight * term.loss for term in terms.values())
    precision.scale(total * share if share != 1.0 else total).backward()


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

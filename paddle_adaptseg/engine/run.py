"""One run from configuration to weights: build, restore or resume, train, log, evaluate, save."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from paddle_adaptseg import checkpoint, runtime
from paddle_adaptseg.config import Config
from paddle_adaptseg.configfile import dump
from paddle_adaptseg.data import TrainData, label_space, open_validation
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.faults import Fault
from paddle_adaptseg.data.transforms import normalise
from paddle_adaptseg.engine.ending import explained
from paddle_adaptseg.engine.evaluator import class_sets, evaluate_model, look, protocol_line, score_scalars
from paddle_adaptseg.engine.finite import check_arrays
from paddle_adaptseg.engine.health import HealthMonitor
from paddle_adaptseg.engine.interrupt import Asked, Interruption
from paddle_adaptseg.engine.memory import estimate, prepare
from paddle_adaptseg.engine.optim import build_players
from paddle_adaptseg.engine.resume import restore_best, restore_weights, starting_point
from paddle_adaptseg.engine.trainer import StepReport, TrainState, run_steps
from paddle_adaptseg.errors import CheckpointError, DataError
from paddle_adaptseg.files import sweep, write_atomically
from paddle_adaptseg.lock import RunLock
from paddle_adaptseg.logger import Console, RunLog
from paddle_adaptseg.methods import build_method
from paddle_adaptseg.models import build_model
from paddle_adaptseg.visual import panel
from paddle_adaptseg.weights import arrays_of
from paddle_adaptseg.weights.pdparams import save_weights

PANELS = 2  # fixed images of each domain that are drawn at every evaluation


@dataclass(frozen=True)
class FitResult:
    """Where a run ended and what it scored (mIoU in per cent, NaN when never evaluated)."""

    output: Path
    step: int
    miou: float
    best_step: int
    best_miou: float


def fit(
    config: Config, resume: Optional[str] = None, overwrite: bool = False, accept_changes: bool = False
) -> FitResult:
    """Train a configuration. `resume` names a step of the run in its output folder: latest, best or a number.

    `accept_changes` continues it with another configuration or Paddle, as long as every tensor fits. A run that is
    asked to end before its last step saves and raises `errors.Stopped`.
    """
    runtime.import_paddle()
    runtime.set_device(config.run.device)
    runtime.set_deterministic(config.run.deterministic)
    with runtime.fresh_names(), RunLock(Path(config.run.output)) as lock:
        return _Run(config, resume, overwrite, accept_changes, lock).train()


class _Run:
    """The parts of one run and what happens after each of its steps."""

    def __init__(
        self, config: Config, resume: Optional[str], overwrite: bool, accept_changes: bool, lock: RunLock
    ) -> None:
        self.config, self.space, self.lock = config, label_space(config), lock
        self.folder = Path(config.run.output)
        self.miou = float("nan")
        self.health, self.baseline = HealthMonitor(), last_score(config.run.baseline)
        self.stop = Interruption(config.run.max_hours)
        class_sets(config)  # a wrong protocol is said now, not at the first evaluation
        snapshot, changes = starting_point(self.folder, config, resume, overwrite, accept_changes)
        self.state = build_state(config)
        self.data = TrainData(config, with_target=self.state.method.uses_target)
        self.validation = open_validation(config) if config.run.eval_every else None
        if snapshot is not None:
            self.state.restore(snapshot)
        elif config.run.restore_from:
            restore_weights(self.state.method, config, print)
        self.data.quarantine.entries = self.state.quarantined
        # Everything that can be wrong has been looked at; from here on the folder is written to.
        checkpoint.drop_after(self.folder, self.state.step)
        restore_best(self.folder, self.state.best_step)
        for folder in (self.folder, self.folder / "states", self.folder / "weights"):
            sweep(folder)
        self.log = RunLog(self.folder, self.state.step)
        self.health.replay(self.log.jsonl)
        write_atomically(self.folder / "config.yml", lambda handle: handle.write(dump(config).encode()))
        self.data.quarantine.write(self.folder)
        self.console = Console(self.state.step, config.schedule.stop)
        self.notes = [note for note in (lock.note, changes, estimate(self.state.method, config).text()) if note]

    def train(self) -> FitResult:
        """Run all remaining steps."""
        self.console.line(runtime.environment())
        self.console.line(
            f"{self.config.method.name} on {self.config.model.name}, steps {self.state.step} to "
            f"{self.config.schedule.stop}, writing to {self.folder} (curves: visualdl --logdir {self.folder / 'vdl'})"
        )
        for note in (*self.notes, *self.data.notes()):
            self.console.line(note)
        if self.validation is not None:
            self.console.line(protocol_line(self.config, len(self.validation)))
        batches = self.data.batches(self.state.step)
        try:
            with explained(self.folder), self.stop:
                if self.state.pending:
                    self.conclude()
                run_steps(self.state, self.config, batches, self.after_step)
        except Asked:
            raise self.stop.farewell(self.folder, self.state.step) from None
        finally:
            batches.close()
            self.console.close()
            self.log.close()
        return FitResult(self.folder, self.state.step, self.miou, self.state.best_step, self.state.best_miou)

    def after_step(self, report: StepReport) -> None:
        """Log, evaluate and save when they are due."""
        run, step, last = self.config.run, self.state.step, self.config.schedule.stop
        text = ""
        for news in self.data.quarantine.news():
            self.warn(news, "quarantine")
            self.data.quarantine.write(self.folder)
        if report.skipped:
            self.warn(f"step taken back ({self.state.skipped} of at most {run.max_nonfinite}): {report.skipped}")
        elif step % run.log_every == 0 or step == last:
            self.log.scalars(step, report.scalars())
            for warning in self.health.observe(report.losses, report.readings):
                self.warn(warning)
            text = report.line()
            if self.console.bar.disable:
                self.console.line(f"step {step}/{last}  {text}  {self.console.pace(step)}")
        self.console.tick(text)
        self.conclude()

    def conclude(self) -> None:
        """Evaluate and save when they are due, and end here when that was asked."""
        run, state, last = self.config.run, self.state, self.config.schedule.stop
        due = bool(run.eval_every) and (state.step % run.eval_every == 0 or state.step == last)
        improved = False
        try:
            improved = due and self.evaluate()
            state.pending = False
        except Asked:
            state.pending = True  # it is the first thing the continued run does
        saves = improved or self.ends() or state.step % run.save_every == 0 or state.step == last
        if saves:
            self.save(due and not state.pending, improved)
        if saves and self.ends():
            raise Asked

    def ends(self) -> bool:
        """Whether the run was asked to end and has not reached its end anyway."""
        return self.stop.asked() and (self.state.step < self.config.schedule.stop or self.state.pending)

    def evaluate(self) -> bool:
        """Score the model on the validation domain, draw the panels, and say whether it is the best so far."""
        model, state, step = self.state.method.eval_model, self.state, self.state.step
        matrix = evaluate_model(model, self.config, self.validation, check=self.stop.check)
        scores = dict(score_scalars(matrix, self.config, "target"))
        self.miou = scores["target/mIoU"]
        self.log.scalars(step, scores)
        for domain, files in (("source", self.data.source), ("target", self.validation)):
            if files is not None:
                self.draw(domain, files)
        improved = checkpoint.is_better(self.miou, state.best_miou)
        if improved:
            state.best_step, state.best_miou = step, self.miou
        best = "best so far" if improved else f"best {state.best_miou:.2f} at step {state.best_step}"
        scored = ", ".join(f"{100 * matrix.miou(ids):.2f} ({name})" for name, ids in class_sets(self.config).items())
        self.console.line(f"step {step}  target mIoU {scored}; {best}{self.compare()}")
        return improved

    def compare(self) -> str:
        """The lift over the baseline, where one is known; a negative one is a warning."""
        if self.baseline is None:
            return ""
        lift = self.miou - self.baseline
        self.log.scalars(self.state.step, {"health/lift": lift})
        if lift < 0 and self.state.step == self.config.schedule.stop:
            self.warn(
                f"the adapted network is {-lift:.2f} points worse than source only ({self.baseline:.2f}): adaptation "
                "hurts here; lower its weight, or check that the domains share their classes"
            )
        return f", {lift:+.2f} over the baseline"

    def warn(self, text: str, tag: str = "warnings") -> None:
        """Say something on the console and in VisualDL."""
        self.console.line(f"warning: step {self.state.step}: {text}")
        self.log.text(self.state.step, tag, text)

    def draw(self, domain: str, files: DomainFiles) -> None:
        """Panels of the first images of a domain: image, prediction, truth, entropy."""
        import paddle

        for index in range(min(PANELS, len(files))):
            try:
                image, truth = files.image(index), files.label(index, files.size)
            except DataError as error:
                if files is self.validation:
                    raise
                self.data.quarantine.meet([Fault(0, 0, files.items[index].image.name, str(error))])
                continue
            tensor = normalise(paddle.to_tensor(image[None]), self.config.data.pixels)
            prediction, entropy = look(self.state.method.eval_model, tensor)
            self.log.picture(self.state.step, f"{domain}/{index}", panel(image, prediction, truth, entropy, self.space))

    def save(self, evaluated: bool, improved: bool) -> None:
        """Log first, then weights, then the state: whatever a crash leaves, a state is never ahead of the rest."""
        self.lock.confirm()
        snapshot = self.state.snapshot(self.config)
        check_arrays(snapshot.arrays, self.state.step)
        self.log.flush()
        arrays, text = arrays_of(self.state.method.eval_model), dump(self.config)
        origin: dict[str, object] = {"trained_steps": self.state.step, "planned_steps": self.config.schedule.stop}
        if evaluated:
            origin["target_miou"] = round(self.miou, 4)
        save_weights(self.folder / "weights" / f"step_{self.state.step:08d}.pdparams", arrays, text, origin)
        if improved:
            save_weights(self.folder / "best.pdparams", arrays, text, origin)
        checkpoint.save_state(self.folder, snapshot)
        checkpoint.prune(self.folder, self.config.run.keep, self.state.best_step)


def last_score(baseline: str) -> Optional[float]:
    """The target mIoU of a run's last evaluation."""
    if not baseline:
        return None
    log = Path(baseline) / "log.jsonl"
    if not log.is_file():
        raise CheckpointError(f"run.baseline: '{baseline}' is no run's folder (it has no log.jsonl)")
    scores = [json.loads(line).get("target/mIoU") for line in log.read_text(encoding="utf-8").splitlines()]
    scores = [score for score in scores if score is not None]
    if not scores:
        raise CheckpointError(f"run.baseline: the run in '{baseline}' was never evaluated")
    return scores[-1]


def build_state(config: Config) -> TrainState:
    """Network, method and optimisers of a configuration, initialised from its seed."""
    runtime.seed_step(config.run.seed, 0)
    classes = len(label_space(config))
    method = build_method(config.method, build_model(config.model, classes), classes)
    return TrainState(prepare(method, config.run), build_players(method, config))

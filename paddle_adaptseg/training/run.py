"""One run from configuration to weights: build, restore or resume, train, log, evaluate, save."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from paddle_adaptseg.config.loading import dump
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core import distributed, runtime
from paddle_adaptseg.core.errors import StopRequested
from paddle_adaptseg.core.files import sweep, write_atomically
from paddle_adaptseg.cpu import accelerate
from paddle_adaptseg.data import TrainData, open_validation
from paddle_adaptseg.evaluation.measure import evaluate_model
from paddle_adaptseg.evaluation.protocol import class_sets, protocol_line, score_scalars
from paddle_adaptseg.evaluation.visual import panels, training_panel
from paddle_adaptseg.training import allreduce, checkpoint
from paddle_adaptseg.training.checkpoint import Snapshot
from paddle_adaptseg.training.guards import HealthMonitor, adaptation_hurts, check_arrays, last_score
from paddle_adaptseg.training.interruption import Interruption, Votes, with_advice
from paddle_adaptseg.training.lock import RunLock
from paddle_adaptseg.training.log import Console, NoLog, RunLog
from paddle_adaptseg.training.start import build_state, restore_best, set_start, starting_point
from paddle_adaptseg.training.step import StepReport, run_steps
from paddle_adaptseg.weights import arrays_of, save_weights


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
    distributed.start(config.run.timeout)
    with distributed.ending_together():
        distributed.check_device(config.run.device)
        allreduce.check_sync_norm(config, runtime.set_device(config.run.device).startswith("gpu"))
        runtime.set_cudnn(config.run.deterministic, config.run.cudnn_autotune)
        runtime.set_accelerate(config.run.accelerate)
        runtime.keep_freed_memory()
        folder = Path(config.run.output)
        locked = RunLock(folder) if distributed.is_rank_zero() else contextlib.nullcontext()
        with runtime.fresh_names(), locked as lock:
            run = _Run(config, resume, overwrite, accept_changes, lock)
            with accelerate(run.state.method):
                return run.train()


class _Run:
    """The parts of one run and what happens after each of its steps."""

    def __init__(
        self, config: Config, resume: Optional[str], overwrite: bool, accept_changes: bool, lock: Optional[RunLock]
    ) -> None:
        self.config, self.lock, self.folder = config, lock, Path(config.run.output)
        self.miou = float("nan")
        self.health, self.baseline = HealthMonitor(), last_score(config.run.baseline)
        self.stop = Interruption(config.run.max_hours)
        class_sets(config)  # a wrong protocol is said now, not at the first evaluation
        snapshot, changes = starting_point(self.folder, config, resume, overwrite, accept_changes)
        self.state = build_state(config)
        uses, rank, world = self.state.method, distributed.rank(), distributed.world()
        self.data = TrainData(config, uses.uses_target, rank, world, distributed.all_reduce_array, uses.uses_source)
        self.validation = open_validation(config) if config.run.eval_every else None
        scored = {} if self.validation is None else {"validation": self.validation}
        allreduce.check_same_files({**self.data.files(), **scored})
        set_start(self.state, snapshot, config, print)
        self.data.quarantine.entries = self.state.quarantined
        self.votes = Votes(self.stop, self.data.quarantine)
        process_note = snapshot and allreduce.describe_process_change(snapshot.record, self.state.step, config)
        allreduce.broadcast_tensors(list(self.state.method.state_dict().values()))
        # Everything that can be wrong has been looked at, by every process; from here on the folder is written to.
        self.log: Union[RunLog, NoLog] = NoLog()
        self.notes = [note for note in (lock.note if lock else "", changes, process_note) if note]
        if distributed.is_rank_zero():
            self.log = self.open_folder()
        self.console = Console(self.state.step, config.schedule.stop, bar=distributed.is_rank_zero())

    def open_folder(self) -> RunLog:
        """Drop what is of later steps, and open the log."""
        checkpoint.drop_after(self.folder, self.state.step)
        self.notes += filter(None, [restore_best(self.folder, self.state.best_step, self.state.step)])
        for folder in (self.folder, self.folder / "states", self.folder / "weights"):
            sweep(folder)
        log = RunLog(self.folder, self.state.step)
        self.health.replay(log.jsonl)
        text = dump(self.config).encode()
        write_atomically(self.folder / "config.yml", lambda handle: handle.write(text))
        self.data.quarantine.write(self.folder)
        return log

    def train(self) -> FitResult:
        """Run all remaining steps."""
        self.console.line(runtime.environment())
        curves = f"{runtime.program('visualdl')} --logdir {self.folder / 'vdl'}"
        self.console.line(
            f"{self.config.method.name} on {self.config.model.name}, steps {self.state.step} to "
            f"{self.config.schedule.stop}, writing to {self.folder} (curves: {curves})"
        )
        batch_note = [allreduce.describe_global_batch(self.config)] if distributed.world() > 1 else []
        self.measured = min(self.state.step + 2, self.config.schedule.stop)  # by then optimisers hold what they will
        for note in (*batch_note, *self.notes, *self.state.method.notes(), *self.data.notes()):
            self.console.line(note)
        if self.validation is not None:
            self.console.line(protocol_line(self.config, len(self.validation)))
        batches = self.data.batches(self.state.step)
        try:
            with with_advice(self.folder), distributed.ending_together(), self.stop:
                if self.state.pending:
                    self.evaluate_and_save()
                run_steps(self.state, self.config, batches, self.after_step, self.votes.cast)
                if resized := self.data.resized.total(distributed.gather_texts):
                    self.console.line(resized)
        except StopRequested:
            raise self.stop.stopped(self.folder, self.state.step) from None
        finally:
            batches.close()
            self.console.close()
            self.log.close()
        return FitResult(self.folder, self.state.step, self.miou, self.state.best_step, self.state.best_miou)

    def after_step(self, report: StepReport) -> None:
        """Report the step, then evaluate and save when they are due."""
        run, step, last = self.config.run, self.state.step, self.config.schedule.stop
        text = ""
        self.votes.hear(report.votes)
        if report.note:
            self.console.line(report.note)
        for news in self.data.quarantine.news():
            self.warn(news, "quarantine")
            if distributed.is_rank_zero():
                self.data.quarantine.write(self.folder)
        for news in self.data.resized.news():
            self.console.line(news)
        if step == self.measured:
            from paddle_adaptseg.training.counters import taken

            self.console.line(taken())
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
        self.evaluate_and_save()

    def evaluate_and_save(self) -> None:
        """Evaluate and save when they are due, and end here when that was asked."""
        run, state, last = self.config.run, self.state, self.config.schedule.stop
        due = bool(run.eval_every) and (state.step % run.eval_every == 0 or state.step == last)
        improved = False
        try:
            improved = due and self.evaluate()
            state.pending = False
        except StopRequested:
            state.pending = True  # it is the first thing the continued run does
        if due:  # which takes long
            self.stop.agree(distributed.all_reduce(self.stop.votes()).tolist())
        saves = improved or self.ends() or state.step % run.save_every == 0 or state.step == last
        if saves:
            self.save(due and not state.pending, improved)
        if saves and self.ends():
            raise StopRequested

    def ends(self) -> bool:
        """Whether the run was asked to end and has not reached its end anyway."""
        return self.stop.agreed and (self.state.step < self.config.schedule.stop or self.state.pending)

    def evaluate(self) -> bool:
        """Score the model on the validation domain, draw the panels, and say whether it is the best so far."""
        model, state, step = self.state.method.eval_model, self.state, self.state.step
        state.check_unread()
        matrix = evaluate_model(model, self.config, self.validation, check=self.stop.check)
        scores = dict(score_scalars(matrix, self.config, "target"))
        self.miou = scores["target/mIoU"]
        self.log.scalars(step, scores)
        for domain, files in (("source", self.data.source), ("target", self.validation)):
            if files is not None and distributed.is_rank_zero():
                unusable = None if files is self.validation else self.data.quarantine.report
                for name, picture in panels(model, files, self.config, unusable):
                    self.log.picture(step, f"{domain}/{name}", picture)
        mixed = training_panel(self.state.method.last, self.config) if distributed.is_rank_zero() else None
        if mixed is not None:
            self.log.picture(step, "training/mixed", mixed)
        improved = checkpoint.is_better(self.miou, state.best_miou)
        if improved:
            state.best_step, state.best_miou = step, self.miou
        best = "best so far" if improved else f"best {state.best_miou:.2f} at step {state.best_step}"
        scored = ", ".join(f"{100 * matrix.miou(ids):.2f} ({name})" for name, ids in class_sets(self.config).items())
        self.console.line(f"step {step}  target mIoU {scored}; {best}{self.report_lift()}")
        return improved

    def report_lift(self) -> str:
        """The lift over the baseline, where one is known; a negative one is a warning."""
        if self.baseline is None:
            return ""
        lift = self.miou - self.baseline
        self.log.scalars(self.state.step, {"health/lift": lift})
        if lift < 0 and self.state.step == self.config.schedule.stop:
            self.warn(adaptation_hurts(lift, self.baseline))
        return f", {lift:+.2f} over the baseline"

    def warn(self, text: str, tag: str = "warnings") -> None:
        """Say something on the console and in VisualDL."""
        self.console.line(f"warning: step {self.state.step}: {text}")
        self.log.text(self.state.step, tag, text)

    def save(self, evaluated: bool, improved: bool) -> None:
        """Log first, then weights, then the state: whatever a crash leaves, a state is never ahead of the rest."""
        if self.lock is not None:
            self.lock.confirm()
        snapshot = self.state.snapshot(self.config)
        check_arrays(snapshot.arrays, self.state.step)
        distributed.check_equal("weights and optimiser states", snapshot.arrays)
        if isinstance(self.log, RunLog):
            self.write(self.log, snapshot, evaluated, improved)

    def write(self, log: RunLog, snapshot: Snapshot, evaluated: bool, improved: bool) -> None:
        """Bring log, weights and state to disk."""
        log.flush()
        arrays, text = arrays_of(self.state.method.eval_model), dump(self.config)
        scored = {"target_miou": round(self.miou, 4)} if evaluated else {}
        origin = {"trained_steps": self.state.step, "planned_steps": self.config.schedule.stop, **scored}
        save_weights(self.folder / "weights" / f"step_{self.state.step:08d}.pdparams", arrays, text, origin)
        if improved:
            save_weights(self.folder / "best.pdparams", arrays, text, origin)
        checkpoint.save_state(self.folder, snapshot)
        checkpoint.prune(self.folder, self.config.run.keep, self.state.best_step)

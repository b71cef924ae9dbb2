"""What watches a run: losses, gradients and weights that are not finite, and signs that adaptation goes wrong."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np
import paddle

from paddle_adaptseg.config.schema import Run
from paddle_adaptseg.core.errors import CheckpointError, TrainingError, shorten
from paddle_adaptseg.core.runtime import stage
from paddle_adaptseg.methods.base import Method
from paddle_adaptseg.training.optim import Player

RECALL = 3  # finished steps whose losses are reported


class NotFinite(TrainingError):
    """A loss or gradient is NaN or infinite. Where it is found before the players step, no weight was changed."""

    late = False  # found when a later step was read


@dataclass(frozen=True)
class Measured:
    """A step's losses, and a number for each gradient. They stay on the device until they are read."""

    step: int  # the number under which it would be logged
    files: tuple[str, ...]
    losses: tuple[str, ...]  # a name for each loss of each part of the step
    gradients: tuple[str, ...]  # names of the parameters whose gradients are measured
    numbers: paddle.Tensor  # [losses + gradients] float32; a gradient's is finite where all of it is


@stage("checks")
def measure(
    collected: Sequence[tuple[str, paddle.Tensor]], players: Mapping[str, Player], step: int, files: Sequence[str]
) -> Measured:
    """Measure a step on the device, where nothing waits for it."""
    found = [pair for player in players.values() for pair in player.gradients()]
    sums = [paddle.abs(g).sum().astype("float32") for _, g in found]  # NaN survives a sum, but not every maximum
    numbers = paddle.stack([*(loss.reshape([]) for _, loss in collected), *sums])
    names = tuple(name for name, _ in collected)
    return Measured(step, tuple(files), names, tuple(name for name, _ in found), numbers)


@stage("checks")
def read(measured: Sequence[Measured]) -> list[np.ndarray]:
    """The numbers of several steps, in one copy from the device to the host."""
    together = paddle.concat([m.numbers for m in measured]).numpy().astype(np.float64)
    return np.split(together, np.cumsum([len(m.losses) + len(m.gradients) for m in measured])[:-1])


def mean_losses(measured: Measured, values: np.ndarray) -> dict[str, float]:
    """Mean of every loss over the parts of a step."""
    names = np.array(measured.losses)
    return {name: float(values[: len(names)][names == name].mean()) for name in dict.fromkeys(measured.losses)}


def check_finite(measured: Measured, values: np.ndarray, gradients: bool = True) -> dict[str, float]:
    """Mean losses of a step; refuse those, and if asked gradients, that are not finite: finite losses can have such."""
    losses = mean_losses(measured, values)
    bad = [f"{name} = {value}" for name, value in losses.items() if not np.isfinite(value)]
    if bad:
        raise NotFinite(f"step {measured.step}: {', '.join(bad)}; batch: {', '.join(measured.files) or 'unknown'}")
    sums = values[len(measured.losses) :]
    bad = [name for name, value in zip(measured.gradients, sums) if not np.isfinite(value)]
    if bad and gradients:
        batch = ", ".join(measured.files)
        raise NotFinite(f"step {measured.step}: gradients of {shorten(bad, 4)} are not finite; batch: {batch}")
    return losses


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
        unchanged = "nothing was saved since" if error.late else "no weight was changed"
        last = f"; {unchanged}; last losses: {' | '.join(self.recent) or 'none'}"
        if not self.skips:
            raise NotFinite(f"{error}{last}") from None
        if skipped >= self.most:
            raise NotFinite(f"{error}; {skipped} steps were skipped already (run.max_nonfinite){last}") from None
        for buffer, value in self.buffers:
            buffer.set_value(value)
        for player in self.players.values():
            player.clear()


WINDOW = 10  # readings that must agree before a warning is given
QUIET = 20  # readings before the same warning is repeated


@dataclass
class HealthMonitor:
    """Feed it every watched step's numbers; it returns new warnings."""

    history: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    silent_until: dict[str, int] = field(default_factory=dict)
    count: int = 0

    def observe(self, losses: dict[str, float], readings: dict[str, float]) -> list[str]:
        """Warnings that the last WINDOW readings agree on and that were not given lately."""
        self.history.append({**{f"loss/{k}": v for k, v in losses.items()}, **readings})
        self.count += 1
        if len(self.history) < WINDOW:
            return []
        new = []
        for kind, text in self.findings():
            if self.count >= self.silent_until.get(kind, 0):
                self.silent_until[kind] = self.count + QUIET
                new.append(text)
        return new

    def replay(self, log: Path) -> None:
        """Load the readings of a resumed run, so that it warns as if it had never stopped."""
        for line in log.read_text(encoding="utf-8").splitlines():
            record = {k: v for k, v in json.loads(line).items() if isinstance(v, float)}
            losses = {k[5:]: v for k, v in record.items() if k.startswith("loss/")}
            if losses:
                readings = {k.replace("critic_", "discriminator_"): v for k, v in record.items() if "health/" in k}
                self.observe(losses, readings)  # older logs call discriminators critics

    def findings(self) -> Iterator[tuple[str, str]]:
        """(kind, sentence) of everything wrong at present."""
        for name in self.history[-1]:
            values = [reading[name] for reading in self.history if name in reading]
            if len(values) < WINDOW:
                continue
            low, high = min(values), max(values)
            if name.startswith("health/discriminator_accuracy_"):
                yield from _discriminator(name.rsplit("_", 1)[1], low, high)
            elif name == "health/target_largest_share" and low > 0.9:
                yield "degenerate", f"one class takes {100 * low:.0f} % or more of the target's pixels: {_COLLAPSE}"
            elif name == "health/target_classes" and high <= 3:
                yield "few classes", f"target predictions hold only {high:.0f} classes: {_COLLAPSE}"
            elif name.startswith(_SELF_TRAINING):
                yield from _self_training(name, low, high)
            elif name.startswith("loss/") and max(abs(low), abs(high)) < 1e-7:
                advice = _NO_LABELS if "seg" in name else _NO_TERM
                yield name, f"{name[5:]} has vanished (below 1e-7): {advice}"


_COLLAPSE = (
    "adaptation collapses; lower the weight of the target term, let it grow slowly (method.ramp), or train longer on "
    "the source first (run.restore_from)"
)
_NO_LABELS = "all labels may be ignored; check them with tools/check_dataset.py"
_NO_TERM = "it no longer contributes to training; check its weight and threshold"


def _discriminator(level: str, low: float, high: float) -> Iterator[tuple[str, str]]:
    name, share = f"the discriminator of {level}", f"{100 * low:.0f} to {100 * high:.0f} %"
    if low > 0.95:
        advice = "so the segmenter learns nothing from it: raise method.weights, or lower optim.discriminators.lr"
        yield f"{name} wins", f"{name} wins (right on {share}), {advice}"
    elif low > 0.47 and high < 0.53:
        advice = "raise optim.discriminators.lr, or lower method.weights"
        yield f"{name} collapses", f"{name} cannot tell the domains apart (right on {share}): {advice}"


_SELF_TRAINING = ("health/pseudo_", "health/teacher_", "health/feature_distance_cells")
_THRESHOLD = "method.pseudo_labels.threshold"


def _self_training(name: str, low: float, high: float) -> Iterator[tuple[str, str]]:
    if name == "health/pseudo_weight" and low > 0.999:
        yield "all sure", f"the teacher is sure of every pixel, so wrong labels count in full: raise {_THRESHOLD}"
    elif name == "health/pseudo_weight" and high < 0.001:
        advice = f"lower {_THRESHOLD}, or train longer on the source first (method.ramp.start, run.restore_from)"
        yield "none sure", f"the teacher is sure of no pixel, so nothing is learnt from the target: {advice}"
    elif name.startswith("health/pseudo_balance/") and high < 0.01:
        label = name.rsplit("/", 1)[1]
        advice = "draw it more often (data.rare_classes), or train longer on the source first"
        yield name, f"class '{label}' of the source has vanished from the pseudo-labels: {advice}"
    elif name == "health/teacher_agreement" and high < 0.3:
        advice = "lower method.teacher.decay, or let the weight grow slowly (method.ramp)"
        yield name, f"student and teacher drift apart: they agree on {100 * high:.0f} % of the pixels or less; {advice}"
    elif name == "health/teacher_distance" and low > 0.5:
        advice = "lower method.teacher.decay, or the learning rate"
        yield name, f"teacher and student drift apart: their weights differ by {100 * low:.0f} % or more; {advice}"
    elif name == "health/feature_distance_cells" and high == 0:
        advice = "lower method.feature_distance.min_ratio, or name other classes"
        yield name, f"no cell of the source shows a class of method.feature_distance, whose loss is 0: {advice}"


def adaptation_hurts(lift: float, baseline: float) -> str:
    """What a run says that ends below its baseline."""
    return (
        f"the adapted network is {-lift:.2f} points worse than source only ({baseline:.2f}): adaptation hurts here; "
        "lower its weight, or check that the domains share their classes"
    )


def last_score(baseline: str) -> Optional[float]:
    """The target mIoU of a run's last evaluation."""
    if not baseline:
        return None
    log = Path(baseline) / "log.jsonl"
    if not log.is_file():
        raise CheckpointError(f"run.baseline: '{baseline}' is no run's folder (it has no log.jsonl)")
    try:
        scores = [json.loads(line).get("target/mIoU") for line in log.read_text(encoding="utf-8").splitlines()]
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"run.baseline: '{log}' is damaged ({error}); resume that run to repair it") from None
    scores = [score for score in scores if score is not None]
    if not scores:
        raise CheckpointError(f"run.baseline: the run in '{baseline}' was never evaluated")
    return scores[-1]

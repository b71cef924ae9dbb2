"""Watches a run's readings and says in plain words what goes wrong and what to try.

The thresholds come from what users of the originals reported: healthy discriminators have a loss of 0.2 to 0.5 for
each domain and are right on 60 to 85 % of patches; adaptation that fails shows first as target predictions of few
classes.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from paddle_adaptseg.errors import CheckpointError

WINDOW = 10  # readings that must agree before anything is said
QUIET = 20  # readings before the same thing is said again


@dataclass
class HealthMonitor:
    """Feed it every watched step's numbers; it returns new warnings."""

    history: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    silent_until: dict[str, int] = field(default_factory=dict)
    count: int = 0

    def observe(self, losses: dict[str, float], readings: dict[str, float]) -> list[str]:
        """Warnings that the last WINDOW readings agree on and that were not said lately."""
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
        """Take over the readings of a run that goes on, so that it warns as if it had never stopped."""
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
_NO_LABELS = "are the labels all ignored? tools/check_dataset.py tells"
_NO_TERM = "it teaches nothing any more; is its weight or threshold right?"


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
        raise CheckpointError(f"run.baseline: '{log}' is damaged ({error}); resume that run to mend it") from None
    scores = [score for score in scores if score is not None]
    if not scores:
        raise CheckpointError(f"run.baseline: the run in '{baseline}' was never evaluated")
    return scores[-1]

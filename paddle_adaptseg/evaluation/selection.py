"""Which checkpoint to take without target labels, and what that costs against the best one. Pure.

The best checkpoint by target mIoU is known only with target labels; each criterion here does without them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Criterion:
    """A reading of each checkpoint and the direction that is better."""

    reading: str
    largest: bool
    meaning: str


CRITERIA: Mapping[str, Criterion] = {
    "target entropy": Criterion("entropy", False, "the surest predictions on target images"),
    "source mIoU": Criterion("source_miou", True, "the best score on labelled source images"),
    "prediction stability": Criterion(
        "stability", True, "the fewest target pixels changed since the checkpoint before"
    ),
    "class-share agreement": Criterion(
        "share_agreement", True, "predicted target classes as frequent as in the source"
    ),
    "last": Criterion("step", True, "the end of training"),
}


@dataclass(frozen=True)
class Pick:
    """What a criterion chose, and how many points of mIoU are lost against the best checkpoint."""

    criterion: str
    step: int
    miou: float
    cost: float


def pick_all(readings: Sequence[Mapping[str, float]]) -> list[Pick]:
    """A pick of every criterion that was measured; each reading holds `step`, `miou` (per cent) and the criteria's."""
    known = [r for r in readings if not math.isnan(r["miou"])]
    if not known:
        return []
    best, picks = max(r["miou"] for r in known), []
    for name, criterion in CRITERIA.items():
        measured = [r for r in known if not math.isnan(r.get(criterion.reading, math.nan))]
        if measured:
            sign = 1 if criterion.largest else -1
            chosen = max(measured, key=lambda r, c=criterion, s=sign: (s * r[c.reading], -r["step"]))
            picks.append(Pick(name, int(chosen["step"]), chosen["miou"], best - chosen["miou"]))
    return picks


@dataclass(frozen=True)
class Headline:
    """The three scores of a run: its last checkpoint, its best, and the mean of its last ones."""

    last_step: int
    last: float
    best_step: int
    best: float
    tail: int
    tail_mean: float


END = 0.5  # the mean of the last checkpoints takes none from before this share of the training


def headline(readings: Sequence[Mapping[str, float]], tail: int) -> Headline:
    """Last, best and the mean of the last `tail` checkpoints at most; of equal ones the earliest is best."""
    ordered = sorted(readings, key=lambda r: r["step"])
    best = max(ordered, key=lambda r: (-math.inf if math.isnan(r["miou"]) else r["miou"], -r["step"]))
    late = END * ordered[-1]["step"]
    end = [r["miou"] for r in ordered[-tail:] if r["step"] >= late]
    return Headline(int(ordered[-1]["step"]), ordered[-1]["miou"], int(best["step"]), best["miou"], len(end),
                    sum(end) / len(end))  # fmt: skip

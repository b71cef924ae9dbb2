"""What an evaluation hands to its report: plain values, no network and no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core.labels import LabelSpace
from paddle_adaptseg.evaluation.metrics import ConfusionMatrix
from paddle_adaptseg.evaluation.selection import Headline, Pick


@dataclass(frozen=True)
class DomainScores:
    """One domain's counts, and the interval of its mIoU over images for every class set (shares, not per cent)."""

    matrix: ConfusionMatrix
    boundary: np.ndarray  # [3, C]
    reliability: np.ndarray  # [3, BINS]
    intervals: Mapping[str, tuple[float, float]]
    entropy: float
    seconds: float


@dataclass(frozen=True)
class Shown:
    """One image of the report with pictures of it by what they show, RGB, and the classes that occur in them."""

    caption: str
    pictures: Mapping[str, np.ndarray]
    classes: Sequence[int] = ()


@dataclass(frozen=True)
class Trajectory:
    """A run's checkpoints: a row of readings each, what the criteria pick, and the three headline scores."""

    rows: Sequence[Mapping[str, float]]
    picks: Sequence[Pick]
    headline: Headline


@dataclass(frozen=True)
class Findings:
    """Everything that a report shows."""

    title: str
    weights: Sequence[str]
    config: Config
    space: LabelSpace
    sets: Mapping[str, Sequence[int]]
    protocol: Sequence[str]  # lines
    prediction: str
    environment: str
    domains: Mapping[str, DomainScores]
    training_size: bool = False
    baseline: Mapping[str, DomainScores] = field(default_factory=dict)
    baseline_name: str = ""
    effects: Mapping[str, float] = field(default_factory=dict)  # target mIoU of each option on its own, per cent
    images: Sequence[Shown] = ()
    run: Optional[Trajectory] = None

"""The curves of runs from their logs, as one picture: what VisualDL shows, where there is no server (notebooks)."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.evaluation.report.charts import png_of

Curve = list[tuple[int, float]]
COLOURS = ("#2f6690", "#e08e45", "#c1292e", "#4f9d69", "#7d5ba6", "#9aa5b1")

# The panels of the picture: which numbers of a log stand in each. One without any is left out.
PANELS: Mapping[str, Callable[[str], bool]] = {
    "mIoU, %": lambda name: "/mIoU" in name,
    "segmentation losses": lambda name: name.startswith("loss/seg"),
    "adaptation losses": lambda name: name.startswith("loss/") and not name.startswith(("loss/seg", "loss/d_")),
    "discriminators' losses": lambda name: name.startswith("loss/d_"),
}
FIRST = next(iter(PANELS))


def read_curves(run: Path) -> dict[str, Curve]:
    """Every number of a run's log over its steps; what was not finite is left out."""
    log = run / "log.jsonl"
    if not log.is_file():
        raise CheckpointError(f"'{run}' is no run's folder (it has no log.jsonl)")
    curves: dict[str, Curve] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            step = record.pop("step")
        except (ValueError, KeyError, AttributeError):
            break  # a torn last line of a run that is being written
        for name, value in record.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                curves.setdefault(name, []).append((step, float(value)))
    return curves


def warnings_of(run: Path) -> list[str]:
    """The warnings that a run's log holds, with their steps."""
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if '"warnings"' in line and line.endswith("}")]
    return [f"step {record['step']}: {record['warnings']}" for record in records]


def draw_curves(runs: Mapping[str, Mapping[str, Curve]], title: str = "") -> bytes:
    """A PNG of the first run's curves; of the others only the mIoU on the target, to compare with."""
    from matplotlib.figure import Figure

    (_, main), *others = runs.items()
    chosen = {title: {n: c for n, c in main.items() if wanted(n)} for title, wanted in PANELS.items()}
    chosen = {title: curves for title, curves in chosen.items() if curves}
    rows = -(-max(1, len(chosen)) // 2)
    figure = Figure(figsize=(10, 0.4 + 2.7 * rows), dpi=100, layout="constrained")
    for place, (name, curves) in enumerate(chosen.items(), 1):
        axes = figure.add_subplot(rows, min(2, len(chosen)), place)
        for colour, (curve, points) in zip(itertools.cycle(COLOURS), curves.items()):
            _line(axes, points, curve.removeprefix("loss/"), color=colour)
        if name == FIRST:
            for colour, (run, theirs) in zip(itertools.cycle(COLOURS[::-1]), others):
                _line(axes, theirs.get("target/mIoU", []), f"{run}: target/mIoU", color=colour, linestyle="--")
        _dress(axes, name)
    figure.suptitle(title, fontsize=10)
    return png_of(figure)


def _line(axes: Any, points: Curve, label: str, **style: Any) -> None:
    few = "o" if len(points) < 12 else None
    axes.plot([p[0] for p in points], [p[1] for p in points], label=label, marker=few, markersize=4, lw=1.3, **style)


def _dress(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb")
    axes.tick_params(labelsize=8)
    axes.set_xlabel("step", fontsize=8)
    axes.legend(fontsize=7, frameon=False)

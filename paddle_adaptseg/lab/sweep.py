"""A grid over any keys of a configuration: trained side by side, resumable, then a table, a chart and VDL's HParams.

`--set method.weights.main=0.01,0.03 --set seed=0,1` is four trainings and two settings; scores of one setting's seeds
stand together.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.config.yamltree import parse_tree
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.evaluation.report.charts import png_of
from paddle_adaptseg.lab.compare import final_score, is_finished
from paddle_adaptseg.lab.launch import Job, quoted, run_jobs
from paddle_adaptseg.lab.tables import markdown_table

SEED = "run.seed"
SHORT: Mapping[str, str] = {"seed": SEED}
FORBIDDEN = ("run.output",)  # every training has a folder of its own


@dataclass(frozen=True)
class Axis:
    """A key and the values it takes in turn."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Trial:
    """One training of a sweep: the value of every key, and the job."""

    values: Mapping[str, Any]
    job: Job

    @property
    def setting(self) -> tuple[str, ...]:
        """What it shares with the other seeds of its setting."""
        return tuple(str(value) for key, value in self.values.items() if key != SEED)


@dataclass(frozen=True)
class Setting:
    """Values of all keys but the seed, and the final target mIoU of every seed."""

    values: Mapping[str, Any]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    def cells(self) -> dict[str, str]:
        """The table's columns."""
        numbers = {"mean": self.mean, "min": min(self.scores), "max": max(self.scores)}
        values = {key: str(value) for key, value in self.values.items()}
        return {**values, "seeds": str(len(self.scores)), **{k: f"{v:.1f}" for k, v in numbers.items()}}


def parse_axis(text: str) -> Axis:
    """Read KEY=a,b,c; the values are YAML, `seed` is short for run.seed."""
    key, equals, raw = text.partition("=")
    key = SHORT.get(key.strip(), key.strip())
    values = parse_tree(f"values: [{raw}]", f"--set {text}")["values"] if equals and key else []
    if not values or key in FORBIDDEN:
        raise ConfigError(f"--set '{text}' must have the form key.path=value,value and not set {', '.join(FORBIDDEN)}")
    if len({label(value) for value in values}) < len(values):
        raise ConfigError(f"--set '{text}' names a value twice")
    return Axis(key, tuple(values))


def label(value: Any) -> str:
    """A value as part of a folder's name."""
    return re.sub(r"[^\w.+-]+", "_", str(value))


def sweep_trials(path: str, axes: Sequence[Axis], folder: Path, overrides: Sequence[str]) -> list[Trial]:
    """A training for every point of the grid, in a folder that its values name."""
    keys = [axis.key for axis in axes]
    if len(set(keys)) < len(keys):
        raise ConfigError(f"--set names a key twice: {', '.join(keys)}")
    ends = [key.rsplit(".", 1)[-1] for key in keys]
    names = [end if ends.count(end) == 1 else key for key, end in zip(keys, ends)]
    trials = []
    for point in itertools.product(*(axis.values for axis in axes)):
        output = folder / ("_".join(f"{name}={label(value)}" for name, value in zip(names, point)) or "run")
        chosen = [f"{key}={json.dumps(value)}" for key, value in zip(keys, point)]
        own = [*overrides, *chosen, quoted("run.output", output)]
        job = Job(("--config", path, "--continue-train", "-o", *own), load_config(path, own))
        trials.append(Trial(dict(zip(keys, point)), job))
    return trials


def run_sweep(trials: Sequence[Trial], parallel: int) -> list[Setting]:
    """Train what is not trained to its end yet, and gather the scores of the last steps."""
    run_jobs([trial.job for trial in trials if not is_finished(trial.job)], parallel)
    scores: dict[tuple[str, ...], list[float]] = {}
    values = {}
    for trial in trials:
        scores.setdefault(trial.setting, []).append(final_score(trial.job)[0])
        values[trial.setting] = {key: value for key, value in trial.values.items() if key != SEED}
    return [Setting(values[setting], tuple(by_seed)) for setting, by_seed in scores.items()]


def write_sweep(trials: Sequence[Trial], settings: Sequence[Setting], folder: Path, title: str) -> list[Path]:
    """Every training as CSV, every setting as Markdown, a figure of one or two keys, and VisualDL's HParams."""
    from paddle_adaptseg.training.log import write_hparams

    cells = [setting.cells() for setting in settings]
    outputs = {
        "results.csv": _csv(trials).encode(),
        "table.md": f"{markdown_table(list(cells[0]), (c.values() for c in cells))}\n".encode(),
    }
    chart = draw(settings, title)
    if chart is not None:
        outputs["chart.png"] = chart
    for name, data in outputs.items():
        write_atomically(folder / name, lambda handle, data=data: handle.write(data))
    for trial in trials:
        plain = {k: v if isinstance(v, (int, float, str)) else str(v) for k, v in trial.values.items()}
        write_hparams(folder / "vdl" / trial.job.folder.name, plain, {"target/mIoU": final_score(trial.job)[0]})
    return [*(folder / name for name in outputs), folder / "vdl"]


def _csv(trials: Sequence[Trial]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [*trials[0].values, "target_miou", "seconds", "folder"])
    writer.writeheader()
    for trial in trials:
        miou, seconds = final_score(trial.job)
        writer.writerow({**trial.values, "target_miou": miou, "seconds": seconds, "folder": trial.job.folder})
    return text.getvalue()


def draw(settings: Sequence[Setting], title: str) -> Optional[bytes]:
    """A line over one key, a heat map over two; there is no figure of more."""
    from matplotlib.figure import Figure

    painter = {1: _line, 2: _heat_map}.get(len(settings[0].values))
    if painter is None:
        return None
    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    painter(figure, axes, settings)
    axes.set_title(title, fontsize=10)
    return png_of(figure)


def _line(figure: Any, axes: Any, settings: Sequence[Setting]) -> None:
    """Mean over the key's values, the range of the seeds as a band, every seed as a dot."""
    (key,) = settings[0].values
    raw = [setting.values[key] for setting in settings]
    numbers = [number for number in map(_number, raw) if number is not None]
    numeric = len(numbers) == len(raw)
    order = np.argsort(numbers) if numeric else range(len(settings))
    places = [numbers[i] if numeric else i for i in order]
    ordered = [settings[i] for i in order]
    axes.fill_between(places, [min(s.scores) for s in ordered], [max(s.scores) for s in ordered], alpha=0.2)
    axes.plot(places, [s.mean for s in ordered], "o-", color="#4c78a8", label="mean")
    for place, setting in zip(places, ordered):
        axes.plot([place] * len(setting.scores), setting.scores, ".", color="#e45756", markersize=5)
        style = {"textcoords": "offset points", "ha": "center", "bbox": {"fc": "white", "ec": "none", "pad": 0.5}}
        axes.annotate(f"{setting.mean:.1f}", (place, max(setting.scores)), (0, 7), **style)
    if numeric and min(places) > 0 and max(places) >= 10 * min(places):
        axes.set_xscale("log")
    axes.set_xticks(places, [str(raw[i]) for i in order])
    axes.minorticks_off()
    axes.margins(y=0.2)
    axes.set_xlabel(key)
    axes.set_ylabel("target mIoU, % (line: mean, dots: seeds)")
    axes.spines[["top", "right"]].set_visible(False)


def _heat_map(figure: Any, axes: Any, settings: Sequence[Setting]) -> None:
    """The mean over the seeds of every pair of values."""
    rows, columns = settings[0].values
    across, down = (list(dict.fromkeys(str(s.values[key]) for s in settings)) for key in (columns, rows))
    means = np.full((len(down), len(across)), np.nan)
    for setting in settings:
        means[down.index(str(setting.values[rows])), across.index(str(setting.values[columns]))] = setting.mean
    image = axes.imshow(means, cmap="cividis", aspect="auto")
    middle = (np.nanmin(means) + np.nanmax(means)) / 2
    for (row, column), mean in np.ndenumerate(means):
        axes.text(column, row, f"{mean:.1f}", ha="center", va="center", color="white" if mean < middle else "black")
    axes.set_xticks(range(len(across)), across)
    axes.set_yticks(range(len(down)), down)
    axes.set_xlabel(columns)
    axes.set_ylabel(rows)
    figure.colorbar(image, ax=axes, label="target mIoU, % (mean over seeds)")


def _number(value: Any) -> Optional[float]:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None

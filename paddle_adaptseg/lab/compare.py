"""Several configurations over several seeds: trained side by side, resumable, and one table of what came out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from paddle_adaptseg.config.loading import differences, load_config, parse_config
from paddle_adaptseg.core.errors import ConfigError, TrainingError
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.evaluation.report.charts import png_of
from paddle_adaptseg.lab.launch import SECONDS, Job, quoted, run_jobs
from paddle_adaptseg.lab.tables import markdown_table


@dataclass(frozen=True)
class Row:
    """Final target mIoU of one configuration, by seed, and its lift over the baseline's same seeds."""

    name: str
    scores: tuple[float, ...]
    lifts: tuple[float, ...]
    seconds: float

    def cells(self) -> dict[str, str]:
        """The table's columns."""
        scores = {
            "mean": float(np.mean(self.scores)),
            "min": min(self.scores),
            "max": max(self.scores),
        }
        lift = f"{np.mean(self.lifts):+.1f}" if self.lifts else ""
        return {
            "method": self.name,
            **{k: f"{v:.1f}" for k, v in scores.items()},
            "lift": lift,
            "lift by seed": " ".join(f"{x:+.1f}" for x in self.lifts),
            "seconds": f"{self.seconds:.0f}",
        }


def study_jobs(
    paths: Sequence[str], seeds: Sequence[int], folder: Path, overrides: Sequence[str]
) -> dict[str, list[Job]]:
    """A training for every configuration and seed, in a folder of its own."""
    jobs: dict[str, list[Job]] = {}
    for path in paths:
        name = Path(path).stem
        if name in jobs:
            raise ConfigError(f"two configurations are called '{name}'; results are kept by that name")
        jobs[name] = []
        for seed in seeds:
            own = [*overrides, f"run.seed={seed}", quoted("run.output", folder / name / f"seed_{seed}")]
            jobs[name].append(Job(("--config", path, "--continue-train", "-o", *own), load_config(path, own)))
    return jobs


def run_study(jobs: Mapping[str, Sequence[Job]], baseline: Optional[str], parallel: int) -> list[Row]:
    """Train what is not trained yet and read the scores of the last step."""
    run_jobs([job for by_seed in jobs.values() for job in by_seed if not is_finished(job)], parallel)
    scores = {name: [final_score(job)[0] for job in by_seed] for name, by_seed in jobs.items()}
    base = scores.get(baseline) if baseline else None
    rows = []
    for name, by_seed in jobs.items():
        lifts = tuple(a - b for a, b in zip(scores[name], base)) if base and name != baseline else ()
        rows.append(Row(name, tuple(scores[name]), lifts, float(np.mean([final_score(job)[1] for job in by_seed]))))
    return sorted(rows, key=lambda row: -float(np.mean(row.scores)))


def write_study(rows: Sequence[Row], folder: Path, title: str) -> list[Path]:
    """The table as CSV and Markdown, and a bar chart."""
    cells = [row.cells() for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, cells[0])
    writer.writeheader()
    writer.writerows(cells)
    outputs = {
        "table.csv": text.getvalue().encode(),
        "table.md": f"{markdown_table(list(cells[0]), (c.values() for c in cells))}\n".encode(),
        "chart.png": bar_chart(rows, title),
    }
    for name, data in outputs.items():
        write_atomically(folder / name, lambda handle, data=data: handle.write(data))
    return [folder / name for name in outputs]


def bar_chart(rows: Sequence[Row], title: str) -> bytes:
    """Mean mIoU as bars, every seed as a dot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.38 * len(rows)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(reversed(rows)):
        axes.barh(place, np.mean(row.scores), color="#4c78a8", height=0.65)
        axes.plot(row.scores, [place] * len(row.scores), "o", color="#e45756", markersize=4)
        axes.text(max(row.scores) + 0.7, place, f"{np.mean(row.scores):.1f}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    axes.set_xlabel("target mIoU, % (bar: mean, dots: seeds)")
    axes.set_xlim(0, 1.12 * max(max(row.scores) for row in rows))
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return png_of(figure)


def is_finished(job: Job) -> bool:
    """Whether this very configuration was trained to its end; a folder of another one is refused by the training."""
    saved = job.folder / "config.yml"
    if not (job.folder / SECONDS).is_file() or not saved.is_file():
        return False
    old = parse_config(saved.read_text(encoding="utf-8"), str(saved))
    return old.schedule.stop == job.config.schedule.stop and not differences(old, job.config)


def final_score(job: Job) -> tuple[float, float]:
    """Target mIoU at the last step and the seconds of training."""
    found = None
    for line in (job.folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["step"] == job.config.schedule.stop and "target/mIoU" in record:
            found = record["target/mIoU"]
    if found is None:
        raise TrainingError(f"'{job.folder}' has no evaluation at its last step (is run.eval_every 0?)")
    return found, float((job.folder / SECONDS).read_text(encoding="utf-8"))

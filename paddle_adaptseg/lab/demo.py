"""The demo: source-only against AdaptSegNet on the toy pair, as a table, a figure and one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core.runtime import cpu_count
from paddle_adaptseg.data import label_space, open_validation
from paddle_adaptseg.data.toy import ToySpec, write_toy_pair
from paddle_adaptseg.evaluation.measure import evaluate_model
from paddle_adaptseg.evaluation.metrics import ConfusionMatrix
from paddle_adaptseg.evaluation.predictor import PLAIN, Predictor
from paddle_adaptseg.evaluation.visual import colourise, grid
from paddle_adaptseg.lab.launch import Job, run_jobs
from paddle_adaptseg.weights.load import load_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "toy"
METHODS = {"source-only": "source_only", "adapted": "adaptsegnet_multi"}
ROWS = 6  # images in the figure


@dataclass(frozen=True)
class Comparison:
    """Confusion matrices of both methods for one seed, from the weights of the last step."""

    seed: int
    matrices: dict[str, ConfusionMatrix]

    def miou(self, name: str) -> float:
        return 100 * self.matrices[name].miou()

    @property
    def lift(self) -> float:
        return self.miou("adapted") - self.miou("source-only")


def compare(seeds: Sequence[int], fresh: bool) -> tuple[list[Comparison], dict[int, dict[str, Job]]]:
    """Train what is not trained yet, two at a time, and score everything on the same unseen target scenes."""
    jobs = {seed: {name: _job(file, seed, fresh) for name, file in METHODS.items()} for seed in seeds}
    for seed in seeds:
        root = _root(seed)
        write_toy_pair(root, ToySpec(seed=seed))
        print(f"toy pair: {root}")
    everything = [job for by_name in jobs.values() for job in by_name.values()]
    print(f"training {len(everything)} networks: " + ", ".join(str(job.folder) for job in everything))
    run_jobs(everything, parallel=min(2, cpu_count()))
    return [Comparison(s, {n: _score(job.config) for n, job in jobs[s].items()}) for s in seeds], jobs


def class_table(comparison: Comparison, config: Config) -> str:
    """IoU of every class for both methods, and the lift."""
    columns = [100 * comparison.matrices[name].iou() for name in METHODS]
    lines = [f"{'class':<12}" + "".join(f"{name:>13}" for name in METHODS) + f"{'lift':>9}"]
    for name, before, after in zip(label_space(config).names, *columns):
        lines.append(f"{name:<12}{before:13.2f}{after:13.2f}{after - before:+9.2f}")
    before, after = (comparison.miou(name) for name in METHODS)
    return "\n".join([*lines, f"{'mIoU':<12}{before:13.2f}{after:13.2f}{after - before:+9.2f}"])


def figure(jobs: dict[str, Job], path: Path) -> None:
    """A grid of target image, ground truth and both predictions."""
    config = next(iter(jobs.values())).config
    models = [load_model(_last_weights(job.config))[0] for job in jobs.values()]
    predictors = [Predictor(model, config.data.pixels, PLAIN.within(config.eval)) for model in models]
    files, space = open_validation(config), label_space(config)
    rows = []
    for index in range(min(ROWS, len(files))):
        image, ground_truth = files.image(index), files.label(index)
        labels = [predictor.scaled_logits(image).labels(ground_truth.shape) for predictor in predictors]
        rows.append([image, *(colourise(np.asarray(label), space) for label in (ground_truth, *labels))])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid(rows, ["target image", "ground truth", *METHODS], scale=2)).save(path)


def seeds_table(comparisons: Sequence[Comparison]) -> str:
    """A Markdown table of scores and lifts by seed."""
    rows = [(str(c.seed), c.miou("source-only"), c.miou("adapted"), c.lift) for c in comparisons]
    before, after, lift = (float(np.mean([row[i] for row in rows])) for i in (1, 2, 3))
    rows.append(("mean", before, after, lift))
    lines = ["| seed | source-only | AdaptSegNet multi | lift |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {s} | {a:.2f} | {b:.2f} | {lift:+.2f} |" for s, a, b, lift in rows)])


def _root(seed: int) -> Path:
    return Path("dataset/toy" if seed == 0 else f"dataset/toy_seed{seed}")


def _job(file: str, seed: int, fresh: bool) -> Job:
    root, path = _root(seed), CONFIGS / f"{file}.yml"
    folder = "checkpoint/toy" if seed == 0 else f"checkpoint/toy_seed{seed}"
    overrides = [
        f"run.seed={seed}",
        f"run.output={folder}/{file}",
        f"data.source.root={root / 'GTA5'}",
        f"data.target.root={root / 'Cityscapes'}",
        f"data.validation.root={root / 'Cityscapes'}",
    ]
    mode = "--overwrite" if fresh else "--continue-train"
    return Job(("--config", str(path), mode, "-o", *overrides), load_config(path, overrides))


def _last_weights(config: Config) -> Path:
    return Path(config.run.output) / "weights" / f"step_{config.schedule.stop:08d}.pdparams"


def _score(config: Config) -> ConfusionMatrix:
    model, _ = load_model(_last_weights(config), config)
    return evaluate_model(model, config)

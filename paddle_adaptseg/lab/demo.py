"""The demo on the toy pair: source-only, AdaptSegNet, then self-training from there; a table, a figure and one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from paddle_adaptseg.config.loading import SHIPPED, load_config
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core.runtime import cpu_count
from paddle_adaptseg.data import label_space, open_validation
from paddle_adaptseg.data.toy import ToySpec, write_toy_pair
from paddle_adaptseg.evaluation.measure import evaluate_model
from paddle_adaptseg.evaluation.metrics import ConfusionMatrix
from paddle_adaptseg.evaluation.predictor import PLAIN, Predictor
from paddle_adaptseg.evaluation.visual import colourise, grid
from paddle_adaptseg.lab.animation import write_animation
from paddle_adaptseg.lab.launch import Job, run_jobs
from paddle_adaptseg.lab.tables import markdown_table
from paddle_adaptseg.weights.load import load_model

METHODS = {"source-only": "source_only", "adapted": "adaptsegnet_multi", "self-training": "adaptsegnet_self_training"}
STAGES = (("source-only", "adapted"), ("self-training",))  # the last one starts from the adapted network
TITLES = {"adapted": "AdaptSegNet multi"}  # in the table over seeds
ROWS, ANIMATED = 6, 3  # images in the figure and in the animation


@dataclass(frozen=True)
class Comparison:
    """Confusion matrices of all methods for one seed, from the weights of the last step."""

    seed: int
    matrices: dict[str, ConfusionMatrix]

    def miou(self, name: str) -> float:
        return 100 * self.matrices[name].miou()

    def lift(self, name: str) -> float:
        return self.miou(name) - self.miou("source-only")


def compare(seeds: Sequence[int], fresh: bool) -> tuple[list[Comparison], dict[int, dict[str, Job]]]:
    """Train what is not trained yet, two at a time, and score everything on the same unseen target scenes."""
    jobs = {seed: {name: _job(file, seed, fresh) for name, file in METHODS.items()} for seed in seeds}
    for seed in seeds:
        root = _root(seed)
        write_toy_pair(root, ToySpec(seed=seed))
        print(f"toy pair: {root}")
    for stage in STAGES:
        now = [jobs[seed][name] for seed in seeds for name in stage]
        print(f"training {len(now)} network{'s'[: len(now) > 1]}: " + ", ".join(str(job.folder) for job in now))
        run_jobs(now, parallel=min(2, cpu_count()))
    return [Comparison(s, {n: _score(job.config) for n, job in jobs[s].items()}) for s in seeds], jobs


def class_table(comparison: Comparison, config: Config) -> str:
    """IoU of every class for all methods, with the lift over source-only."""
    columns = {name: 100 * comparison.matrices[name].iou() for name in METHODS}
    means = {name: comparison.miou(name) for name in METHODS}
    head, *others = METHODS
    lines = [f"{'class':<12}{head:>13}" + "".join(f"{name:>15}{'lift':>8}" for name in others)]
    for index, name in enumerate([*label_space(config).names, "mIoU"]):
        values = {m: means[m] if name == "mIoU" else columns[m][index] for m in METHODS}
        cells = (f"{values[m]:15.2f}{values[m] - values[head]:+8.2f}" for m in others)
        lines.append(f"{name:<12}{values[head]:13.2f}" + "".join(cells))
    return "\n".join(lines)


def summary(comparisons: Sequence[Comparison]) -> str:
    """The demo's last line: the mean over seeds of all methods, and the lifts over source-only."""
    mean = {name: float(np.mean([c.miou(name) for c in comparisons])) for name in METHODS}
    head, *others = METHODS
    lifts = ", ".join(f"{name} {mean[name]:.2f}, {mean[name] - mean[head]:+.2f} mIoU" for name in others)
    return f"lift: {head} {mean[head]:.2f}, {lifts}"


def steps(jobs: dict[str, Job]) -> str:
    """How long each method trained: a third training on top of a second one is no comparison at equal steps."""
    stop = {name: job.config.schedule.stop for name, job in jobs.items()}
    return (f"steps: source-only {stop['source-only']}, adapted {stop['adapted']}, self-training "
            f"{stop['self-training']} more from the adapted network")  # fmt: skip


def figure(jobs: dict[str, Job], path: Path) -> None:
    """A grid of target image, ground truth and all predictions."""
    space = label_space(next(iter(jobs.values())).config)
    rows = [[image, *(colourise(label, space) for label in labels)] for image, *labels in _predictions(jobs)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid(rows, ["target image", "ground truth", *METHODS], scale=2)).save(path)


def animation(jobs: dict[str, Job], comparison: Comparison, path: Path) -> None:
    """The same as an animated GIF file of the first images, with the scores and the colours of the classes."""
    images, ground_truth, *labels = zip(*_predictions(jobs)[:ANIMATED])
    titles = {
        f"{TITLES.get(name, name)}: {comparison.miou(name):.2f} mIoU": shown for name, shown in zip(METHODS, labels)
    }
    space = label_space(next(iter(jobs.values())).config)
    write_animation(images, {**titles, "ground truth": ground_truth}, space, path)


def _predictions(jobs: dict[str, Job]) -> list[tuple[np.ndarray, ...]]:
    """Target image, ground truth and the labels of every method, for the first images."""
    config = next(iter(jobs.values())).config
    models = [load_model(_last_weights(job.config))[0] for job in jobs.values()]
    predictors = [Predictor(model, config.data.pixels, PLAIN.within(config.eval)) for model in models]
    files, found = open_validation(config), []
    for index in range(min(ROWS, len(files))):
        image, ground_truth = files.image(index), files.label(index)
        labels = [predictor.scaled_logits(image).labels(ground_truth.shape) for predictor in predictors]
        found.append((image, ground_truth, *map(np.asarray, labels)))
    return found


def seeds_table(comparisons: Sequence[Comparison]) -> str:
    """A Markdown table of scores and lifts by seed."""
    head, *others = METHODS
    rows = [[c.miou(head), *(x for name in others for x in (c.miou(name), c.lift(name)))] for c in comparisons]
    titles = ["seed", head, *(x for name in others for x in (TITLES.get(name, name), "lift"))]
    form = ["{:.2f}"] + ["{:.2f}", "{:+.2f}"] * len(others)
    named = zip([*(c.seed for c in comparisons), "mean"], [*rows, np.mean(rows, axis=0)])
    return markdown_table(titles, ([name, *(f.format(x) for f, x in zip(form, row))] for name, row in named))


def _root(seed: int) -> Path:
    return Path("dataset/toy" if seed == 0 else f"dataset/toy_seed{seed}")


def _job(file: str, seed: int, fresh: bool) -> Job:
    root, path = _root(seed), SHIPPED / "toy" / f"{file}.yml"
    folder = "checkpoint/toy" if seed == 0 else f"checkpoint/toy_seed{seed}"
    overrides = [
        f"run.seed={seed}",
        f"run.output={folder}/{file}",
        f"data.source.root={root / 'GTA5'}",
        f"data.target.root={root / 'Cityscapes'}",
        f"data.validation.root={root / 'Cityscapes'}",
    ]
    if load_config(path).run.restore_from:
        overrides.append(f"run.restore_from={folder}/{METHODS['adapted']}@latest")
    mode = "--overwrite" if fresh else "--continue-train"
    return Job(("--config", str(path), mode, "-o", *overrides), load_config(path, overrides))


def _last_weights(config: Config) -> Path:
    return Path(config.run.output) / "weights" / f"step_{config.schedule.stop:08d}.pdparams"


def _score(config: Config) -> ConfusionMatrix:
    model, _ = load_model(_last_weights(config), config)
    return evaluate_model(model, config)

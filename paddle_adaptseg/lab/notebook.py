"""What a notebook calls besides load_config, evaluate and predict: train and resume, curves, predictions, reports.

Every call returns something that Jupyter shows and that also works without Jupyter.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import numpy as np

from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core.errors import CheckpointError, Stopped
from paddle_adaptseg.data import label_space, open_domain
from paddle_adaptseg.data.reading import spread
from paddle_adaptseg.data.toy import ensure_toy
from paddle_adaptseg.evaluation.predictor import PLAIN, Predictor
from paddle_adaptseg.evaluation.report.curves import draw_curves, read_curves, warnings_of
from paddle_adaptseg.evaluation.visual import at_size, colourise, grid, heat, png_bytes
from paddle_adaptseg.lab.doctor.report import Report, examine
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.weights.load import load_model

WIDEST = 256  # pixels of an image in a grid, so that a notebook's file stays small


@dataclass(frozen=True)
class Shown:
    """A PNG and a line about it; a notebook shows the image."""

    png: bytes
    text: str

    def _repr_png_(self) -> bytes:
        """What notebooks show."""
        return self.png

    def __repr__(self) -> str:
        return self.text

    def save(self, path: Union[str, Path]) -> None:
        """Write the PNG file."""
        Path(path).write_bytes(self.png)


@dataclass(frozen=True)
class Page:
    """A self-contained HTML page in a frame of its own, so that its style stays inside."""

    path: Path
    height: int

    def _repr_html_(self) -> str:
        """What notebooks show."""
        text = html.escape(self.path.read_text(encoding="utf-8"))
        style = f"width:100%;height:{self.height}px;border:1px solid #d0d7de;box-sizing:border-box"
        return f'<iframe srcdoc="{text}" style="{style}"></iframe>'


def train(config: Config, resume: str = "latest", overwrite: bool = False) -> Shown:
    """Train a configuration, or resume its run, and show the curves; generates the toy data if the paths name them.

    Running the same cell again resumes the run; a finished run is only shown. Interrupting the kernel or reaching
    run.max_hours saves a checkpoint and stops without an error.
    """
    ensure_toy(config.data.target.root)
    try:
        fit(config, None if overwrite else resume, overwrite)
    except Stopped as stopped:
        print(stopped)
    return show_run(config.run.output)


def show_run(run: Union[str, Path], *others: Union[str, Path]) -> Shown:
    """The curves of a run so far, and the target mIoU of other runs dashed beside its own."""
    folders = [Path(run), *map(Path, others)]
    curves = {str(folder): read_curves(folder) for folder in folders}
    step = max((points[-1][0] for points in curves[str(folders[0])].values()), default=0)
    scores = curves[str(folders[0])].get("target/mIoU", [])
    text = f"{run}: step {step}"
    if scores:
        best = max(scores, key=lambda point: point[1])
        text += f", target mIoU {scores[-1][1]:.2f} (best {best[1]:.2f} at step {best[0]})"
    notes = warnings_of(folders[0])
    text += f", {len(notes)} warning{'s' * (len(notes) != 1)}"
    names = {folder.name: curves[str(folder)] for folder in folders}
    return Shown(draw_curves(names if len(names) == len(folders) else curves, text), "\n".join([text, *notes]))


def show_data(config: Config, count: int = 3) -> Shown:
    """Source images with their labels beside target images with theirs, which only scoring uses."""
    ensure_toy(config.data.target.root)
    space, rows = label_space(config), []
    source, target = open_domain(config, "source"), open_domain(config, "target")
    for pair in zip(spread(len(source), count), spread(len(target), count)):
        row = []
        for files, index in zip((source, target), pair):
            row += [_small(files.image(index), True), _small(colourise(files.label(index, files.size), space), False)]
        rows.append([at_size(cell, row[0].shape[1::-1], smooth=False) for cell in row])
    captions = ["source", "its labels", "target", "ground truth (scoring only)"]
    text = f"source: {len(source)} images of {source.title}; target: {len(target)} images of {target.title}"
    return Shown(png_bytes(grid(rows, captions)), text)


def show_predictions(*runs: Union[str, Path], count: int = 3, entropy: bool = True) -> Shown:
    """Target images with their ground truth and the predictions of the newest weights of several runs.

    A run is a folder, FOLDER@best, FOLDER@STEP or a weights file. Images are spread evenly over the validation domain.
    Entropy maps are dark where a network is confident and bright where it is not.
    """
    if not runs:
        raise CheckpointError("show_predictions needs at least one run or weights file")
    loaded = [load_model(_newest(run)) for run in runs]
    config = loaded[0][1]
    predictors = [Predictor(model, own.data.pixels, PLAIN.within(own.eval)) for model, own in loaded]
    files, space = open_domain(config, "target"), label_space(config)
    captions, rows = ["target image", "ground truth"], []
    for title in _titles(runs):
        captions += [title, "entropy"] if entropy else [title]
    for index in spread(len(files), count):
        image = files.image(index)
        cells = [image, colourise(files.label(index, files.size), space)]
        for predictor, (_, own) in zip(predictors, loaded):
            label, uncertain = predictor.labels_and_entropy(image)
            cells += [colourise(label, label_space(own)), heat(uncertain)][: 1 + entropy]
        rows.append([_small(cell, smooth=place == 0) for place, cell in enumerate(cells)])
    text = f"{len(rows)} of {len(files)} target images: {', '.join(map(str, runs))}"
    return Shown(png_bytes(grid(rows, captions)), text)


def show_report(folder: Union[str, Path], height: int = 700) -> Page:
    """An evaluation's report (tools/eval.py --report) inside the notebook."""
    page = Path(folder)
    page = page / "index.html" if page.is_dir() else page
    if not page.is_file():
        raise CheckpointError(f"there is no report in '{folder}' (expected {page})")
    return Page(page, height)


def doctor(output: Union[str, Path] = "checkpoint/doctor", seconds: float = 180.0, only: Sequence[str] = ()) -> Report:
    """Whether this machine trains right, and how fast (tools/doctor.py): a page, also as files in `output`."""
    report = examine(Path(output), seconds=seconds, only=only)
    report.write(Path(output))
    return report


def _newest(run: Union[str, Path]) -> str:
    return f"{run}@latest" if Path(run).is_dir() else str(run)


def _titles(runs: Sequence[Union[str, Path]]) -> list[str]:
    """Short unique names of runs: their own, or their parents' (METHOD/seed_0), or whole paths."""
    paths = [Path(run) for run in runs]
    for names in ([path.name for path in paths], [path.parent.name for path in paths]):
        if len(set(names)) == len(names):
            return names
    return [str(run) for run in runs]


def _small(image: np.ndarray, smooth: bool) -> np.ndarray:
    height, width = image.shape[:2]
    if width <= WIDEST:
        return image
    return at_size(image, (WIDEST, round(height * WIDEST / width)), smooth)

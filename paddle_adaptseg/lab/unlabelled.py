"""A report on a run without a target label: entropy, stability and class shares of every checkpoint, and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.core.labels import LabelSpace
from paddle_adaptseg.core.progress import progress
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.reading import spread
from paddle_adaptseg.evaluation.predictor import PLAIN, Predictor
from paddle_adaptseg.evaluation.report import html
from paddle_adaptseg.evaluation.visual import at_size, heat, overlay, png_bytes
from paddle_adaptseg.weights.load import load_model, weights_by_step

IMAGES, SHOWN, WIDTH = 40, 6, 480  # images that are measured, images on the page and their width
TITLE = "Adaptation without target labels"
NOTES = (
    "No target label was used. Entropy that falls while labels stay the same from one checkpoint to the next is a "
    "good sign; classes that disappear are a bad one. Look at the pictures."
)


def report_unlabelled(config: Config, folder: Path) -> tuple[Path, list[str]]:
    """Write `index.html` into `folder`; returns it and lines for the console."""
    steps = weights_by_step(Path(config.run.output))
    if not steps:
        raise CheckpointError(f"'{config.run.output}' holds no weights yet: train it first")
    space = label_space(config)
    files = DomainFiles(config.data.target, space, labelled=False)
    places = spread(len(files), IMAGES)
    rows: list[list[html.Cell]] = []
    lines: list[str] = []
    labels: list[np.ndarray] = []
    for step, path in steps.items():
        predictor = Predictor(load_model(path, config)[0], config.data.pixels, PLAIN.within(config.eval))
        with predictor.ready():
            images = progress(places, f"step {step}", len(places))
            found = [predictor.labels_and_entropy(files.image(place)) for place in images]
        before, labels = labels, [label for label, _ in found]
        same = float(np.mean([np.mean(a == b) for a, b in zip(labels, before)])) if before else math.nan
        entropy = float(np.mean([part.mean() for _, part in found]))
        pixels = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=256)[: len(space)]
        count = int((pixels > 0).sum())
        rows.append([step, entropy, same, count])
        line = f"step {step}: entropy {entropy:.3f}, {count} classes"
        lines.append(line + (f", {100 * same:.1f} % as before" if before else ""))
    parts = [_pictures(files, places[n], *found[n], space) for n in spread(len(found), SHOWN)]
    page = _page(space, rows, pixels / pixels.sum(), parts)
    write_atomically(folder / "index.html", lambda handle: handle.write(page.encode()))
    return folder / "index.html", lines


def _pictures(files: DomainFiles, place: int, label: np.ndarray, entropy: np.ndarray, space: LabelSpace) -> str:
    """An image, its labels over it, and where the network is unsure."""
    image = files.image(place)
    size = (WIDTH, round(WIDTH * image.shape[0] / image.shape[1]))
    drawn = [at_size(part, size, smooth=True) for part in (image, overlay(image, label, space), heat(entropy))]
    return html.image_row([png_bytes(each) for each in drawn], ("image", "prediction", "entropy"), files.stem(place))


def _page(space: LabelSpace, rows: Sequence[list[html.Cell]], shares: np.ndarray, pictures: Sequence[str]) -> str:
    seen = [index for index in np.argsort(-shares) if shares[index] > 0]
    classes: list[list[html.Cell]] = [[space.names[i], float(100 * shares[i])] for i in seen]
    head = ["iterations", "entropy (0: certain)", "share of pixels as before", "classes that occur"]
    legend = html.legend([(space.names[i], space.colours[i]) for i in seen])
    parts = [
        html.title(TITLE),
        html.section("Checkpoints", html.table(head, rows, [0, 3, 3, 0]), html.text(NOTES)),
        html.section("Predicted classes, %", html.table(["class", "share"], classes)),
        html.section("Target images", legend, *pictures),
    ]
    return html.page(TITLE, "\n".join(parts))

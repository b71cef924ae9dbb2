"""A report on a run without a target label: entropy, stability and class shares of every checkpoint, and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.core.progress import progress
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.reading import spread
from paddle_adaptseg.evaluation.predictor import PLAIN, Predictor
from paddle_adaptseg.evaluation.report import html
from paddle_adaptseg.evaluation.visual import at_size, heat, overlay, png_bytes
from paddle_adaptseg.weights.load import load_model, weights_by_step

IMAGES, SHOWN, WIDTH = 40, 6, 480  # images that are measured, images on the page and their width


def report_unlabelled(config: Config, folder: Path) -> tuple[Path, list[str]]:
    """Write `index.html` into `folder`; returns it and lines for the console."""
    steps = weights_by_step(Path(config.run.output))
    if not steps:
        raise CheckpointError(f"'{config.run.output}' holds no weights yet: train it first")
    files = DomainFiles(config.data.target, label_space(config), labelled=False)
    places, names = list(spread(len(files), IMAGES)), label_space(config).names
    rows: list[list[float]] = []
    before, shares, pictures = None, np.zeros(len(names), np.int64), []
    for step, path in steps.items():
        predictor = Predictor(load_model(path, config)[0], config.data.pixels, PLAIN.within(config.eval))
        found = []
        with predictor.ready():
            for place in progress(places, f"step {step}", len(places)):
                found.append(predictor.labels_and_entropy(files.image(place)))
        labels = [label for label, _ in found]
        entropy = float(np.mean([part.mean() for _, part in found]))
        same = float(np.mean([np.mean(a == b) for a, b in zip(labels, before)])) if before else float("nan")
        shares = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=256)[: len(names)]
        rows.append([step, entropy, same, int((shares > 0).sum())])
        before, pictures = labels, found
    lines = [
        f"step {step}: entropy {entropy:.3f}, {count} classes"
        + (f", {100 * same:.1f} % as before" if same == same else "")
        for step, entropy, same, count in rows
    ]
    page = _page(config, rows, shares / max(1, shares.sum()), [(files, p, *f) for p, f in zip(places, pictures)])
    write_atomically(folder / "index.html", lambda handle: handle.write(page.encode()))
    return folder / "index.html", lines


def _page(config: Config, rows: list, shares: np.ndarray, found: list) -> str:
    space = label_space(config)
    seen = [index for index in np.argsort(-shares) if shares[index] > 0]
    parts = []
    for files, place, label, entropy in found[:: max(1, len(found) // SHOWN)][:SHOWN]:
        image = files.image(place)
        size = (WIDTH, round(WIDTH * image.shape[0] / image.shape[1]))
        drawn = [at_size(part, size, smooth=True) for part in (image, overlay(image, label, space), heat(entropy))]
        pngs = [png_bytes(each) for each in drawn]
        parts.append(html.image_row(pngs, ("image", "prediction", "entropy"), files.stem(place)))
    classes: list[list[html.Cell]] = [[space.names[i], float(100 * shares[i])] for i in seen]
    head = ["iterations", "entropy (0: certain)", "share of pixels as before", "classes that occur"]
    notes = (
        "No target label was used. Entropy that falls while labels stay the same from one checkpoint to the next is a "
        "good sign; classes that disappear are a bad one. Look at the pictures."
    )
    return html.page(
        "Adaptation without target labels",
        "\n".join(
            [
                html.title("Adaptation without target labels"),
                html.section("Checkpoints", html.table(head, rows, [0, 3, 3, 0]), html.text(notes)),
                html.section("Predicted classes, %", html.table(["class", "share"], classes)),
                html.section("Target images", html.legend([(space.names[i], space.colours[i]) for i in seen]), *parts),
            ]
        ),
    )

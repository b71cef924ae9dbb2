"""Predictions for many pictures and films, written as files. One bad input is reported and the rest go on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from paddle_adaptseg import parallel
from paddle_adaptseg.deploy.media import Film, Picture, find_media, frames
from paddle_adaptseg.deploy.runners import Runner
from paddle_adaptseg.errors import ConfigError, DataError, suggest
from paddle_adaptseg.files import confirm, write_atomically, writing
from paddle_adaptseg.labels import LabelSpace
from paddle_adaptseg.visual import overlay, palette_image

Drawing = Callable[[np.ndarray, np.ndarray, LabelSpace], Image.Image]

# What can be written for a picture: ending of the file name, and how it is drawn from (image, labels, classes).
PRODUCTS: Mapping[str, tuple[str, Drawing]] = {
    "label": (".png", lambda image, labels, space: Image.fromarray(labels)),
    "color": ("_color.png", lambda image, labels, space: palette_image(labels, space)),
    "overlay": ("_overlay.png", lambda image, labels, space: Image.fromarray(overlay(image, labels, space))),
    "side": ("_side.png", lambda image, labels, space: Image.fromarray(_side(image, labels, space))),
}


@dataclass
class Tally:
    """What was done and what went wrong."""

    images: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line for the console."""
        pace = self.images / self.seconds if self.seconds else 0.0
        count = len(self.problems)
        bad = f", {count} input{'s'[: count > 1]} failed" if count else ""
        return f"{self.images} images, {pace:.2f} images per second with reading and writing{bad}"


def predict_files(
    runner: Runner, inputs: Sequence[str], folder: Path, products: Sequence[str], limit: Optional[int] = None
) -> Tally:
    """Label everything that `inputs` name; `limit` bounds the frames of a film or camera.

    Each of several processes takes its share of the inputs; the tally is that of all.
    """
    for name in products:
        if name not in PRODUCTS:
            raise ConfigError(f"--write: unknown product '{name}': {suggest(name, PRODUCTS)}")
    everything, problems = find_media(inputs)
    media, tally, start = parallel.share(everything), Tally(), time.perf_counter()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=sum(isinstance(m, Picture) for m in media) or None, unit="image", disable=None) as bar:
        for item in media:
            if isinstance(item, Picture):
                work = _picture(runner, item, folder, products)
            else:
                work = _film(runner, item, folder, limit)
            try:
                for _ in work:
                    tally.images += 1
                    bar.update()
            except DataError as error:
                tally.problems.append(str(error))
    tally.images = int(parallel.meet([tally.images])[0])
    tally.problems = problems + [
        line for text in parallel.texts("\n".join(tally.problems)) for line in text.splitlines()
    ]
    tally.seconds = time.perf_counter() - start
    return tally


def _picture(runner: Runner, item: Picture, folder: Path, products: Sequence[str]) -> Iterator[None]:
    image = item.read()
    labels = runner.labels(image)
    for name in products:
        ending, draw = PRODUCTS[name]
        drawn = draw(image, labels, runner.space)
        target = folder / f"{item.name}{ending}"
        write_atomically(target, lambda handle, drawn=drawn: drawn.save(handle, "PNG"), durable=False)
    yield


def _film(runner: Runner, item: Film, folder: Path, limit: Optional[int]) -> Iterator[None]:
    """Write the film beside its overlay; what was written stays readable when it is interrupted."""
    capture, rate, _ = item.open()
    target, writer, count = folder / f"{item.name}_side.mp4", None, 0
    try:
        for frame in frames(capture):
            if limit is not None and count >= limit:
                break
            picture = _even(_side(frame, runner.labels(frame), runner.space))
            if writer is None:
                writer = _film_writer(target, rate, picture.shape[1::-1])
            writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            count += 1
            yield
        if not count:
            raise DataError(f"film '{item.source}' holds no frame that can be read")
    finally:
        capture.release()
        if writer is not None:
            writer.release()
    confirm(target)  # OpenCV writes what fits and says nothing


def _film_writer(target: Path, rate: float, size: Sequence[int]) -> cv2.VideoWriter:
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():
        raise DataError(f"cannot write film '{target}'")
    return writer


def _side(image: np.ndarray, labels: np.ndarray, space: LabelSpace) -> np.ndarray:
    return np.hstack([image, overlay(image, labels, space)])


def _even(picture: np.ndarray) -> np.ndarray:
    """Cut to even sides, which the film format needs."""
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]

"""Predictions for many images and videos, written as files. A bad input is reported and the rest are processed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Callable, Optional, Union

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from paddle_adaptseg.core import distributed
from paddle_adaptseg.core.errors import ConfigError, DataError, suggest
from paddle_adaptseg.core.files import confirm, write_atomically, writing
from paddle_adaptseg.core.labels import LabelSpace
from paddle_adaptseg.data.decode import SUFFIXES, decode_rgb
from paddle_adaptseg.data.files import Ref
from paddle_adaptseg.deploy.runners import Runner
from paddle_adaptseg.evaluation.visual import overlay, palette_image

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


@dataclass(frozen=True)
class ImageFile:
    """One image file and the name, without ending, that its results get."""

    path: Path
    name: str

    def read(self) -> np.ndarray:
        """RGB [H, W, 3]."""
        return decode_rgb(Ref(str(self.path.parent), self.path.name))


@dataclass(frozen=True)
class Video:
    """A video file or a camera."""

    source: Union[str, int]
    name: str

    def open(self) -> tuple[cv2.VideoCapture, float]:
        """An open capture, and frames per second."""
        capture = cv2.VideoCapture(self.source)
        if not capture.isOpened():
            what = f"camera {self.source}" if isinstance(self.source, int) else f"video '{self.source}'"
            raise DataError(f"{what} cannot be opened")
        fps = capture.get(cv2.CAP_PROP_FPS)
        return capture, fps if 0 < fps <= 240 else 25.0


def frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """RGB frames until the video ends."""
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def find_media(inputs: Sequence[str]) -> tuple[list[Union[ImageFile, Video]], list[str]]:
    """Everything that the inputs name, in order, and what cannot be found; two results of one name are an error."""
    found: list[Union[ImageFile, Video]] = []
    problems = []
    for text in inputs:
        try:
            found += _expand(text)
        except DataError as error:
            problems.append(str(error))
    names: dict[str, object] = {}
    for item in found:
        source = item.path if isinstance(item, ImageFile) else item.source
        if item.name in names:
            raise DataError(f"'{names[item.name]}' and '{source}' would both be written as '{item.name}'")
        names[item.name] = source
    return found, problems


def _expand(text: str) -> list[Union[ImageFile, Video]]:
    path = Path(text)
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES + VIDEOS and p.is_file())
        if not inside:
            raise DataError(f"folder '{path}' holds no images or videos ({', '.join(SUFFIXES + VIDEOS)})")
        return [_item(p, str(p.relative_to(path).with_suffix(""))) for p in inside]
    if path.exists():
        return [_item(path, path.stem)]
    if text.isdigit():
        return [Video(int(text), f"camera{text}")]
    matches = sorted(glob(text, recursive=True)) if any(c in text for c in "*?[") else []  # noqa: PTH207 (absolute)
    files = [path for path in map(Path, matches) if path.is_file()]
    if not files:
        raise DataError(f"input '{text}' does not exist")
    return [_item(path, path.stem) for path in files]


def _item(path: Path, name: str) -> Union[ImageFile, Video]:
    return Video(str(path), name) if path.suffix.lower() in VIDEOS else ImageFile(path, name)


Drawing = Callable[[np.ndarray, np.ndarray, LabelSpace], Image.Image]

# What can be written for an image: ending of the file name, and how it is drawn from (image, labels, classes).
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
    """Label everything that `inputs` name; `limit` bounds the frames of a video or camera.

    With several ranks each takes its share of the inputs; the tally is that of all.
    """
    for name in products:
        if name not in PRODUCTS:
            raise ConfigError(f"--write: unknown product '{name}': {suggest(name, PRODUCTS)}")
    everything, problems = find_media(inputs)
    media, tally, start = distributed.shard(everything), Tally(), time.perf_counter()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=sum(isinstance(m, ImageFile) for m in media) or None, unit="image", disable=None)
    with bar, runner.ready():
        for item in media:
            if isinstance(item, ImageFile):
                work = _write_image(runner, item, folder, products)
            else:
                work = _write_video(runner, item, folder, limit)
            try:
                for _ in work:
                    tally.images += 1
                    bar.update()
            except DataError as error:
                tally.problems.append(str(error))
    tally.images = int(distributed.all_reduce([tally.images])[0])
    tally.problems = problems + [
        line for text in distributed.gather_texts("\n".join(tally.problems)) for line in text.splitlines()
    ]
    tally.seconds = time.perf_counter() - start
    return tally


def _write_image(runner: Runner, item: ImageFile, folder: Path, products: Sequence[str]) -> Iterator[None]:
    image = item.read()
    labels = runner.labels(image)
    for name in products:
        ending, draw = PRODUCTS[name]
        drawn = draw(image, labels, runner.space)
        target = folder / f"{item.name}{ending}"
        write_atomically(target, lambda handle, drawn=drawn: drawn.save(handle, "PNG"), durable=False)
    yield


def _write_video(runner: Runner, item: Video, folder: Path, limit: Optional[int]) -> Iterator[None]:
    """Write the video beside its overlay; an interrupted one stays readable."""
    capture, fps = item.open()
    target, writer, count = folder / f"{item.name}_side.mp4", None, 0
    try:
        for frame in frames(capture):
            if limit is not None and count >= limit:
                break
            pair = _even(_side(frame, runner.labels(frame), runner.space))
            if writer is None:
                writer = _video_writer(target, fps, pair.shape[1::-1])
            writer.write(cv2.cvtColor(pair, cv2.COLOR_RGB2BGR))
            count += 1
            yield
        if not count:
            raise DataError(f"video '{item.source}' holds no frame that can be read")
    finally:
        capture.release()
        if writer is not None:
            writer.release()
    confirm(target)  # OpenCV writes what fits and says nothing


def _video_writer(target: Path, fps: float, size: Sequence[int]) -> cv2.VideoWriter:
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    if not writer.isOpened():
        raise DataError(f"cannot write video '{target}'")
    return writer


def _side(image: np.ndarray, labels: np.ndarray, space: LabelSpace) -> np.ndarray:
    return np.hstack([image, overlay(image, labels, space)])


def _even(image: np.ndarray) -> np.ndarray:
    """Cut to even sides, which the video format needs."""
    return image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]

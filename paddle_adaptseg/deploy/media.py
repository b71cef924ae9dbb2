"""Where pictures come from: files, folders, patterns, films and a camera. What is wrong with one stops no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Union

import cv2
import numpy as np

from paddle_adaptseg.data.decode import decode_rgb
from paddle_adaptseg.data.stores import Ref
from paddle_adaptseg.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
FILMS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


@dataclass(frozen=True)
class Picture:
    """One picture file and the name, without ending, that its results get."""

    path: Path
    name: str

    def read(self) -> np.ndarray:
        """RGB [H, W, 3]."""
        return decode_rgb(Ref(str(self.path.parent), self.path.name))


@dataclass(frozen=True)
class Film:
    """A film file or a camera."""

    source: Union[str, int]
    name: str

    def open(self) -> tuple[cv2.VideoCapture, float, int]:
        """An open capture, frames per second, and how many frames it holds (0: unknown)."""
        capture = cv2.VideoCapture(self.source)
        if not capture.isOpened():
            what = f"camera {self.source}" if isinstance(self.source, int) else f"film '{self.source}'"
            raise DataError(f"{what} cannot be opened")
        rate = capture.get(cv2.CAP_PROP_FPS)
        return capture, rate if 0 < rate <= 240 else 25.0, max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))


def frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """RGB frames until the film ends."""
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def find_media(inputs: Sequence[str]) -> tuple[list[Union[Picture, Film]], list[str]]:
    """Everything that the inputs name, in order, and what cannot be found; two results of one name are an error."""
    found: list[Union[Picture, Film]] = []
    problems = []
    for text in inputs:
        try:
            found += _expand(text)
        except DataError as error:
            problems.append(str(error))
    names: dict[str, object] = {}
    for item in found:
        source = item.path if isinstance(item, Picture) else item.source
        if item.name in names:
            raise DataError(f"'{names[item.name]}' and '{source}' would both be written as '{item.name}'")
        names[item.name] = source
    return found, problems


def _expand(text: str) -> list[Union[Picture, Film]]:
    path = Path(text)
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES + FILMS and p.is_file())
        if not inside:
            raise DataError(f"folder '{path}' holds no pictures or films ({', '.join(PICTURES + FILMS)})")
        return [_item(p, str(p.relative_to(path).with_suffix(""))) for p in inside]
    if path.exists():
        return [_item(path, path.stem)]
    if text.isdigit():
        return [Film(int(text), f"camera{text}")]
    matches = sorted(glob(text, recursive=True)) if any(c in text for c in "*?[") else []  # noqa: PTH207 (absolute)
    if not matches:
        raise DataError(f"input '{text}' does not exist")
    return [_item(Path(m), Path(m).stem) for m in matches if Path(m).is_file()]


def _item(path: Path, name: str) -> Union[Picture, Film]:
    return Film(str(path), name) if path.suffix.lower() in FILMS else Picture(path, name)

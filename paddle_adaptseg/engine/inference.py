"""How a network looks at an image: mirrored, at several scales, through windows, at several levels, as an ensemble.

Every way of looking gives coarse logits (a View); upsample.py averages them into labels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np
import paddle
from paddle import Tensor

from paddle_adaptseg.config import Pixels
from paddle_adaptseg.cpu import accelerate
from paddle_adaptseg.data.transforms import normalise
from paddle_adaptseg.errors import ConfigError, suggest
from paddle_adaptseg.models.ensemble import Ensemble
from paddle_adaptseg.models.layers import inference
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.upsample import View, resized

OVERLAP = 1 / 3  # of neighbouring windows
MAIN = (("main", 1.0),)
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Inference:
    """Options of prediction; the default is what the originals do."""

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    window: Optional[tuple[int, int]] = None  # width, height in network input pixels
    levels: tuple[tuple[str, float], ...] = MAIN
    backend: str = "eager"
    precision: str = "fp32"

    @classmethod
    def parse(
        cls, flip: bool, scales: str, window: Optional[str], levels: str, backend: str, precision: str
    ) -> Inference:
        """Options from the texts of a command line: "0.75,1", "512x256", "main=1,aux=0.5"."""
        factors = tuple(_number(text, "--scales", "0.75,1,1.25") for text in scales.split(","))
        size: Optional[tuple[int, int]] = None
        if window:
            sides = [int(_number(text, "--window", "512x256")) for text in window.lower().split("x")]
            if len(sides) != 2:
                raise ConfigError(f"--window must be WIDTHxHEIGHT such as 512x256, not '{window}'")
            size = sides[0], sides[1]
        parts = (text.partition("=") for text in levels.split(","))
        weighted = tuple((name, _number(weight or "1", "--levels", "main=1,aux=0.5")) for name, _, weight in parts)
        return cls(flip, factors, size, weighted, backend, precision)

    def effects(self) -> dict[str, Inference]:
        """The plain way, and each option that is set on its own."""
        plain = dataclasses.replace(self, flip=False, scales=(1.0,), window=None, levels=MAIN)
        scales, window = ", ".join(f"{s:g}" for s in self.scales), "x".join(map(str, self.window or ()))
        levels = " + ".join(f"{weight:g} {name}" for name, weight in self.levels)
        alone = {
            "flip": dataclasses.replace(plain, flip=self.flip),
            f"scales {scales}": dataclasses.replace(plain, scales=self.scales),
            f"window {window}": dataclasses.replace(plain, window=self.window),
            f"levels {levels}": dataclasses.replace(plain, levels=self.levels),
        }
        rows = {"plain": plain, **{name: option for name, option in alone.items() if option != plain}}
        return rows if len(rows) < 3 else {**rows, "all together": self}

    def line(self) -> str:
        """What differs from the plain way, in words."""
        names = [name for name in self.effects() if name not in ("plain", "all together")]
        return f"{', '.join(names) or 'plain'}; {self.backend} {self.precision}"


def _number(text: str, flag: str, example: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{flag}: '{text}' is not a number above 0 (an example: {example})")
    return value


Forward = Callable[[Tensor], np.ndarray]  # normalised image [1, 3, H, W] to fused logits [C, h, w] float32
Backend = Callable[[Segmenter, Inference], Forward]


@contextlib.contextmanager
def evaluating(model: Segmenter) -> Iterator[None]:
    """Evaluation mode without gradients; on a CPU the network is accelerated."""
    with inference(model), accelerate(model):
        yield


def eager(model: Segmenter, options: Inference) -> Forward:
    """The network as Paddle runs it step by step; on a GPU with automatic mixed precision if asked."""
    mixed = options.precision != "fp32"
    if mixed and paddle.get_device() == "cpu":
        raise ConfigError(f"--precision {options.precision} on a CPU needs --backend onednn (and bf16)")
    dtype = {"bf16": "bfloat16"}.get(options.precision, "float16")

    def forward(image: Tensor) -> np.ndarray:
        with paddle.no_grad(), paddle.amp.auto_cast(enable=mixed, dtype=dtype):
            logits = fuse(model.logits(image), options.levels)
        return logits.astype("float32").numpy()[0]

    return forward


def fuse(logits: Mapping[str, Tensor], levels: Sequence[tuple[str, float]]) -> Tensor:
    """The weighted sum of several levels' logits at the network's resolution."""
    for name, _ in levels:
        if name not in logits:
            raise ConfigError(f"--levels: the network has no level '{name}': {suggest(name, logits)}")
    if levels == MAIN:
        return logits["main"]
    first = logits[levels[0][0]]
    for name, _ in levels:
        if logits[name].shape != first.shape:
            raise ConfigError(f"--levels: '{name}' and '{levels[0][0]}' differ in resolution; they cannot be added")
    return sum(weight * logits[name] for name, weight in levels)


class Predictor:
    """One network, or an ensemble, with its options: from images to views."""

    def __init__(self, model: Segmenter, options: Inference, pixels: Pixels, build: Backend = eager) -> None:
        if options.precision not in PRECISIONS:
            raise ConfigError(f"unknown --precision '{options.precision}': {suggest(options.precision, PRECISIONS)}")
        parts = zip(model.members, model.weights) if isinstance(model, Ensemble) else [(model, 1.0)]
        self.parts = [(build(part, options), weight) for part, weight in parts]
        self.options, self.pixels = options, pixels

    def views(self, images: Sequence[np.ndarray]) -> list[View]:
        """Every way of looking at RGB images [H, W, 3] uint8, one image for each scale."""
        found = []
        for image in images:
            for mirrored in (False, True) if self.options.flip else (False,):
                pixels = np.ascontiguousarray(image[:, ::-1]) if mirrored else image
                tensor = normalise(paddle.to_tensor(pixels[None]), self.pixels)
                for forward, weight in self.parts:
                    logits = self._logits(forward, tensor)
                    found.append(View(logits[:, :, ::-1] if mirrored else logits, weight))
        return found

    def _logits(self, forward: Forward, image: Tensor) -> np.ndarray:
        """Logits of the whole image, or the mean of overlapping windows' at image size."""
        if self.options.window is None:
            return forward(image)
        height, width = image.shape[2:]
        total, count = None, np.zeros((height, width), np.float32)
        for rows, columns in windows((height, width), self.options.window):
            part = forward(image[:, :, rows, columns])
            part = resized(part, (rows.stop - rows.start, columns.stop - columns.start))
            total = np.zeros((len(part), height, width), np.float32) if total is None else total
            total[:, rows, columns] += part
            count[rows, columns] += 1
        total /= count
        return total


def windows(size: Sequence[int], window: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Windows (width, height) that cover (height, width), evenly spread and overlapping by OVERLAP or more."""
    for top, high in _spans(size[0], window[1]):
        for left, wide in _spans(size[1], window[0]):
            yield slice(top, top + high), slice(left, left + wide)


def _spans(length: int, window: int) -> list[tuple[int, int]]:
    window = min(window, length)
    count = 1 + math.ceil((length - window) / (window * (1 - OVERLAP)))
    return [(int(start), window) for start in np.linspace(0, length - window, count).round()]

"""Options of prediction: what a configuration's `eval` says, and what a command line changes; where windows lie."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from paddle_adaptseg.config.schema import AVERAGES, Eval
from paddle_adaptseg.core.errors import ConfigError, suggest

MAIN = (("main", 1.0),)
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class InferenceOptions:
    """Options of prediction; the default is what AdaptSegNet does."""

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    window: Optional[tuple[int, int]] = None  # width, height in network input pixels
    levels: tuple[tuple[str, float], ...] = MAIN
    backend: str = "eager"
    precision: str = "fp32"
    stride: Optional[tuple[int, int]] = None  # of windows, width and height; None: they overlap by a third or more
    average: str = "logits"  # of windows
    windows_at_once: int = 1  # that the network sees as one batch

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"unknown --precision '{self.precision}': {suggest(self.precision, PRECISIONS)}")
        if self.average not in AVERAGES:
            raise ConfigError(f"unknown --average '{self.average}': {suggest(self.average, AVERAGES)}")
        if self.windows_at_once < 1:
            raise ConfigError(f"--windows-at-once must be 1 or more, not {self.windows_at_once}")
        if not self.window and (self.stride or self.average != "logits"):
            raise ConfigError("--stride and --average are those of windows: give --window WIDTHxHEIGHT too")
        if self.window and self.stride and any(step > side for step, side in zip(self.stride, self.window)):
            raise ConfigError("--stride must be no more than --window: no window would hold the pixels between them")

    @classmethod
    def parse(
        cls, flip: bool, scales: str, window: Optional[str], levels: str, backend: str, precision: str,
        stride: Optional[str] = None, average: str = "logits", windows_at_once: int = 1,
    ) -> InferenceOptions:  # fmt: skip
        """Options from the texts of a command line: "0.75,1", "512x256", "main=1,aux=0.5"."""
        factors = tuple(_number(text, "--scales", "0.75,1,1.25") for text in scales.split(","))
        parts = (text.partition("=") for text in levels.split(","))
        weighted = tuple((name, _number(weight or "1", "--levels", "main=1,aux=0.5")) for name, _, weight in parts)
        sizes = window_size(window, "--window"), window_size(stride, "--stride")
        return cls(flip, factors, sizes[0], weighted, backend, precision, sizes[1], average, windows_at_once)

    def within(self, given: Eval) -> InferenceOptions:
        """These options with a configuration's windows, unless they have their own."""
        if self.window or not given.window:
            return self
        at_once = self.windows_at_once if self.windows_at_once > 1 else given.windows_at_once
        return dataclasses.replace(self, **{**vars(given), "windows_at_once": at_once})

    def effects(self, usual: Optional[InferenceOptions] = None) -> dict[str, InferenceOptions]:
        """The options one by one: none of them ("plain"), each that is set on its own, and all together.

        `usual`: the configuration's; its windows belong to "plain".
        """
        sliding = _sliding(usual or PLAIN)
        plain = dataclasses.replace(self, flip=False, scales=(1.0,), levels=MAIN, **sliding)
        scales = ", ".join(f"{s:g}" for s in self.scales)
        levels = " + ".join(f"{weight:g} {name}" for name, weight in self.levels)
        alone = {
            "flip": dataclasses.replace(plain, flip=self.flip),
            f"scales {scales}": dataclasses.replace(plain, scales=self.scales),
            self._window_text(): dataclasses.replace(plain, **_sliding(self)),
            f"levels {levels}": dataclasses.replace(plain, levels=self.levels),
        }
        rows = {"plain": plain, **{name: option for name, option in alone.items() if option != plain}}
        return rows if len(rows) < 3 else {**rows, "all together": self}

    def line(self) -> str:
        """What differs from the defaults, in words."""
        names = [name for name in self.effects() if name not in ("plain", "all together")]
        return f"{', '.join(names) or 'plain'}; {self.backend} {self.precision}"

    def _window_text(self) -> str:
        stride = f" every {'x'.join(map(str, self.stride))}" if self.stride else ""
        mean = ", mean of softmax" if self.average == "softmax" else ""
        return f"window {'x'.join(map(str, self.window or ()))}{stride}{mean}"


def _sliding(options: InferenceOptions) -> dict[str, Any]:
    """What of some options is about windows."""
    return {key: getattr(options, key) for key in ("window", "stride", "average")}


def window_size(text: Optional[str], flag: str) -> Optional[tuple[int, int]]:
    """ "512x256" as (width, height)."""
    if not text:
        return None
    sides = [int(_number(part, flag, "512x256")) for part in text.lower().split("x")]
    if len(sides) != 2:
        raise ConfigError(f"{flag} must be WIDTHxHEIGHT such as 512x256, not '{text}'")
    return sides[0], sides[1]


def _number(text: str, flag: str, example: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{flag}: '{text}' is not a number above 0 (an example: {example})")
    return value


PLAIN = InferenceOptions()
OVERLAP = 1 / 3  # of neighbouring windows without a stride


Window = tuple[slice, slice]  # rows, columns


def windows(size: Sequence[int], window: Sequence[int], stride: Optional[Sequence[int]] = None) -> Iterator[Window]:
    """Windows (width, height) that cover (height, width), each `stride` (width, height) after the last.

    The last one of a row or column is shifted inwards. Without a stride they are evenly spread and overlap by OVERLAP
    or more.
    """
    across, down = stride or (None, None)
    for top, high in _spans(size[0], window[1], down):
        for left, wide in _spans(size[1], window[0], across):
            yield slice(top, top + high), slice(left, left + wide)


def _spans(length: int, window: int, stride: Optional[int] = None) -> list[tuple[int, int]]:
    window = min(window, length)
    rest = length - window
    if stride is not None:
        return [(min(start, rest), window) for start in range(0, rest + stride, stride)]
    count = 1 + math.ceil(rest / (window * (1 - OVERLAP)))
    return [(int(start), window) for start in np.linspace(0, rest, count).round()]

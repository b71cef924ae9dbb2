"""Options of prediction: mirrored images, scales, windows, levels; how the network is run, and in which precision."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Optional

from paddle_adaptseg.errors import ConfigError, suggest

MAIN = (("main", 1.0),)
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class InferenceOptions:
    """Options of prediction; the default is what the originals do."""

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    window: Optional[tuple[int, int]] = None  # width, height in network input pixels
    levels: tuple[tuple[str, float], ...] = MAIN
    backend: str = "eager"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"unknown --precision '{self.precision}': {suggest(self.precision, PRECISIONS)}")

    @classmethod
    def parse(
        cls, flip: bool, scales: str, window: Optional[str], levels: str, backend: str, precision: str
    ) -> InferenceOptions:
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

    def effects(self) -> dict[str, InferenceOptions]:
        """The options one by one: none of them ("plain"), each that is set on its own, and all together."""
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
        """What differs from the defaults, in words."""
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


PLAIN = InferenceOptions()

"""Random changes of training images on the device: colour jitter, Gaussian blur, mirror.

They act on images that the network already sees, so pixels are brought back to RGB in [0, 1] and normalised again. All
numbers come from the caller, who draws them as functions of (seed, step, image).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core.errors import ConfigError, suggest

GREY = (0.299, 0.587, 0.114)
REACH = 6.0  # deviations after which a Gaussian is 0 in float32


def to_unit(image: Tensor, pixels: Pixels) -> Tensor:
    """Network input [N, 3, H, W] as RGB in [0, 1]."""
    mean, std = _constants(pixels)
    x = (image * std + mean) / 255.0
    return x.flip(axis=[1]) if pixels.order == "bgr" else x


def from_unit(image: Tensor, pixels: Pixels) -> Tensor:
    """RGB in [0, 1] as network input."""
    mean, std = _constants(pixels)
    x = image.flip(axis=[1]) if pixels.order == "bgr" else image
    return (x * 255.0 - mean) / std


def _constants(pixels: Pixels) -> tuple[Tensor, Tensor]:
    mean, std = (paddle.to_tensor(v, "float32").reshape([1, 3, 1, 1]) for v in (pixels.mean, pixels.std))
    return mean, std


def grey_of(x: Tensor) -> Tensor:
    """Brightness [1, 1, H, W] of RGB [1, 3, H, W]."""
    return GREY[0] * x[:, 0:1] + GREY[1] * x[:, 1:2] + GREY[2] * x[:, 2:3]


def to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue (0 to 1), saturation and value of RGB [N, 3, H, W] in [0, 1]; grey pixels have hue and saturation 0."""
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    high, low = x.max(axis=1, keepdim=True), x.min(axis=1, keepdim=True)
    spread = high - low
    safe = paddle.where(spread > 0, spread, paddle.ones_like(spread))
    sector = paddle.where(
        high == red,
        (green - blue) / safe,
        paddle.where(high == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    hue = paddle.where(spread > 0, sector / 6.0, paddle.zeros_like(sector))
    return hue - hue.floor(), spread / paddle.where(high > 0, high, paddle.ones_like(high)), high


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """RGB of hue (in turns), saturation and value."""

    def channel(shift: float) -> Tensor:
        k = paddle.remainder(hue * 6.0 + shift, paddle.full([1], 6.0, hue.dtype))
        return value - value * saturation * paddle.minimum(k, 4.0 - k).clip(0.0, 1.0)

    return paddle.concat([channel(5.0), channel(3.0), channel(1.0)], axis=1)


def brightness(x: Tensor, factor: float) -> Tensor:
    """x * factor, as torchvision."""
    return (x * factor).clip(0.0, 1.0)


def contrast(x: Tensor, factor: float) -> Tensor:
    """Away from the mean brightness of the image by a factor, as torchvision."""
    return (x * factor + grey_of(x).mean() * (1.0 - factor)).clip(0.0, 1.0)


def saturation(x: Tensor, factor: float) -> Tensor:
    """Away from grey by a factor, as torchvision."""
    return (x * factor + grey_of(x) * (1.0 - factor)).clip(0.0, 1.0)


def hue(x: Tensor, turns: float) -> Tensor:
    """Hue shifted by a share of the colour circle; the same in torchvision and kornia."""
    h, s, v = to_hsv(x)
    return from_hsv(h + turns, s, v)


def added_brightness(x: Tensor, factor: float) -> Tensor:
    """x + factor - 1, as kornia before 0.6.7, which the originals use."""
    return (x + (factor - 1.0)).clip(0.0, 1.0)


def scaled_saturation(x: Tensor, factor: float) -> Tensor:
    """Saturation of hue-saturation-value times a factor, as kornia."""
    h, s, v = to_hsv(x)
    return from_hsv(h, (s * factor).clip(0.0, 1.0), v)


Change = Callable[[Tensor, float], Tensor]
# brightness, contrast, saturation, hue: kornia's contrast is a plain factor on all pixels
CONVENTIONS: Mapping[str, tuple[Change, ...]] = {
    "kornia": (added_brightness, brightness, scaled_saturation, hue),
    "torchvision": (brightness, contrast, saturation, hue),
}


def jitter(x: Tensor, factors: Sequence[float], order: Sequence[int], convention: str = "kornia") -> Tensor:
    """One image [1, 3, H, W] with its brightness, contrast, saturation and hue changed in the given order."""
    for index in order:
        x = CONVENTIONS[convention][index](x, float(factors[index]))
    return x


def blur_kernel(side: int) -> int:
    """The originals' odd kernel size for a side of the image: about a tenth of it."""
    tenth = math.ceil(0.1 * side)
    return math.floor(tenth - 0.5 + tenth % 2)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [N, C, H, W] with reflected borders and the originals' kernel sizes (cut where it is 0)."""
    channels = x.shape[1]
    for axis, side in ((2, x.shape[2]), (3, x.shape[3])):
        radius = min(blur_kernel(side) // 2, math.ceil(REACH * sigma), side - 1)
        if radius < 1:
            continue
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        weights = paddle.to_tensor((weights / weights.sum()).astype(np.float32))
        shape, pad = ([1, 1, -1, 1], [0, 0, radius, radius]) if axis == 2 else ([1, 1, 1, -1], [radius, radius, 0, 0])
        kernel = weights.reshape(shape).expand([channels, 1, *([-1, 1] if axis == 2 else [1, -1])])
        x = F.conv2d(F.pad(x, pad, mode="reflect"), kernel.astype(x.dtype), groups=channels)
    return x


@dataclass(frozen=True)
class Strong:
    """Strong changes of the student's images; the defaults are DAFormer's.

    `jitter` is the strength of brightness, contrast, saturation and hue alike; two of them may have their own.
    The chances are drawn once a step for the whole batch (`together`, the originals) or for each image.
    """

    jitter: float = 0.2
    brightness: Optional[float] = None
    hue: Optional[float] = None
    jitter_chance: float = 0.8
    blur_chance: float = 0.5
    sigma: tuple[float, float] = (0.15, 1.15)
    mirror_chance: float = 0.0
    together: bool = True
    convention: str = "kornia"

    def check(self, path: str) -> Strong:
        """Refuse values that mean nothing."""
        if self.convention not in CONVENTIONS:
            raise ConfigError(
                f"{path}.convention: unknown '{self.convention}': {suggest(self.convention, CONVENTIONS)}"
            )
        if not 0 < self.sigma[0] <= self.sigma[1] or self.jitter < 0:
            raise ConfigError(f"{path}: sigma must rise from above 0, and jitter be 0 or more")
        return self

    def draw(self, rng: np.random.Generator) -> tuple[list[float], list[int], float]:
        """Factors, order and blur of one image."""
        spread = np.array([self.jitter if self.brightness is None else self.brightness, self.jitter, self.jitter])
        factors = rng.uniform(np.maximum(0.0, 1.0 - spread), 1.0 + spread)
        turns = min(0.5, self.jitter if self.hue is None else self.hue)
        shift, order = rng.uniform(-turns, turns), rng.permutation(4)
        return [*factors, shift], order.tolist(), rng.uniform(*self.sigma)

    @paddle.no_grad()
    def __call__(
        self, image: Tensor, pixels: Pixels, chances: Sequence[np.random.Generator], rngs: Sequence[np.random.Generator]
    ) -> Tensor:
        """Changed images [N, 3, H, W]; a generator for the chances and one for the strengths of every image."""
        changed = []
        for number, (decide, rng) in enumerate(zip(chances, rngs)):
            x, (jittered, blurred) = image[number : number + 1], decide.random(2)
            factors, order, sigma = self.draw(rng)
            if jittered < self.jitter_chance and (self.jitter or self.brightness or self.hue):
                x = from_unit(jitter(to_unit(x, pixels).clip(0.0, 1.0), factors, order, self.convention), pixels)
            changed.append(blur(x, sigma) if blurred < self.blur_chance else x)
        return paddle.concat(changed)


DEFAULT_AUGMENT = Strong()


@paddle.no_grad()
def mirror(flags: Sequence[bool], *maps: Tensor) -> list[Tensor]:
    """Maps [N, ..., W] with the flagged images mirrored left to right."""
    if not any(flags):
        return list(maps)
    return [
        paddle.concat([m[i : i + 1].flip(axis=[-1]) if f else m[i : i + 1] for i, f in enumerate(flags)]) for m in maps
    ]

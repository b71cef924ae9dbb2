"""Label resizing as the originals do it (decode.py resizes images), normalisation, and working versions of the
random changes that the originals' flags only promised.

Random choices come from a generator that the caller derives from (seed, position), so workers change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Optional

import cv2
import numpy as np
import paddle
from paddle import Tensor

from paddle_adaptseg.config.schema import Augment, Pixels
from paddle_adaptseg.data.windows import Cutter, Window, label_window


def resize_label(label: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Nearest-neighbour resize of ids [H, W] to (width, height), with Pillow's choice of pixels."""
    return label_window(label, size)


def scaled_size(size: Sequence[int], change: Augment, rng: np.random.Generator) -> tuple[int, int]:
    """The size to resize to: `size` times a random factor."""
    low, high = change.scale
    factor = rng.uniform(low, high) if high > low else low
    return round(size[0] * factor), round(size[1] * factor)


@dataclass(frozen=True)
class Crop:
    """A window of an image, mirrored or not, and the size (height, width) to which it is padded."""

    window: Window
    mirrored: bool
    size: tuple[int, int]

    def of(self, cut: Cutter, fill: int) -> np.ndarray:
        """The window of an image or label; what lies outside it is `fill`."""
        part = cut(self.window)
        part = np.ascontiguousarray(part[:, ::-1] if self.mirrored else part)
        down, right = self.size[0] - part.shape[0], self.size[1] - part.shape[1]
        if not down and not right:
            return part
        return cv2.copyMakeBorder(part, 0, down, 0, right, cv2.BORDER_CONSTANT, value=(fill,) * 3)


def random_crop(
    have: Sequence[int],
    size: Sequence[int],
    change: Augment,
    rng: np.random.Generator,
    shared: Optional[np.random.Generator] = None,
) -> Crop:
    """Mirror an image of (width, height) or not, and cut or pad it to the crop (or `size`).

    `shared` decides about the mirror where it does so for a whole batch.
    """
    mirrored = bool(change.mirror and (shared or rng).random() < 0.5)
    width, height = change.crop or size
    corner = rng.random(2)
    top, left = (int(c * max(1, n - m + 1)) for c, n, m in zip(corner, have[::-1], (height, width)))
    bottom, right = min(top + height, have[1]), min(left + width, have[0])
    columns = slice(have[0] - right, have[0] - left) if mirrored else slice(left, right)
    return Crop((slice(top, bottom), columns), mirrored, (height, width))


def margin_sizes(size: Sequence[int], margins: Sequence[float]) -> tuple[int, int, int, int]:
    """Rows and columns (top, bottom, left, right) of shares of a picture of (width, height)."""
    width, height = size
    top, bottom, left, right = (int(share * n) for share, n in zip(margins, (height, height, width, width)))
    return top, bottom, left, right


def borders(
    size: Sequence[int], scaled: Sequence[int], crop: Crop, margins: Sequence[float]
) -> tuple[int, int, int, int]:
    """How much of the margins of a picture of `size` lies within a crop of it at `scaled` (width, height).

    As in VFM-UDA they are not mirrored with the image: they are those of the same window before it was mirrored.
    """
    top, bottom, left, right = margin_sizes(size, margins)
    found = []
    for axis, (before, after) in ((1, (top, bottom)), (0, (left, right))):
        window, side = crop.window[1 - axis], crop.size[1 - axis]
        nearest = ((np.arange(window.start, window.stop) + 0.5) * size[axis] / scaled[axis]).astype(int)
        shown = np.flatnonzero((nearest >= before) & (nearest < size[axis] - after))
        found += [int(shown[0]), side - 1 - int(shown[-1])] if len(shown) else [side, 0]
    return found[0], found[1], found[2], found[3]


def recoloured(image: np.ndarray, change: Augment, rng: np.random.Generator) -> np.ndarray:
    """Random changes to colours and sharpness."""
    if change.jitter:
        image = jitter(image, change.jitter, rng)
    if change.blur and rng.random() < change.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    return image


def jitter(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Random brightness, contrast and saturation, each within 1 +- amount."""
    brightness, contrast, saturation = rng.uniform(1 - amount, 1 + amount, 3)
    x = image.astype(np.float32) * brightness
    x = (x - x.mean()) * contrast + x.mean()
    grey = x.mean(axis=2, keepdims=True)
    return np.clip((x - grey) * saturation + grey, 0, 255).astype(np.uint8)


def normalise(images: Tensor, pixels: Pixels) -> Tensor:
    """RGB uint8 [N, H, W, 3] to network input [N, 3, H, W], where the images are."""
    if images.place.is_cpu_place():
        return paddle.to_tensor(_normalise_on_cpu(images.numpy(), pixels))
    return _normalise_on_device(images, pixels)


def _normalise_on_device(images: Tensor, pixels: Pixels) -> Tensor:
    x = images.transpose([0, 3, 1, 2]).astype("float32")
    if pixels.order == "bgr":
        x = x.flip(axis=[1])
    mean, std = _constants(pixels, str(images.place))
    return (x - mean) / std


@lru_cache(maxsize=8)
def _constants(pixels: Pixels, place: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation at a place, made once: every copy from the host would wait for what the device still does."""
    mean, std = (paddle.to_tensor(v, "float32").reshape([1, 3, 1, 1]) for v in (pixels.mean, pixels.std))
    return mean, std


def _normalise_on_cpu(images: np.ndarray, pixels: Pixels) -> np.ndarray:
    """The same plane by plane: Paddle's transpose and broadcasts cost several times more on a CPU."""
    batch, height, width, _ = images.shape
    out = np.empty((batch, 3, height, width), np.float32)
    for target, image in zip(out, images):
        planes = cv2.split(image)
        for plane, source, mean, std in zip(
            target, planes[:: -1 if pixels.order == "bgr" else 1], pixels.mean, pixels.std
        ):
            np.subtract(source, np.float32(mean), out=plane)
            if std != 1.0:
                plane /= np.float32(std)
    return out

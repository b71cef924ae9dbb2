"""Label resizing as the originals do it (decode.py resizes images), normalisation, and working versions of the
random changes that the originals' flags only promised.

Random choices come from a generator that the caller derives from (seed, position), so workers change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Optional

import cv2
import numpy as np
import paddle
from paddle import Tensor
from PIL import Image

from paddle_adaptseg.config.schema import Augment, Pixels
from paddle_adaptseg.core.labels import IGNORE


def resize_label(label: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Nearest-neighbour resize of ids [H, W] to (width, height), with Pillow's choice of pixels."""
    if label.shape[1::-1] == tuple(size):
        return label
    return np.asarray(Image.fromarray(label).resize(tuple(size), Image.NEAREST))


def scaled_size(size: Sequence[int], change: Augment, rng: np.random.Generator) -> tuple[int, int]:
    """The size to resize to: `size` times a random factor."""
    low, high = change.scale
    factor = rng.uniform(low, high) if high > low else low
    return round(size[0] * factor), round(size[1] * factor)


class Placement(NamedTuple):
    """Whether an image is mirrored, and where the crop lies in it then, as shares of the room that there is."""

    mirrored: bool
    corner: np.ndarray


def place(change: Augment, rng: np.random.Generator, shared: Optional[np.random.Generator] = None) -> Placement:
    """The first draws of an image's changes; `shared` decides about the mirror where it does so for a whole batch."""
    mirrored = change.mirror and (shared or rng).random() < 0.5
    return Placement(mirrored, rng.random(2))


def augment(
    image: np.ndarray,
    label: Optional[np.ndarray],
    size: Sequence[int],
    change: Augment,
    rng: np.random.Generator,
    shared: Optional[np.random.Generator] = None,
) -> tuple[np.ndarray, Optional[np.ndarray]]:
    """Mirror, cut or pad to the crop (or `size`), and change colours; the label goes along where it must."""
    mirrored, corner = place(change, rng, shared)
    if mirrored:
        image = np.ascontiguousarray(image[:, ::-1])
        label = None if label is None else np.ascontiguousarray(label[:, ::-1])
    width, height = change.crop or size
    image = cut(image, width, height, corner, 0)
    label = None if label is None else cut(label, width, height, corner, IGNORE)
    if change.jitter:
        image = jitter(image, change.jitter, rng)
    if change.blur and rng.random() < change.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    return image, label


def margin_sizes(size: Sequence[int], margins: Sequence[float]) -> tuple[int, int, int, int]:
    """Rows and columns (top, bottom, left, right) of shares of a picture of (width, height)."""
    width, height = size
    top, bottom, left, right = (int(share * n) for share, n in zip(margins, (height, height, width, width)))
    return top, bottom, left, right


def borders(
    size: Sequence[int], scaled: Sequence[int], crop: Sequence[int], place: Placement, margins: Sequence[float]
) -> tuple[int, int, int, int]:
    """How much of the margins of a picture of `size` lies within a crop of it at `scaled` (width, height).

    As in VFM-UDA they are not mirrored with the image: they are those of the same place before it was mirrored.
    """
    top, bottom, left, right = margin_sizes(size, margins)
    found = []
    for axis, (before, after) in ((1, (top, bottom)), (0, (left, right))):
        room = max(0, scaled[axis] - crop[axis])
        start = int(place.corner[1 - axis] * (room + 1)) if room else 0
        start = room - start if axis == 0 and place.mirrored else start
        nearest = ((np.arange(scaled[axis]) + 0.5) * size[axis] / scaled[axis]).astype(int)
        shown = np.flatnonzero((nearest >= before) & (nearest < size[axis] - after)) - start
        shown = shown[(shown >= 0) & (shown < crop[axis])]
        found += [int(shown[0]), crop[axis] - 1 - int(shown[-1])] if len(shown) else [crop[axis], 0]
    return found[0], found[1], found[2], found[3]


def cut(array: np.ndarray, width: int, height: int, corner: np.ndarray, fill: int) -> np.ndarray:
    """A window of (height, width) at a relative corner; what lies outside the image is `fill`."""
    down, right = max(0, height - array.shape[0]), max(0, width - array.shape[1])
    if down or right:
        array = cv2.copyMakeBorder(array, 0, down, 0, right, cv2.BORDER_CONSTANT, value=(fill,) * 3)
    if array.shape[:2] == (height, width):
        return array
    top, left = (int(c * (n - m + 1)) for c, n, m in zip(corner, array.shape, (height, width)))
    return np.ascontiguousarray(array[top : top + height, left : left + width])


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

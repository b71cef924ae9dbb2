"""Image and label operations as the originals do them: whole-image bicubic resize by Pillow, nearest for labels.

Random choices come from a generator that the caller derives from (seed, position), so workers change nothing.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor
from PIL import Image

from paddle_adaptseg.config import Augment, Pixels


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Antialiased bicubic resize to (width, height)."""
    return image if image.size == tuple(size) else image.resize(size, Image.BICUBIC)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize of ids [H, W] to (width, height), with Pillow's choice of pixels."""
    if label.shape == (size[1], size[0]):
        return label
    return np.asarray(Image.fromarray(label).resize(size, Image.NEAREST))


def augment(arrays: list[np.ndarray], settings: Augment, rng: np.random.Generator) -> list[np.ndarray]:
    """Apply one random change to an image and its label alike."""
    if settings.mirror and rng.random() < 0.5:
        arrays = [np.ascontiguousarray(a[:, ::-1]) for a in arrays]
    return arrays


def normalise(images: Tensor, pixels: Pixels) -> Tensor:
    """RGB uint8 [N, H, W, 3] to network input [N, 3, H, W] on the device."""
    x = images.transpose([0, 3, 1, 2]).astype("float32")
    if pixels.order == "bgr":
        x = x.flip(axis=[1])
    shape = [1, 3, 1, 1]
    return (x - paddle.to_tensor(pixels.mean, "float32").reshape(shape)) / paddle.to_tensor(
        pixels.std, "float32"
    ).reshape(shape)

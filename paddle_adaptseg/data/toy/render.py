"""Two renderings of one kind of scene: "game" (clean, vivid) and "camera" (dull, other colours, haze, blur, noise)."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from paddle_adaptseg.core.labels import CITYSCAPES_19
from paddle_adaptseg.data.toy.canvas import Canvas

COLOUR_SHIFT, CAMERA = 0.6, 0.7  # how far the camera's palette and optics lie from the game's

# class: game colour, camera colour, coarse and fine texture contrast, spread of colour between objects
_LOOK = {
    "road": ((105, 105, 110), (82, 86, 98), 0.02, 0.04, 8),
    "sidewalk": ((190, 165, 160), (128, 120, 128), 0.03, 0.05, 14),
    "building": ((170, 115, 80), (112, 104, 108), 0.04, 0.03, 28),
    "wall": ((150, 150, 175), (98, 100, 96), 0.05, 0.05, 12),
    "fence": ((185, 150, 100), (112, 114, 110), 0.03, 0.03, 14),
    "pole": ((150, 150, 150), (92, 94, 100), 0.02, 0.02, 12),
    "light": ((50, 55, 45), (48, 50, 60), 0.02, 0.02, 6),
    "sign": ((235, 205, 30), (150, 130, 70), 0.02, 0.02, 30),
    "vegetation": ((50, 160, 45), (62, 84, 60), 0.22, 0.10, 12),
    "terrain": ((140, 195, 70), (112, 116, 72), 0.08, 0.12, 14),
    "sky": ((105, 185, 250), (205, 208, 212), 0.0, 0.0, 6),
    "person": ((215, 70, 65), (118, 66, 70), 0.05, 0.03, 34),
    "rider": ((225, 50, 150), (120, 54, 86), 0.05, 0.03, 34),
    "car": ((55, 75, 205), (70, 74, 110), 0.02, 0.02, 40),
    "truck": ((90, 145, 190), (104, 116, 132), 0.03, 0.02, 34),
    "bus": ((235, 140, 35), (150, 112, 70), 0.02, 0.02, 26),
    "train": ((60, 180, 175), (84, 116, 118), 0.02, 0.02, 26),
    "motorcycle": ((95, 45, 120), (66, 48, 74), 0.04, 0.03, 20),
    "bicycle": ((150, 85, 50), (94, 76, 66), 0.04, 0.03, 22),
}
_GAME, _CAMERA, _COARSE, _FINE, _SPREAD = (
    np.array(column, np.float32) for column in zip(*(_LOOK[name] for name in CITYSCAPES_19.names))
)
_FENCE, _WALL = CITYSCAPES_19.names.index("fence"), CITYSCAPES_19.names.index("wall")


def render(canvas: Canvas, camera: bool) -> tuple[np.ndarray, np.ndarray]:
    """RGB [H, W, 3] uint8 and train ids [H, W] uint8."""
    table = canvas.table()
    classes = table[:, 0].astype(np.int64)
    label = classes[canvas.objects].astype(np.uint8)
    palette = (1 - COLOUR_SHIFT) * _GAME + COLOUR_SHIFT * _CAMERA if camera else _GAME
    spread = _SPREAD * (1 - 0.35 * COLOUR_SHIFT if camera else 1.0)
    colours = palette[classes] + table[:, 2:5] * spread[classes][:, None]
    image = colours[canvas.objects] * _surface(canvas, label)[..., None]
    image = _photograph(image, table[:, 1][canvas.objects], canvas.rng) if camera else (image - 128) * 1.05 + 130
    return np.clip(image, 0, 255).astype(np.uint8), label


def _surface(canvas: Canvas, label: np.ndarray) -> np.ndarray:
    """Brightness of every pixel's surface: shading, noise at two scales, pickets and courses."""
    height, width = label.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    surface = canvas.shade + _COARSE[label] * _noise(canvas.rng, height, width, 8)
    surface = surface + _FINE[label] * _noise(canvas.rng, height, width, 1)
    surface = surface * np.where(label == _FENCE, 0.8 + 0.3 * (np.sin(x * 1.6) > 0), 1)
    return surface * np.where(label == _WALL, 0.9 + 0.16 * (np.sin(y * 1.3) > 0), 1)


def _photograph(image: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Haze that grows with depth, uneven light, vignette, colour cast, blur, gamma and sensor noise."""
    uniform = rng.uniform
    height, width = depth.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = x / width - 0.5, y / height - 0.5
    haze = np.array([196, 200, 206], np.float32) + uniform(-10, 10)
    veil = CAMERA * (uniform(0.1, 0.35) * depth)[..., None]
    image = image * (1 - veil) + haze * veil
    angle = uniform(0, 2 * np.pi)
    light = 1 + CAMERA * uniform(0.08, 0.28) * (u * np.cos(angle) + v * np.sin(angle)) * 2
    vignette = 1 - CAMERA * uniform(0.2, 0.45) * ((u**2 + v**2) * 2)
    cast = 1 + CAMERA * uniform(-0.06, 0.06, 3)
    image = image * (light * vignette)[..., None] * cast * uniform(1 - 0.2 * CAMERA, 1 + 0.1 * CAMERA)
    image = cv2.GaussianBlur(image, (0, 0), 0.3 + 0.6 * CAMERA * uniform(0.3, 1.0) * height / 128)
    image = 255 * np.clip(image / 255, 0, 1) ** (1 + CAMERA * uniform(-0.1, 0.25))
    return image + rng.standard_normal(image.shape).astype(np.float32) * 8 * CAMERA


def _noise(rng: np.random.Generator, height: int, width: int, scale: int) -> np.ndarray:
    """A random cut from a fixed field of noise, `scale` pixels coarse."""
    field = _field(scale, max(512, 2 * height), max(1024, 2 * width))
    y, x = rng.integers(0, field.shape[0] - height), rng.integers(0, field.shape[1] - width)
    return field[y : y + height, x : x + width]


@lru_cache(maxsize=4)
def _field(scale: int, height: int, width: int) -> np.ndarray:
    grain = np.random.default_rng(99 + scale).standard_normal((height // scale, width // scale)).astype(np.float32)
    return cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)

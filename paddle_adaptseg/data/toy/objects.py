"""What moves or stands in a scene. Each function draws one object at a depth on one side of the street."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

import cv2

from paddle_adaptseg.data.toy.canvas import Canvas, Street


def _car(canvas: Canvas, street: Street, side: int, depth: float) -> None:
    uniform, scale, y = canvas.rng.uniform, canvas.height * (1 - depth), street.y(depth)
    x = street.x(side, street.road * uniform(0.25, 0.85), depth)
    w, h = scale * uniform(0.34, 0.5), scale * uniform(0.2, 0.26)
    tint = canvas.box("car", x - w / 2, y - h * 0.62, x + w / 2, y - h * 0.1, depth)
    roof = [(x - w * 0.34, y - h), (x + w * 0.34, y - h), (x + w * 0.44, y - h * 0.6), (x - w * 0.44, y - h * 0.6)]
    canvas.polygon("car", roof, depth, tint)
    canvas.shade_box(x - w * 0.28, y - h * 0.92, x + w * 0.28, y - h * 0.65, 0.55)
    _wheels(canvas, "car", x, y, w, h, 0.36, depth, tint)


def _truck(canvas: Canvas, street: Street, side: int, depth: float) -> None:
    uniform, scale, y = canvas.rng.uniform, canvas.height * (1 - depth), street.y(depth)
    x = street.x(side, street.road * uniform(0.25, 0.85), depth)
    w, h = scale * uniform(0.42, 0.55), scale * uniform(0.42, 0.56)
    tint = canvas.box("truck", x - w / 2, y - h, x + w / 2, y - h * 0.12, depth)
    cv2.line(canvas.shade, (int(x), int(y - h)), (int(x), int(y - h * 0.15)), 0.7, 1)
    _wheels(canvas, "truck", x, y, w, h, 0.34, depth, tint)


def _wheels(
    canvas: Canvas, name: str, x: float, y: float, w: float, h: float, spread: float, depth: float, tint: tuple
) -> None:
    for sign in (-1, 1):
        left, right = x + sign * w * spread - w * 0.08, x + sign * w * spread + w * 0.08
        canvas.box(name, left, y - h * 0.14, right, y, depth, tint)
        canvas.shade_box(left, y - h * 0.14, right, y, 0.3)


def _bus(canvas: Canvas, street: Street, side: int, depth: float) -> None:
    uniform, scale, y = canvas.rng.uniform, canvas.height * (1 - depth), street.y(depth)
    x = street.x(side, street.road * uniform(0.25, 0.85), depth)
    w, h = scale * uniform(0.42, 0.55), scale * uniform(0.5, 0.62)
    canvas.box("bus", x - w / 2, y - h, x + w / 2, y, depth)
    canvas.shade_box(x - w * 0.42, y - h * 0.85, x + w * 0.42, y - h * 0.5, 0.5)
    canvas.shade_box(x - w * 0.5, y - h * 0.1, x + w * 0.5, y, 0.6)


def _train(canvas: Canvas, street: Street, side: int, depth: float) -> None:
    uniform, scale, y = canvas.rng.uniform, canvas.height * (1 - depth), street.y(depth)
    w, h = scale * uniform(0.7, 1.2), scale * uniform(0.42, 0.55)
    x = street.x(side, street.road * uniform(0.25, 0.85), depth) + side * w * 0.3
    canvas.box("train", x - w / 2, y - h, x + w / 2, y, depth)
    canvas.shade_box(x - w / 2, y - h * 0.75, x + w / 2, y - h * 0.5, 0.5)
    canvas.shade_box(x - w / 2, y - h * 0.3, x + w / 2, y - h * 0.22, 1.4)


def _person(canvas: Canvas, street: Street, side: int, depth: float) -> None:
    uniform, y = canvas.rng.uniform, street.y(depth)
    x = street.x(side, street.road + street.walk * uniform(-0.1, 1.0), depth)
    h = canvas.height * (1 - depth) * uniform(0.32, 0.42)
    w = max(h * 0.34, 2.5)
    tint = canvas.box("person", x - w / 2, y - h * 0.82, x + w / 2, y - h * 0.4, depth)
    canvas.box("person", x - w * 0.4, y - h * 0.42, x + w * 0.4, y, depth, tint)
    canvas.ellipse("person", x, y - h * 0.9, w * 0.33, h * 0.11, depth, tint)
    canvas.shade_box(x - w * 0.4, y - h * 0.4, x + w * 0.4, y, 0.65)


def _cycle(canvas: Canvas, street: Street, side: int, depth: float, name: str) -> None:
    """A bicycle or motorcycle, mostly with its rider."""
    uniform, y = canvas.rng.uniform, street.y(depth)
    x = street.x(side, street.road * uniform(0.5, 1.05), depth)
    h = canvas.height * (1 - depth) * uniform(0.34, 0.42)
    w, tint = h * uniform(0.7, 0.95), tuple(uniform(-1, 1, 3))
    for sign in (-1, 1):
        canvas.ellipse(name, x + sign * w * 0.34, y - h * 0.2, h * 0.2, h * 0.2, depth, tint)
    if name == "bicycle":
        for sign in (-1, 1):
            canvas.shade_disc(x + sign * w * 0.34, y - h * 0.2, h * 0.1, 1.5)
        frame = [(-0.3, 0.2), (-0.1, 0.45), (0.3, 0.45), (0.3, 0.2)]
        canvas.polygon(name, [(x + w * dx, y - h * dy) for dx, dy in frame], depth, tint)
    else:
        canvas.box(name, x - w * 0.4, y - h * 0.46, x + w * 0.42, y - h * 0.18, depth, tint)
        canvas.shade_box(x - w * 0.4, y - h * 0.25, x + w * 0.42, y - h * 0.18, 0.5)
    if uniform() < 0.75:
        tint = canvas.box("rider", x - w * 0.17, y - h * 0.88, x + w * 0.17, y - h * 0.4, depth)
        canvas.ellipse("rider", x + w * 0.05, y - h * 0.95, h * 0.1, h * 0.1, depth, tint)


def _bicycle(canvas: Canvas, street: Street, side: int, depth: float) -> None:
    _cycle(canvas, street, side, depth, "bicycle")


def _motorcycle(canvas: Canvas, street: Street, side: int, depth: float) -> None:
    _cycle(canvas, street, side, depth, "motorcycle")


def _tree(canvas: Canvas, street: Street, side: int, depth: float) -> None:
    uniform, y = canvas.rng.uniform, street.y(depth)
    x = street.x(side, street.road + street.walk * uniform(0.2, 1.2), depth)
    h = canvas.height * (1 - depth) * uniform(0.6, 0.9)
    canvas.box("vegetation", x - h * 0.04, y - h * 0.6, x + h * 0.04, y, depth)
    canvas.shade_box(x - h * 0.04, y - h * 0.5, x + h * 0.04, y, 0.5)
    for _ in range(4):
        cx, cy = x + h * uniform(-0.2, 0.2), y - h * uniform(0.6, 1.0)
        canvas.ellipse("vegetation", cx, cy, h * uniform(0.14, 0.26), h * uniform(0.14, 0.24), depth)


def _pole(canvas: Canvas, street: Street, side: int, depth: float) -> tuple[float, float, float]:
    """A pole; returns the column and row of its top and the size of what may hang there."""
    uniform, scale, y = canvas.rng.uniform, canvas.height * (1 - depth), street.y(depth)
    x = street.x(side, street.road + street.walk * uniform(0.0, 0.6), depth)
    h, w = scale * uniform(0.7, 1.1), max(scale * 0.035, 1.0)
    canvas.box("pole", x - w, y - h, x + w, y, depth)
    return x, y - h, max(scale * 0.085, 2.5)


def _light(canvas: Canvas, street: Street, side: int, depth: float) -> None:
    x, top, size = _pole(canvas, street, side, depth)
    canvas.box("light", x - size * 0.7, top - size, x + size * 0.7, top + size * 1.5, depth)
    canvas.shade_disc(x, top - size * 0.3, size * 0.35, 3.0)


def _sign(canvas: Canvas, street: Street, side: int, depth: float) -> None:
    x, top, size = _pole(canvas, street, side, depth)
    if canvas.rng.uniform() < 0.5:
        canvas.ellipse("sign", x, top, size * 1.2, size * 1.2, depth)
    else:
        canvas.box("sign", x - size * 1.2, top - size, x + size * 1.2, top + size, depth)
    canvas.shade_box(x - size * 0.5, top - size * 0.3, x + size * 0.5, top + size * 0.3, 0.6)


_TABLE: Mapping[str, tuple[Callable[[Canvas, Street, int, float], object], float]] = {
    "car": (_car, 0.2),
    "truck": (_truck, 0.07),
    "bus": (_bus, 0.07),
    "train": (_train, 0.06),
    "person": (_person, 0.15),
    "bicycle": (_bicycle, 0.1),
    "motorcycle": (_motorcycle, 0.08),
    "pole": (_pole, 0.08),
    "light": (_light, 0.07),
    "sign": (_sign, 0.07),
    "tree": (_tree, 0.05),
}
OBJECTS = {name: draw for name, (draw, _) in _TABLE.items()}
SHARES = [share for _, share in _TABLE.values()]

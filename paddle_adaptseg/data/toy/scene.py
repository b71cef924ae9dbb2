"""The layout of a scene: sky, ground, facades along both sides. What moves or stands on it is in objects.py."""

from __future__ import annotations

import cv2
import numpy as np

from paddle_adaptseg.data.toy.canvas import Canvas, Street
from paddle_adaptseg.data.toy.objects import OBJECTS, SHARES

_FACADES = ("building", "vegetation", "wall", "fence", "gap")
_FACADE_SHARES = (0.5, 0.18, 0.12, 0.12, 0.08)


def draw_scene(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """A street scene from a random generator; both domains draw from this one distribution."""
    canvas = Canvas(rng, height, width)
    street = Street(canvas)
    _backdrop(canvas, street)
    _ground(canvas, street)
    for side in (-1, 1):
        _facades(canvas, street, side)
    depths = np.sort(rng.uniform(0.05, 0.88, rng.integers(9, 16)))[::-1]
    for depth, name in zip(depths, rng.choice(list(OBJECTS), size=len(depths), p=SHARES)):
        OBJECTS[name](canvas, street, int(rng.choice([-1, 1])), depth)
    return canvas


def _backdrop(canvas: Canvas, street: Street) -> None:
    """Sky, and often a far skyline."""
    uniform, height, width = canvas.rng.uniform, canvas.height, canvas.width
    canvas.box("sky", -1, -1, width, height, 1.0)
    if uniform() < 0.8:
        x = 0.0
        while x < width:
            step = uniform(0.08, 0.2) * width
            name = "building" if uniform() < 0.6 else "vegetation"
            canvas.box(name, x, street.horizon - uniform(0.04, 0.16) * height, x + step, street.horizon + 3, 0.9)
            x += step


def _ground(canvas: Canvas, street: Street) -> None:
    """Terrain or pavement, sidewalks, the road and its lane marks."""
    uniform, height, width = canvas.rng.uniform, canvas.height, canvas.width
    canvas.box("terrain" if uniform() < 0.3 else "sidewalk", -1, street.horizon, width, height, 0.5)
    outer, far = street.road + street.walk, 9 * width
    for side in (-1, 1):
        name, inner = ("terrain", outer) if uniform() < 0.6 else ("sidewalk", street.road)
        corners = [(inner, 1), (inner, 0), (far, 0), (far, 1)]
        canvas.polygon(name, [(street.x(side, offset, z), street.y(z)) for offset, z in corners], 0.5)
        edges = [(street.x(side, offset, 0), height) for offset in (street.road, outer)]
        canvas.polygon("sidewalk", [(street.centre, street.horizon), *edges], 0.4)
    apex = [(street.centre - 2, street.horizon), (street.centre + 2, street.horizon)]
    canvas.polygon("road", [*apex, (street.x(1, street.road, 0), height), (street.x(-1, street.road, 0), height)], 0.4)
    for z in np.arange(0.05, 0.95, 0.18):
        near, far_z = 2 + 3 * (1 - z), z + 0.09
        dash = ((-2.0, z), (near, z), (near - (1 - z), far_z), (-2.0, far_z))
        mark = np.array([(street.x(1, offset, d), street.y(d)) for offset, d in dash], np.int32)
        cv2.fillPoly(canvas.shade, [mark], 1.7)


def _facades(canvas: Canvas, street: Street, side: int) -> None:
    """Stretches of building, greenery, wall, fence or nothing, from far to near."""
    uniform, rng = canvas.rng.uniform, canvas.rng
    offset = street.road + street.walk + canvas.width * uniform(0.0, 0.2)
    height = uniform(0.5, 1.4) * canvas.height
    cuts = [0.95, *np.sort(uniform(0.0, 0.93, rng.integers(4, 8)))[::-1], -0.3]
    for far, near in zip(cuts, cuts[1:]):
        kind = rng.choice(_FACADES, p=_FACADE_SHARES)
        if kind == "building":
            _building(canvas, street, side, offset, far, near, height * uniform(0.7, 1.3))
        elif kind == "vegetation":
            _greenery(canvas, street, side, offset, far, near)
        elif kind != "gap":
            _upright(canvas, street, str(kind), side, offset, far, near, uniform(0.14, 0.32) * canvas.height, 1)


def _upright(
    canvas: Canvas, street: Street, name: str, side: int, offset: float, far: float, near: float, height: float,
    lift: float = 0,
) -> None:  # fmt: skip
    """A vertical surface along the street between two depths."""
    ends = [(street.x(side, offset, z), street.y(z), height * (1 - z)) for z in (far, near)]
    (x1, y1, h1), (x0, y0, h0) = ends
    canvas.polygon(name, [(x1, y1 - h1 - lift), (x0, y0 - h0 - lift), (x0, y0), (x1, y1)], (near + far) / 2)


def _building(canvas: Canvas, street: Street, side: int, offset: float, far: float, near: float, height: float) -> None:
    """A facade with rows of windows."""
    _upright(canvas, street, "building", side, offset, far, near, height)
    x1, x0 = street.x(side, offset, far), street.x(side, offset, near)
    span = abs(x0 - x1)
    columns, rows = int(span // 7), int(height * (1 - far) // 9)
    for i in range(min(columns, 8)):
        x = min(x0, x1) + span * (i + 0.25) / columns
        depth = 1 - abs(x - street.centre) / offset
        for j in range(min(rows, 7)):
            y = street.y(depth) - height * (1 - depth) * (j + 0.7) / rows
            canvas.shade_box(x, y, x + span * 0.5 / columns, y + height * (1 - depth) * 0.45 / rows, 0.62)


def _greenery(canvas: Canvas, street: Street, side: int, offset: float, far: float, near: float) -> None:
    """Tree crowns, and sometimes a hedge."""
    uniform = canvas.rng.uniform
    for _ in range(int(canvas.rng.integers(3, 7))):
        z = uniform(near, far)
        radius = canvas.height * uniform(0.12, 0.3) * (1 - z) + 3
        x, y = street.x(side, offset * uniform(0.95, 1.3), z), street.y(z) - radius * uniform(0.7, 1.9)
        canvas.ellipse("vegetation", x, y, radius * uniform(0.8, 1.4), radius, z)
    if uniform() < 0.5:
        x1, x0 = street.x(side, offset, far), street.x(side, offset, near)
        canvas.box("vegetation", x1, street.y(far) - 5, x0, street.y(near), near)

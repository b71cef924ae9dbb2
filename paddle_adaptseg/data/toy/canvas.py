"""What a street scene is drawn on: which object each pixel belongs to, and how bright its surface is."""

from __future__ import annotations

from typing import Any, Optional

import cv2
import numpy as np

from paddle_adaptseg.core.labels import CITYSCAPES_19

Tint = tuple[float, float, float]


class Canvas:
    """Objects drawn from far to near. Every object has a class, a depth (0 near, 1 far) and a tint of its own."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.objects = np.zeros((height, width), np.uint16)
        self.shade = np.ones((height, width), np.float32)
        self.rows: list[tuple[float, ...]] = []

    def polygon(self, name: str, points: Any, depth: float, tint: Optional[Tint] = None) -> Tint:
        """Draw an object of the class `name`; returns its tint, for further parts of the same thing."""
        tint = tuple(self.rng.uniform(-1, 1, 3)) if tint is None else tint
        outline = np.round(np.asarray(points, np.float32)).astype(np.int32).reshape(-1, 1, 2)
        cv2.fillPoly(self.objects, [outline], len(self.rows))
        cv2.fillPoly(self.shade, [outline], 1.0)
        self.rows.append((CITYSCAPES_19.names.index(name), depth, *tint))
        return tint

    def box(
        self, name: str, x0: float, y0: float, x1: float, y1: float, depth: float, tint: Optional[Tint] = None
    ) -> Tint:
        """An upright rectangle."""
        return self.polygon(name, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], depth, tint)

    def ellipse(
        self, name: str, x: float, y: float, rx: float, ry: float, depth: float, tint: Optional[Tint] = None
    ) -> Tint:
        """An ellipse as a polygon of fourteen corners."""
        angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        return self.polygon(name, np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1), depth, tint)

    def shade_box(self, x0: float, y0: float, x1: float, y1: float, value: float) -> None:
        """Darken (below 1) or brighten a rectangle of whatever is there: windows, wheels, stripes."""
        cv2.rectangle(self.shade, (round(x0), round(y0)), (round(x1), round(y1)), float(value), -1)

    def shade_disc(self, x: float, y: float, radius: float, value: float) -> None:
        """Darken or brighten a disc."""
        cv2.circle(self.shade, (int(x), int(y)), max(int(radius), 1), float(value), -1)

    def table(self) -> np.ndarray:
        """Class, depth and tint of every object [objects, 5]."""
        return np.array(self.rows, np.float32)


class Street:
    """The geometry of a straight street: lateral offset and depth to pixels."""

    def __init__(self, canvas: Canvas) -> None:
        uniform, height, width = canvas.rng.uniform, canvas.height, canvas.width
        self.horizon = height * uniform(0.34, 0.46)
        self.centre = width * uniform(0.38, 0.62)
        self.ground = height - self.horizon
        self.road = width * uniform(0.34, 0.6)  # half width at the camera
        self.walk = width * uniform(0.1, 0.28)

    def x(self, side: int, offset: float, depth: float) -> float:
        """Column of a point `offset` to one side (-1 left, 1 right)."""
        return self.centre + side * offset * (1 - depth)

    def y(self, depth: float) -> float:
        """Row of the ground."""
        return self.horizon + self.ground * (1 - depth)

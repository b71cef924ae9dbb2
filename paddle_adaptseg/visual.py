"""Pictures from arrays: coloured labels, panels, captioned grids. Nothing in training depends on it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddle_adaptseg.labels import LabelSpace


def colourise(label: np.ndarray, space: LabelSpace) -> np.ndarray:
    """RGB picture [H, W, 3] of class indices [H, W]; ignored pixels are black."""
    return space.palette()[label]


def palette_image(label: np.ndarray, space: LabelSpace) -> Image.Image:
    """A palette PNG image of class indices, as the originals save colour predictions."""
    image = Image.fromarray(label.astype(np.uint8), mode=None).convert("P")
    image.putpalette(space.palette().flatten().tolist())
    return image


def heat(values: np.ndarray) -> np.ndarray:
    """RGB picture of a map in 0..1, dark to bright."""
    scaled = (255 * np.clip(values, 0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def panel(
    image: np.ndarray, prediction: np.ndarray, truth: np.ndarray, entropy: np.ndarray, space: LabelSpace
) -> np.ndarray:
    """Image, prediction, truth and entropy side by side at the image's size."""
    size = image.shape[1::-1]
    truth = cv2.resize(truth, size, interpolation=cv2.INTER_NEAREST)
    return np.hstack([image, colourise(prediction, space), colourise(truth, space), heat(entropy)])


def grid(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str], scale: int = 1, gap: int = 4) -> np.ndarray:
    """Rows of equal pictures with a caption over each column."""
    cells = [[np.kron(cell, np.ones((scale, scale, 1), np.uint8)) for cell in row] for row in rows]
    height, width = cells[0][0].shape[:2]
    font = ImageFont.load_default(size=max(12, width // 16))
    header = font.size + 10
    canvas = Image.new(
        "RGB", (len(captions) * (width + gap) + gap, header + len(cells) * (height + gap)), (255, 255, 255)
    )
    draw = ImageDraw.Draw(canvas)
    for column, caption in enumerate(captions):
        x = gap + column * (width + gap)
        draw.text((x + 2, 4), caption, fill=(20, 20, 20), font=font)
        for row, line in enumerate(cells):
            canvas.paste(Image.fromarray(line[column]), (x, header + row * (height + gap)))
    return np.asarray(canvas)

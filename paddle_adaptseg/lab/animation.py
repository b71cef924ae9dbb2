"""An animated comparison of predictions: target images on the left, one method after the other on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddle_adaptseg.core.labels import LabelSpace
from paddle_adaptseg.evaluation.visual import colourise

GAP, LINE, COLUMNS = 6, 22, 7  # pixels between images, height of a line of the legend, classes in one


def write_animation(
    images: Sequence[np.ndarray],
    titles: Mapping[str, Sequence[np.ndarray]],
    space: LabelSpace,
    path: Path,
    scale: int = 2,
    seconds: float = 1.6,
) -> None:
    """A GIF file with one frame for each title: its labels [H, W] beside the images, and the colours of the classes."""
    frames = [_frame(images, title, labels, space, scale) for title, labels in titles.items()]
    table = _colours(images, space)
    small = [frame.quantize(palette=table, dither=Image.Dither.NONE) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    small[0].save(path, save_all=True, append_images=small[1:], duration=int(1000 * seconds), loop=0, optimize=True)


def _colours(images: Sequence[np.ndarray], space: LabelSpace) -> Image.Image:
    """One table of colours for all frames: the classes exactly, the images as near as there is room."""
    greys = [(level, level, level) for level in (0, 20, 90, 160, 255)]
    exact = [*space.colours, *greys]
    near = Image.fromarray(np.vstack(images)).quantize(256 - len(exact)).getpalette() or []
    table = Image.new("P", (1, 1))
    table.putpalette([*np.ravel(exact).tolist(), *near[: 3 * (256 - len(exact))]])
    return table


def _frame(
    images: Sequence[np.ndarray], title: str, labels: Sequence[np.ndarray], space: LabelSpace, scale: int
) -> Image.Image:
    height, width = (scale * side for side in images[0].shape[:2])
    top, rows = 30, -(-len(space) // COLUMNS)
    canvas = Image.new("RGB", (2 * width + GAP, top + len(images) * (height + GAP) + rows * LINE + 6), (255, 255, 255))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=18)
    for x, text in ((4, "target image"), (width + GAP + 4, title)):
        draw.text((x, 3), text, fill=(20, 20, 20), font=font)
    for row, (image, label) in enumerate(zip(images, labels)):
        for x, part in ((0, image), (width + GAP, colourise(label, space))):
            big = Image.fromarray(part).resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(big, (x, top + row * (height + GAP)))
    _legend(draw, space, top + len(images) * (height + GAP), canvas.width)
    return canvas


def _legend(draw: ImageDraw.ImageDraw, space: LabelSpace, top: int, width: int) -> None:
    font = ImageFont.load_default(size=14)
    for index, name in enumerate(space.names):
        x, y = (index % COLUMNS) * (width // COLUMNS) + 4, top + (index // COLUMNS) * LINE + 4
        draw.rectangle((x, y, x + 13, y + 13), fill=space.colours[index], outline=(90, 90, 90))
        draw.text((x + 19, y - 2), name, fill=(20, 20, 20), font=font)

"""Images from arrays: coloured labels, panels, captioned grids, and the panels that a run logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Callable, Optional

import cv2
import numpy as np
from paddle import Tensor
from PIL import Image, ImageDraw, ImageFont

from paddle_adaptseg.config.schema import Config, Pixels
from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.core.labels import LabelSpace
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.quarantine import Fault
from paddle_adaptseg.evaluation.predictor import PLAIN, Predictor
from paddle_adaptseg.models.segmenter import Segmenter

STRIP = 256  # rows


def colourise(label: np.ndarray, space: LabelSpace) -> np.ndarray:
    """RGB image [H, W, 3] of class indices [H, W]; ignored pixels are black."""
    return space.palette()[label]


def palette_image(label: np.ndarray, space: LabelSpace) -> Image.Image:
    """A palette PNG image of class indices, as the originals save colour predictions."""
    image = Image.fromarray(label.astype(np.uint8), mode=None).convert("P")
    image.putpalette(space.palette().flatten().tolist())
    return image


def overlay(image: np.ndarray, label: np.ndarray, space: LabelSpace, strength: float = 0.5) -> np.ndarray:
    """An RGB image with the colours of its classes over it; ignored pixels stay as they are."""
    out = np.empty_like(image)
    for top in range(0, len(image), STRIP):  # a picture of many megapixels is not copied several times
        rows = slice(top, top + STRIP)
        mixed = cv2.addWeighted(image[rows], 1 - strength, colourise(label[rows], space), strength, 0)
        out[rows] = np.where((label[rows] < len(space))[..., None], mixed, image[rows])
    return out


def legend_figure(image: np.ndarray, label: np.ndarray, space: LabelSpace, width: int = 560) -> np.ndarray:
    """Image and overlay side by side, and below them the classes that occur, largest first, with their shares."""
    size = (width, max(1, round(width * image.shape[0] / image.shape[1])))
    pair = [cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (image, overlay(image, label, space))]
    shares = np.bincount(label.ravel(), minlength=256)[: len(space)] / label.size
    order = [index for index in np.argsort(-shares) if shares[index] > 0]
    font, line, columns = ImageFont.load_default(size=15), 24, 5
    rows = -(-len(order) // columns)
    canvas = Image.new("RGB", (2 * width, size[1] + rows * line + 12), (255, 255, 255))
    canvas.paste(Image.fromarray(np.hstack(pair)), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for place, index in enumerate(order):
        x, y = (place % columns) * (2 * width // columns) + 8, size[1] + 8 + (place // columns) * line
        draw.rectangle((x, y, x + 16, y + 16), fill=space.colours[index], outline=(90, 90, 90))
        draw.text((x + 24, y - 1), f"{space.names[index]} {100 * shares[index]:.1f} %", fill=(20, 20, 20), font=font)
    return np.asarray(canvas)


def heat(values: np.ndarray) -> np.ndarray:
    """RGB image of a map in 0..1, dark to bright."""
    scaled = (255 * np.clip(values, 0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def png_bytes(image: np.ndarray) -> bytes:
    """An RGB image as a PNG file's bytes."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def at_size(image: np.ndarray, size: tuple[int, int], smooth: bool) -> np.ndarray:
    """An image at (width, height), smoothed, or for labels without mixing ids."""
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smooth else cv2.INTER_NEAREST)


def panel(
    image: np.ndarray, prediction: np.ndarray, ground_truth: np.ndarray, entropy: np.ndarray, space: LabelSpace
) -> np.ndarray:
    """Image and prediction above ground truth and entropy, each at the image's size."""
    size = image.shape[1::-1]
    ground_truth = cv2.resize(ground_truth, size, interpolation=cv2.INTER_NEAREST)
    below = np.hstack([colourise(ground_truth, space), heat(entropy)])
    return np.vstack([np.hstack([image, colourise(prediction, space)]), below])


def grid(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str], scale: int = 1, gap: int = 4) -> np.ndarray:
    """Rows of equal images with a caption over each column."""
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


PANELS = 2  # fixed images of each domain that are drawn at every evaluation


def panels(
    model: Segmenter,
    files: DomainFiles,
    config: Config,
    unusable: Optional[Callable[[Sequence[Fault]], object]] = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and panels (image, labels, ground truth, entropy) of the first images.

    `unusable` is called with those that cannot be read.
    """
    predictor, space = Predictor(model, config.data.pixels, PLAIN.within(config.eval)), label_space(config)
    for index in range(min(PANELS, len(files))):
        try:
            image, ground_truth = files.image(index), files.label(index, files.size)
        except DataError as error:
            if unusable is None:
                raise
            unusable([Fault(0, 0, files.items[index].image.name, str(error))])
            continue
        prediction, entropy = predictor.labels_and_entropy(image)
        yield str(index), panel(image, prediction, ground_truth, entropy, space)


MIXED = ["target image", "pseudo-labels", "mixed image", "mixed labels", "weights"]


def training_panel(seen: Mapping[str, Tensor], config: Config) -> Optional[np.ndarray]:
    """Target image, its pseudo-labels, mixed image, its labels and their weights, of what a method saw last.

    Weights are drawn from 0 (dark) to 1 (bright); pixels without a label are black.
    """
    if "mixed_image" not in seen:
        return None
    space, pixels = label_space(config), config.data.pixels
    images = [unnormalised(seen[name][0], pixels) for name in ("target_image", "mixed_image")]
    labels = [colourise(seen[name][0].numpy().astype(np.uint8), space) for name in ("pseudo_label", "mixed_label")]
    row = [images[0], labels[0], images[1], labels[1], heat(seen["mixed_weight"][0].numpy())]
    return grid([row], MIXED)


def unnormalised(image: Tensor, pixels: Pixels) -> np.ndarray:
    """RGB uint8 [H, W, 3] of network input [3, H, W]."""
    array = image.numpy().transpose(1, 2, 0) * np.array(pixels.std) + np.array(pixels.mean)
    array = np.clip(array.round(), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(array[:, :, ::-1]) if pixels.order == "bgr" else array

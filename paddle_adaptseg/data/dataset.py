"""The only file-backed data set: reads one image and its label, at the size asked for, as train ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from paddle_adaptseg.config import Domain
from paddle_adaptseg.data.catalog import DATASETS, list_items
from paddle_adaptseg.data.transforms import resize_image, resize_label
from paddle_adaptseg.errors import DataError
from paddle_adaptseg.labels import LabelSpace


class DomainFiles:
    """Items of one domain by index."""

    def __init__(self, domain: Domain, space: LabelSpace, labelled: bool) -> None:
        self.items = list_items(domain, labelled)
        self.size = tuple(domain.size)
        self.lut = space.lut(DATASETS[domain.dataset].raw_ids)

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        """The image's path, for messages."""
        return str(self.items[index].image)

    def image(self, index: int) -> np.ndarray:
        """RGB [H, W, 3] uint8 at the domain's size."""
        with _open(self.items[index].image) as picture:
            return np.asarray(resize_image(picture.convert("RGB"), self.size))

    def label(self, index: int, resized: bool) -> np.ndarray:
        """Train ids [H, W] uint8, at the domain's size or as stored."""
        path = self.items[index].label
        with _open(path) as picture:
            ids = np.asarray(picture)  # a palette PNG gives its indices, which are the ids
        if ids.ndim != 2 or ids.dtype != np.uint8:
            raise DataError(f"label '{path}' must be 8-bit ids, but is {picture.mode}; colour pictures are no labels")
        return self.lut[resize_label(ids, self.size) if resized else ids]


def _open(path: Path) -> Image.Image:
    """Open and decode a picture; a broken file is an error that names it."""
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}") from None
    return picture

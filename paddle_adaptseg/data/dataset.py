"""The only file-backed data set: reads an image and its label by index, from files or from the prepared cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import cv2
import numpy as np

from paddle_adaptseg.config import Domain
from paddle_adaptseg.data.cache import Cache
from paddle_adaptseg.data.decode import LABELS, decode_rgb
from paddle_adaptseg.data.items import list_items
from paddle_adaptseg.data.transforms import resize_label
from paddle_adaptseg.errors import DataError, shorten
from paddle_adaptseg.labels import IGNORE, LabelSpace
from paddle_adaptseg.registry import lookup


class DomainFiles:
    """Items of one domain by index."""

    def __init__(self, domain: Domain, space: LabelSpace, labelled: bool, cache: str = "") -> None:
        listing = list_items(domain, labelled)
        self.items, self.title = listing.items, listing.spec.title
        self.size = tuple(domain.size)
        self.lut, self.decode = None, None
        self.unknown: list[str] = []  # classes of the labels that the network does not predict
        if listing.labels is not None:
            self.lut = space.lut(listing.labels.ids)
            if (self.lut == IGNORE).all():
                raise DataError(
                    f"{self.title} shares no class with the network: it has {shorten(listing.labels.ids.values(), 4)}, "
                    f"the network predicts {shorten(space.names, 4)}; is data.classes right?"
                )
            self.unknown = sorted(set(listing.labels.ids.values()) - set(space.names))
            self.decode = lookup(LABELS, listing.labels.decode, "label decoder")
        self.cache = Cache.find(cache, self) if cache else None

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        """Where the image lies, for messages."""
        return str(self.items[index].image)

    def stem(self, index: int) -> str:
        """The image's file name without its ending, for predictions."""
        return self.items[index].image.name.rsplit("/", 1)[-1].rsplit(".", 1)[0]

    def image(self, index: int, size: Optional[Sequence[int]] = None) -> np.ndarray:
        """RGB [H, W, 3] uint8 at `size` (width, height), by default the domain's."""
        size = tuple(size or self.size)
        if self.cache is not None and size == self.size:
            return self.cache.image(index)
        return decode_rgb(self.items[index].image, size)

    def label(self, index: int, size: Optional[Sequence[int]] = None) -> np.ndarray:
        """Train ids [H, W] uint8 at `size`; as stored without one."""
        if self.cache is not None and size is not None and tuple(size) == self.size:
            return self.cache.label(index)
        ref = self.items[index].label
        if ref is None:
            raise DataError(f"'{self.name(index)}' has no label")
        ids = self.decode(ref)
        return cv2.LUT(ids if size is None else resize_label(ids, size), self.lut)

"""The only file-backed data set: reads an image and its label by index, from files or from the prepared cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import cv2
import numpy as np

from paddle_adaptseg.config import Domain
from paddle_adaptseg.data.cache import Cache
from paddle_adaptseg.data.decode import LABELS, decode_rgb, decode_sized
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
            known = {*listing.labels.ids, *listing.labels.ignored}
            self.unknown_ids = np.array([i not in known for i in range(256)], np.uint8)
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
        cache = self._prepared(size)
        return decode_rgb(self.items[index].image, size) if cache is None else cache.image(index)

    def label(self, index: int, size: Optional[Sequence[int]] = None) -> np.ndarray:
        """Train ids [H, W] uint8 at `size`; as stored without one."""
        cache = self._prepared(size)
        if cache is not None:
            return cache.label(index)
        return self._train_ids(self._ids(index), size)

    def pair(
        self, index: int, size: Sequence[int], label_size: Optional[Sequence[int]] = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """image() and label() of an item that must be of one size as stored; resizing would hide that they differ."""
        labels, images = self._prepared(label_size), self._prepared(size)
        if labels is not None:
            return self.image(index, size), labels.label(index)
        ids = self._ids(index)
        item, width, height = self.items[index], ids.shape[1], ids.shape[0]
        if images is not None:
            return images.image(index), self._train_ids(ids, label_size)
        image, stored = decode_sized(item.image, size)
        if stored != (width, height):
            raise DataError(f"label '{item.label}' is {width}x{height}, but its image is {stored[0]}x{stored[1]}")
        return image, self._train_ids(ids, label_size)

    def _prepared(self, size: Optional[Sequence[int]]) -> Optional[Cache]:
        return self.cache if size is not None and tuple(size) == self.size else None

    def _ids(self, index: int) -> np.ndarray:
        """Ids as stored, all of them known."""
        label = self.items[index].label
        if label is None:
            raise DataError(f"'{self.name(index)}' has no label")
        ids = self.decode(label)
        if cv2.countNonZero(cv2.LUT(ids, self.unknown_ids)):
            found = [str(i) for i in np.unique(ids) if self.unknown_ids[i]]
            raise DataError(f"label '{label}' holds unknown ids {shorten(found)}")
        return ids

    def _train_ids(self, ids: np.ndarray, size: Optional[Sequence[int]]) -> np.ndarray:
        return cv2.LUT(ids if size is None else resize_label(ids, size), self.lut)

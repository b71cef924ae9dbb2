"""The only file-backed data set: reads an image and its label by index, from files or from the prepared cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Callable, Optional

import cv2
import numpy as np

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.config.schema import Domain
from paddle_adaptseg.core.errors import DataError, shorten
from paddle_adaptseg.core.labels import IGNORE, LabelSpace
from paddle_adaptseg.data.catalog import LabelSource
from paddle_adaptseg.data.decode import LABELS, decode_bgr, decode_rgb
from paddle_adaptseg.data.files import Ref
from paddle_adaptseg.data.pairs import Listing, list_items
from paddle_adaptseg.data.prepared import Cache
from paddle_adaptseg.data.windows import WHOLE, Reading, image_window, label_window


@dataclass(frozen=True)
class LabelReader:
    """How the files of one label source become train ids."""

    decode: Callable[[Ref], np.ndarray]
    lut: np.ndarray  # train id by raw id
    unknown: np.ndarray  # 1 for raw ids that should not occur

    @classmethod
    def of(cls, source: LabelSource, space: LabelSpace, title: str) -> LabelReader:
        """The reader of a source; one without any class of `space` is an error."""
        lut = space.lut(source.ids)
        if (lut == IGNORE).all():
            raise DataError(
                f"{title} shares no class with the network: it has {shorten(source.ids.values(), 4)}, "
                f"the network predicts {shorten(space.names, 4)}; is data.classes right?"
            )
        known = {*source.ids, *source.ignored}
        unknown = np.array([i not in known for i in range(256)], np.uint8)
        return cls(lookup(LABELS, source.decode, "label decoder"), lut, unknown)


class DomainFiles:
    """Items of one domain by index."""

    def __init__(
        self, domain: Domain, space: LabelSpace, labelled: bool, cache: str = "", listing: Optional[Listing] = None
    ) -> None:
        listing = listing or list_items(domain, labelled)
        self.items, self.title, self.labelled = listing.items, listing.spec.title, labelled
        self.size = tuple(domain.size)
        sources = listing.sources()
        self.readers = {n: LabelReader.of(source, space, self.title) for n, source in sources.items()}
        # Classes of the labels that the network does not predict.
        self.unknown = sorted({name for source in sources.values() for name in source.ids.values()} - set(space.names))
        self.cache = Cache.find(cache, self) if cache else None

    def __len__(self) -> int:
        return len(self.items)

    def drawn_from(self, seed: int, position: int) -> tuple[Optional[int], int, int]:
        """Of which items one comes at a position: the random stream of their order, the first, and how many."""
        return None, 0, len(self)

    def notes(self) -> list[str]:
        """What a user should know about the parts that it has."""
        return []

    def digest(self) -> str:
        """A name for the list of files: the same wherever the same files are found in the same order."""
        names = [f"{item.image.name} {item.label.name if item.label else ''}" for item in self.items]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

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
        return self._train_ids(index, self._ids(index), size)

    def pair(self, index: int, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray, str]:
        """image() and label() at one size, and the note of reading()."""
        reading = self.reading(index, size)
        if reading.label is None:
            raise DataError(f"'{self.name(index)}' has no label")
        return reading.image(WHOLE), reading.label(WHOLE), reading.note

    def reading(self, index: int, size: Sequence[int]) -> Reading:
        """An item decoded once, of which any windows are cut at `size`. Its note says where image and label differ in
        their size as stored: some of GTA5 do, and the originals resize and use them."""
        cache, item = self._prepared(size), self.items[index]
        if cache is not None:
            return cache.reading(index, self.labelled)
        if not self.labelled:
            return Reading(partial(image_window, decode_bgr(item.image), size), None)
        ids = self._ids(index)
        image = decode_bgr(item.image)
        (height, width), stored = ids.shape, image.shape[1::-1]
        same = stored == (width, height)
        note = "" if same else f"label '{item.label}' is {width}x{height}, but its image is {stored[0]}x{stored[1]}"
        lut = self.readers[item.source].lut
        return Reading(partial(image_window, image, size), lambda w: cv2.LUT(label_window(ids, size, w), lut), note)

    def _prepared(self, size: Optional[Sequence[int]]) -> Optional[Cache]:
        return self.cache if size is not None and tuple(size) == self.size else None

    def _ids(self, index: int) -> np.ndarray:
        """Ids as stored, all of them known."""
        label = self.items[index].label
        if label is None:
            raise DataError(f"'{self.name(index)}' has no label")
        reader = self.readers[self.items[index].source]
        ids = reader.decode(label)
        if cv2.countNonZero(cv2.LUT(ids, reader.unknown)):
            found = [str(i) for i in np.unique(ids) if reader.unknown[i]]
            raise DataError(f"label '{label}' holds unknown ids {shorten(found)}")
        return ids

    def _train_ids(self, index: int, ids: np.ndarray, size: Optional[Sequence[int]]) -> np.ndarray:
        return cv2.LUT(ids if size is None else label_window(ids, size), self.readers[self.items[index].source].lut)

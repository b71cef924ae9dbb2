"""Several sources as one: their files one after the other, drawn by shares, and their classes united by name.

Every source's labels become classes by name. A class that one source does not have never occurs in its labels: what
shows it there is ignored, so that this source neither teaches it nor speaks against it in those pixels.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np

from paddle_adaptseg.config.schema import Data, Source
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.labels import LabelSpace
from paddle_adaptseg.data.catalog import dataset_spec
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.windows import Reading

_PART, FIRST_PART = 10, 1000  # random streams: which source comes, and the order in each of them


def united_space(data: Data) -> LabelSpace:
    """The classes of all sources, in the order in which the sources name them first."""
    colours: dict[str, tuple[int, int, int]] = {}
    for domain in data.all_sources().values():
        spec = dataset_spec(domain.dataset)
        known = {name for source in spec.labels for name in source.ids.values()}
        for name, colour in zip(spec.classes.names, spec.classes.colours):
            if name in known:
                colours.setdefault(name, colour)
    if not colours:
        raise ConfigError("data.classes=united needs data.source or data.sources: name the classes instead")
    return LabelSpace(tuple(colours), tuple(colours.values()))


def check_sizes(sources: Mapping[str, Source]) -> None:
    """Refuse sources of several sizes: their images share batches."""
    first, *others = sources
    for name in others:
        one, other = sources[first].size, sources[name].size
        if one != other:
            raise ConfigError(
                f"data.sources.{name}.size=[{other[0]}, {other[1]}] differs from that of {first}, "
                f"[{one[0]}, {one[1]}]: all sources are read at one size"
            )


class JoinedFiles(DomainFiles):
    """The items of several domains under one index."""

    def __init__(self, sources: Mapping[str, Source], space: LabelSpace, cache: str = "") -> None:
        check_sizes(sources)
        self.parts: dict[str, DomainFiles] = {
            name: DomainFiles(source, space, labelled=True, cache=cache) for name, source in sources.items()
        }
        every = list(self.parts.values())
        self.items = tuple(item for files in every for item in files.items)
        self.title, self.labelled, self.size = " + ".join(files.title for files in every), True, every[0].size
        self.readers = dict(enumerate(reader for files in every for reader in files.readers.values()))
        self.unknown = sorted({name for files in every for name in files.unknown})
        self.absent = {
            name: [c for n, c in enumerate(space.names) if not any((r.lut == n).any() for r in files.readers.values())]
            for name, files in self.parts.items()
        }
        self.cache = None  # each part has its own
        self.lengths = [len(files) for files in every]
        self.starts = [sum(self.lengths[:n]) for n in range(len(every))]
        shares = np.array([source.share for source in sources.values()])
        self.shares = shares / shares.sum()

    def notes(self) -> list[str]:
        """A line for each source: its images, its share, and classes of the network that it does not have."""
        return [
            f"source {name}: {len(files)} images of {files.title}, {100 * share:.0f} % of what is drawn"
            + (f"; does not teach {', '.join(absent)}" if (absent := self.absent[name]) else "")
            for (name, files), share in zip(self.parts.items(), self.shares)
        ]

    def drawn_from(self, seed: int, position: int) -> tuple[Optional[int], int, int]:
        part = int(np.random.default_rng([seed, 0, _PART, position]).choice(len(self.shares), p=self.shares))
        return FIRST_PART + part, self.starts[part], self.lengths[part]

    def image(self, index: int, size: Optional[Sequence[int]] = None) -> np.ndarray:
        files, place = self._place(index)
        return files.image(place, size)

    def label(self, index: int, size: Optional[Sequence[int]] = None) -> np.ndarray:
        files, place = self._place(index)
        return files.label(place, size)

    def reading(self, index: int, size: Sequence[int]) -> Reading:
        files, place = self._place(index)
        return files.reading(place, size)

    def digest(self) -> str:
        return hashlib.sha256(" ".join(files.digest() for files in self.parts.values()).encode()).hexdigest()

    def _place(self, index: int) -> tuple[DomainFiles, int]:
        part = bisect.bisect_right(self.starts, index) - 1
        return list(self.parts.values())[part], index - self.starts[part]

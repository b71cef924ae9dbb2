"""Which item comes when: index = f(seed, position). Loaders remember nothing, so resuming needs only the step."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import Optional

import numpy as np
from paddle import Tensor
from paddle.io import Dataset

from paddle_adaptseg.config.schema import Augment, Margins, Pixels
from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.core.labels import IGNORE
from paddle_adaptseg.data.augment import Crop, borders, normalise, random_crop, recoloured, scaled_size
from paddle_adaptseg.data.batch import Areas, Batch, Borders
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.loader import Positions, load
from paddle_adaptseg.data.quarantine import DOMAINS, Fault, Quarantine, Resized, Sample, collate, separate
from paddle_adaptseg.data.rare_classes import RareSampler, first_good, is_enough

_ORDER, _CHANGE, _TOGETHER = 0, 1, 3  # separate random streams, beside that of rare_classes.py


def shuffled_index(seed: int, stream: int, position: int, length: int) -> int:
    """The item at `position` of an endless sequence that shuffles anew in every pass."""
    epoch, offset = divmod(position, length)
    return int(_order(seed, stream, epoch, length)[offset])


@lru_cache(maxsize=8)
def _order(seed: int, stream: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, _ORDER, epoch]).permutation(length)


SOURCE, TARGET, LABELLED = range(len(DOMAINS))  # streams; every random choice is keyed by their number


class PairStream(Dataset):
    """Samples by position: a labelled source image, an unlabelled and a labelled target image, each where it is read.

    An unusable item is replaced by the next usable one of its domain, up to `spares` places further on.
    """

    def __init__(
        self,
        source: Optional[DomainFiles],
        target: Optional[DomainFiles],
        change: Augment,
        seed: int,
        spares: int = 0,
        rare: Optional[RareSampler] = None,
        margins: Margins = (0.0, 0.0, 0.0, 0.0),
        together: int = 1,
        labelled: Optional[DomainFiles] = None,
    ) -> None:
        super().__init__()
        self.margins, self.together = margins, together  # of the target's picture; images of a step
        self.rare = rare  # draws the source's items, where they are not taken in turn
        self.domains = {n: files for n, files in enumerate((source, target, labelled)) if files is not None}
        self.change, self.seed, self.spares = change, seed, spares

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, position: int) -> Sample:
        arrays: list[np.ndarray] = []
        faults: list[Fault] = []
        resized: list[str] = []
        for stream, files in self.domains.items():
            found = self._usable(stream, files, position, faults, resized)
            if found is None:
                return Sample(None, faults, resized)
            arrays += found
        return Sample(arrays, faults, resized)

    def sizes(self) -> list[Sequence[int]]:
        """Width and height of the images of each domain as the network sees them."""
        return [self.change.crop or files.size for files in self.domains.values()]

    def by_name(self, arrays: Sequence, pixels: Pixels) -> dict[str, Tensor]:
        """The columns of a batch under the names that they have in it."""
        rest, found = iter(arrays), {}
        for stream, files in self.domains.items():
            name = ("source", "target", "labelled")[stream]
            found[f"{name}_image"] = normalise(next(rest), pixels)
            if files.labelled:
                found[f"{name}_label"] = next(rest).astype("int64")
        return found

    def names(self, positions: Sequence[int], faults: Sequence[Fault] = ()) -> tuple[str, ...]:
        """The files behind positions, for error messages."""
        passed = [(fault.position, fault.stream) for fault in faults]
        return tuple(
            files.name(self._index(stream, files, position, passed.count((position, stream))))
            for position in positions
            for stream, files in self.domains.items()
        )

    def areas(self, stream: int, positions: Sequence[int]) -> Areas:
        """The part of each image that is not padding; None where the settings never pad."""
        if stream not in self.domains:
            return None
        size = self.domains[stream].size
        width, height = self.change.crop or size
        if size[0] * self.change.scale[0] >= width and size[1] * self.change.scale[0] >= height:
            return None
        sizes = [scaled_size(size, self.change, self._generator(stream, position)) for position in positions]
        return tuple((min(1.0, high / height), min(1.0, wide / width)) for wide, high in sizes)

    def borders(self, positions: Sequence[int]) -> Borders:
        """The margins of the target's picture within each target image; None where there are none."""
        if TARGET not in self.domains or not any(self.margins):
            return None
        size, found = self.domains[TARGET].size, []
        for position in positions:
            rng = self._generator(TARGET, position)
            scaled = scaled_size(size, self.change, rng)
            crop = random_crop(scaled, size, self.change, rng, self._shared(TARGET, position))
            found.append(borders(size, scaled, crop, self.margins))
        return tuple(found)

    def _shared(self, stream: int, position: int) -> Optional[np.random.Generator]:
        """What decides about the mirror where one draw does so for all images of a batch."""
        if not self.change.mirror_together:
            return None
        return np.random.default_rng([self.seed, stream, _TOGETHER, position // self.together])

    def _generator(self, stream: int, position: int, *attempt: int) -> np.random.Generator:
        """The random changes to the image at a position; the first of them is its scale, which no attempt changes."""
        return np.random.default_rng([self.seed, stream, _CHANGE, position, *attempt])

    def _index(self, stream: int, files: DomainFiles, position: int, further: int) -> int:
        if self.rare is not None and stream == SOURCE:
            first = self.rare.draw(position)[1]
        else:
            part, start, length = files.drawn_from(self.seed, position)
            first = start + shuffled_index(self.seed, stream if part is None else part, position, length)
        return (first + further) % len(files)

    def _usable(
        self, stream: int, files: DomainFiles, position: int, faults: list[Fault], resized: list[str]
    ) -> Optional[list[np.ndarray]]:
        for further in range(min(self.spares + 1, len(files))):
            index = self._index(stream, files, position, further)
            try:
                return self._item(stream, files, position, index, resized)
            except Exception as error:  # also what no decoder should raise: Paddle's loader would wait for ever
                name = files.name(index)
                reason = (
                    error if isinstance(error, DataError) else f"cannot read '{name}': {type(error).__name__}: {error}"
                )
                faults.append(Fault(position, stream, files.items[index].image.name, str(reason)))
        return None

    def _item(self, stream: int, files: DomainFiles, position: int, index: int, resized: list[str]) -> list[np.ndarray]:
        rng = self._generator(stream, position)
        size = scaled_size(files.size, self.change, rng)
        reading = files.reading(index, size)
        resized += [reading.note] if reading.note else []
        if reading.label is None:
            crop = random_crop(size, files.size, self.change, rng, self._shared(stream, position))
            return [recoloured(crop.of(reading.image, 0), self.change, rng)]
        cut = reading.label

        def change(attempt: int) -> tuple[Crop, np.random.Generator, np.ndarray]:
            """A crop of the label; its image is cut only where the crop is used."""
            again = self._generator(stream, position, attempt) if attempt else rng
            crop = random_crop(size, files.size, self.change, again, self._shared(stream, position))
            return crop, again, crop.of(cut, IGNORE)

        if self.rare is None or stream != SOURCE:
            crop, rng, label = change(0)
        else:
            wanted, rule = self.rare.draw(position)[0], self.rare.rule
            crop, rng, label = first_good(change, lambda c: is_enough(c[2], wanted, rule), rule.tries)[1]
        return [recoloured(crop.of(reading.image, 0), self.change, rng), label]


def train_batches(
    stream: PairStream, pixels: Pixels, positions: Positions, workers: int, timeout: float, quarantine: Quarantine,
    odd: Resized,
) -> Generator[Batch, None, None]:  # fmt: skip
    """The batches of the stream at `positions`, the same for any number of workers.

    A batch names the files of all ranks, so that all report the same files when a step fails.
    """
    size = batch_bytes(stream.sizes(), positions.batch_size)
    loader = load(stream, positions, collate, workers, size, timeout)
    for number, batch in enumerate(loader, positions.first):
        arrays, faults, resized = separate(batch)
        quarantine.report(faults)
        odd.report(resized)
        if not arrays:
            raise DataError(f"{faults[-1].reason}; no usable item follows within data.quarantine={stream.spares}")
        found = stream.by_name(arrays, pixels)
        yield Batch(
            found.get("source_image"),
            found.get("source_label"),
            found.get("target_image"),
            stream.names(positions.common(number), faults),
            source_areas=stream.areas(SOURCE, positions.own(number)),
            target_areas=stream.areas(TARGET, positions.own(number)),
            target_borders=stream.borders(positions.own(number)),
            positions=tuple(positions.own(number)),
            labelled_image=found.get("labelled_image"),
            labelled_label=found.get("labelled_label"),
        )


def batch_bytes(sizes: Sequence[Sequence[int]], batch_size: int) -> int:
    """Size of one batch of images (width, height) of so many domains, with labels, on its way from a worker."""
    return batch_size * sum(4 * width * height for width, height in sizes)

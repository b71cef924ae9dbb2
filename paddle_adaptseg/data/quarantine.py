"""Unusable items met in training: they travel with the batch, name their file, and stop the run or are passed over.

A loader worker returns a fault as data, because an exception would reach the user as several tracebacks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np

from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.core.files import write_atomically

DOMAINS = ("source", "target", "target_labelled")  # by the number of their stream


class Fault(NamedTuple):
    """An item that could not be used."""

    position: int
    stream: int
    name: str  # of its image, within its root
    reason: str


class Sample(NamedTuple):
    """The arrays of one position, or None when nothing usable was found, and the faults met on the way.

    `resized`: a line for each label that was brought to the size of an image of another size.
    """

    arrays: Optional[list[np.ndarray]]
    faults: list[Fault]
    resized: list[str]


def collate(samples: Sequence[Sample]) -> list:
    """Stacked columns and, last, what was met as text, which loaders leave on the host; of an unusable batch none.

    There an empty array takes the columns' place: Paddle's loader takes a batch without any for the end of the data.
    """
    faults = [fault for sample in samples for fault in sample.faults]
    usable = [sample.arrays for sample in samples if sample.arrays is not None]
    whole = len(usable) == len(samples)
    columns = [np.stack(column) for column in zip(*usable)] if whole else [np.zeros(1, np.uint8)]
    resized = [line for sample in samples for line in sample.resized]
    return [*columns, json.dumps({"usable": whole, "faults": faults, "resized": resized})]


def separate(batch: list) -> tuple[list, list[Fault], list[str]]:
    """What collate() joined: the arrays (none of an unusable batch), the faults, and the labels that were resized."""
    *arrays, text = batch
    record = json.loads(text)
    return arrays if record["usable"] else [], [Fault(*fault) for fault in record["faults"]], record["resized"]


@dataclass
class Resized:
    """The labels of another size than their images that a run met. GTA5 has 62, and the originals train on them."""

    lines: set[str] = field(default_factory=set)
    fresh: list[str] = field(default_factory=list)

    def report(self, lines: Sequence[str]) -> None:
        """Take up the labels of a batch; the first one is news."""
        if lines and not self.lines:
            self.fresh.append(f"{lines[0]}; both are resized to the training size. Further ones are counted at the end")
        self.lines.update(lines)

    def news(self) -> Iterator[str]:
        """Messages for the user since the last call."""
        while self.fresh:
            yield self.fresh.pop(0)

    def total(self, exchange: Callable[[str], list[str]]) -> str:
        """The number of such labels that all ranks met, as a line; empty: none. All ranks must call it."""
        every = {line for text in exchange(json.dumps(sorted(self.lines))) for line in json.loads(text)}
        return f"labels of another size than their images, resized: {len(every)}" if every else ""


@dataclass
class Quarantine:
    """The files that a run passes over, at most `limit`. The entries are part of the training state."""

    limit: int = 0
    entries: dict[str, str] = field(default_factory=dict)  # "source images/00001.png" -> what is wrong
    fresh: list[str] = field(default_factory=list)
    shared: int = 0  # entries that all ranks have

    def report(self, faults: Sequence[Fault]) -> None:
        """Take up the faults of a batch; one too many is an error."""
        for fault in faults:
            key = f"{DOMAINS[fault.stream]} {fault.name}"
            if key in self.entries:
                continue
            if len(self.entries) >= self.limit:
                raise DataError(f"{fault.reason}; {self._advice()}")
            self.add(key, fault.reason)

    def add(self, key: str, reason: str) -> None:
        """List a file."""
        self.entries[key] = reason
        self.fresh.append(f"passed over ({len(self.entries)} of at most {self.limit}): {reason}")

    def is_shared(self) -> bool:
        """Whether the other ranks know of all faults here."""
        return self.shared == len(self.entries)

    def share(self, exchange: Callable[[str], list[str]]) -> None:
        """List the faults of the other ranks; `exchange` gathers the lists of all ranks. All ranks must call it."""
        for text in exchange(json.dumps(self.entries)):
            for key, reason in json.loads(text).items():
                if key not in self.entries:
                    self.add(key, reason)
        self.shared = len(self.entries)
        if len(self.entries) > self.limit:
            raise DataError(f"{next(reversed(self.entries.values()))}; {self._advice()}")

    def news(self) -> Iterator[str]:
        """What was passed over since the last call."""
        while self.fresh:
            yield self.fresh.pop(0)

    def write(self, folder: Path) -> None:
        """The lists quarantine_<domain>.txt, each a valid data.<domain>.exclude; none where nothing is listed."""
        for domain in DOMAINS:
            names = {k.split(" ", 1)[1]: v for k, v in self.entries.items() if k.startswith(f"{domain} ")}
            path = folder / f"quarantine_{domain}.txt"
            if names:
                text = "".join(f"{name}  # {reason}\n" for name, reason in names.items())
                write_atomically(path, lambda handle, text=text: handle.write(text.encode()))
            else:
                path.unlink(missing_ok=True)

    def _advice(self) -> str:
        if self.limit:
            return f"{len(self.entries)} items were passed over already, and data.quarantine allows no more"
        return "mend it or leave it out (tools/check_dataset.py lists all), or pass over up to N with data.quarantine=N"

"""Unusable items met in training: they travel with the batch, name their file, and stop the run or are passed over.

A loader worker returns a fault as data, because an exception would reach the user as several tracebacks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from paddle_adaptseg.errors import DataError
from paddle_adaptseg.files import write_atomically

DOMAINS = ("source", "target")  # by the number of their stream


class Fault(NamedTuple):
    """An item that could not be used."""

    position: int
    stream: int
    name: str  # of its image, within its root
    reason: str


class Sample(NamedTuple):
    """The arrays of one position, or None when nothing usable was found, and the faults met on the way."""

    arrays: Optional[list[np.ndarray]]
    faults: list[Fault]


def collate(samples: Sequence[Sample]) -> list[np.ndarray]:
    """Stacked columns and, last, the faults as text; of an unusable batch the text alone."""
    faults = [fault for sample in samples for fault in sample.faults]
    text = np.frombuffer(json.dumps(faults).encode(), np.uint8).copy()
    if any(sample.arrays is None for sample in samples):
        return [text]
    return [*(np.stack(column) for column in zip(*(sample.arrays for sample in samples))), text]


def separate(batch: list) -> tuple[list, list[Fault]]:
    """What collate() joined: the arrays (none of an unusable batch) and the faults."""
    *arrays, text = batch
    return arrays, [Fault(*fault) for fault in json.loads(text.numpy().tobytes())]


@dataclass
class Quarantine:
    """The files that a run passes over, at most `limit`. The entries are part of the training state."""

    limit: int = 0
    entries: dict[str, str] = field(default_factory=dict)  # "source images/00001.png" -> what is wrong
    fresh: list[str] = field(default_factory=list)

    def meet(self, faults: Sequence[Fault]) -> None:
        """Take up the faults of a batch; one too many is an error."""
        for fault in faults:
            key = f"{DOMAINS[fault.stream]} {fault.name}"
            if key in self.entries:
                continue
            if len(self.entries) >= self.limit:
                raise DataError(f"{fault.reason}; {self._advice()}")
            self.entries[key] = fault.reason
            self.fresh.append(f"passed over ({len(self.entries)} of at most {self.limit}): {fault.reason}")

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

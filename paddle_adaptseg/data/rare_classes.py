"""Rare-class sampling (DAFormer, Hoyer et al., CVPR 2022): source images are drawn by a class that they hold.

The pixels of every class are counted once, in the label files as they are stored, and kept with a digest of the files;
nothing has to be prepared by hand. A draw is a function of (seed, position), the same for any number of workers.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache as remembered
from pathlib import Path
from typing import Callable, Optional, TypeVar

import numpy as np
from tqdm import tqdm

from paddle_adaptseg.config.schema import RareClasses
from paddle_adaptseg.core.errors import DataError, StorageError
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.core.labels import IGNORE
from paddle_adaptseg.core.runtime import cpu_count
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.files import is_archive

T = TypeVar("T")
Total = Callable[[np.ndarray], np.ndarray]  # the sum of an array over all processes
VERSION, _DRAW = 1, 2  # of the file of counts; a random stream beside those of order and change


def probabilities(totals: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Classes in ascending order of their pixels, and softmax((1 - share) / temperature), without absent classes."""
    order = np.argsort(totals, kind="stable")
    order = order[totals[order] > 0]
    score = (1.0 - totals[order] / totals.sum()) / temperature
    weight = np.exp(score - score.max(initial=-np.inf))
    return order, weight / weight.sum()


def files_of(counts: np.ndarray, min_pixels: int) -> dict[int, np.ndarray]:
    """For every class the files [files, classes] with more than `min_pixels` of it."""
    return {c: np.flatnonzero(counts[:, c] > min_pixels) for c in range(counts.shape[1])}


def is_enough(label: np.ndarray, wanted: int, rule: RareClasses) -> bool:
    """Whether a crop of a label holds enough of the class that it was drawn for, and no class too much."""
    counts = np.bincount(label.ravel(), minlength=256)
    if counts[wanted] <= rule.min_pixels * rule.min_crop_ratio:
        return False
    valid = counts[:IGNORE]
    several = np.count_nonzero(valid) > 1 and valid.max() < rule.largest_share * valid.sum()
    return rule.largest_share >= 1.0 or bool(several)


def first_good(load: Callable[[int], T], good: Callable[[T], bool], tries: int) -> tuple[int, T]:
    """load(0), load(1), ... until one is good; the one after `tries` is taken as it is. Also how often was loaded."""
    for attempt in range(tries):
        item = load(attempt)
        if good(item):
            return attempt + 1, item
    return tries + 1, load(tries)


class RareSampler:
    """Which class and file come at a position."""

    def __init__(self, counts: np.ndarray, rule: RareClasses, seed: int) -> None:
        self.rule, self.seed = rule, seed
        classes, chance = probabilities(counts.sum(axis=0), rule.temperature)
        self.files = files_of(counts, rule.min_pixels)
        kept = [i for i, c in enumerate(classes) if len(self.files[int(c)])]
        if not kept:
            raise DataError(
                f"no source label has over data.rare_classes.min_pixels={rule.min_pixels} pixels of a class: lower it"
            )
        self.classes, self.chance = classes[kept], chance[kept] / chance[kept].sum()
        self.unused = [int(c) for c in classes if int(c) not in self.classes]  # in no file often enough

    def draw(self, position: int) -> tuple[int, int]:
        """The class and the file at a position of the stream."""
        rng = np.random.default_rng([self.seed, 0, _DRAW, position])
        wanted = int(rng.choice(self.classes, p=self.chance))
        return wanted, int(rng.choice(self.files[wanted]))

    def note(self, names: Sequence[str]) -> str:
        """What is drawn how often, in one line."""
        shown = ", ".join(f"{names[c]} {100 * p:.1f} %" for c, p in zip(self.classes[:5], self.chance))
        unused = ", ".join(names[c] for c in self.unused)
        return f"rare classes are drawn more often: {shown}, ..." + (
            f"; in no image often enough to be drawn: {unused}" if unused else ""
        )


def class_counts(
    files: DomainFiles, cache: str, rank: int = 0, world: int = 1, total: Total = lambda x: x, spares: int = 0
) -> np.ndarray:
    """Pixels of every class in every label [files, classes] int64, from the cache or counted by all processes.

    Unreadable labels are an error, or count nothing where `spares` may be passed over.
    """
    path = Path(cache) / f"classes_{_digest(files)}.npz" if cache else None
    kept = _read(path, len(files))
    if int(total(np.array([kept is not None]))[0]) == world and kept is not None:
        return kept
    mine = range(rank, len(files), world)
    counts = np.zeros((len(files), _classes(files)), np.int64)

    def count(index: int) -> np.ndarray:
        try:
            return np.bincount(files.label(index).ravel(), minlength=256)[: counts.shape[1]]
        except DataError:
            if not spares:
                raise
            return counts[index]

    with ThreadPoolExecutor(cpu_count()) as pool:  # decoding releases the interpreter
        found = pool.map(count, mine)
        bar = tqdm(found, f"classes of {files.title}", len(mine), unit="label", disable=rank > 0)
        for row, index in zip(bar, mine):
            counts[index] = row
    counts = total(counts)
    if path is not None and rank == 0:
        _write(path, counts)
    return counts


def _classes(files: DomainFiles) -> int:
    return max(int(reader.lut[reader.lut != IGNORE].max()) for reader in files.readers.values()) + 1


def _digest(files: DomainFiles) -> str:
    """A name for what the counts depend on: label files with their sizes and times, and the id tables."""
    recipe = hashlib.sha256(f"{VERSION} {len(files)}".encode())
    for reader in files.readers.values():
        recipe.update(reader.lut.tobytes())

    @remembered
    def stamp(path: str) -> str:
        status = os.stat(path)  # noqa: PTH116 (a hundred thousand files: Path objects cost seconds)
        return f"{status.st_size} {status.st_mtime_ns}"

    for item in files.items:
        if item.label is not None:
            store, name = item.label
            path = store if is_archive(store) else os.path.join(store, name)  # noqa: PTH118
            recipe.update(f"{name} {stamp(path)}\n".encode())
    return recipe.hexdigest()[:20]


def _read(path: Optional[Path], files: int) -> Optional[np.ndarray]:
    """Counts that were kept; damaged ones are counted anew."""
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            counts, check = archive["counts"], str(archive["sha256"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        counts, check = np.zeros((0, 0), np.int64), ""
    if len(counts) == files and check == hashlib.sha256(counts.tobytes()).hexdigest():
        return counts
    print(f"the class counts in '{path}' are damaged: counting again")
    return None


def _write(path: Path, counts: np.ndarray) -> None:
    check = hashlib.sha256(counts.tobytes()).hexdigest()
    try:
        write_atomically(path, lambda handle: np.savez_compressed(handle, counts=counts, sha256=check))
    except StorageError as error:  # they can be counted again
        print(f"the class counts are not kept: {error}")

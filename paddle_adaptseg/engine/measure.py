"""One pass of a network over one domain: everything that reports, tables and criteria need, kept as plain arrays.

Decoding runs ahead in threads and scoring behind in others, while the network computes.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

import numpy as np
from tqdm import tqdm

from paddle_adaptseg import parallel
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.reading import Sample, read_ahead
from paddle_adaptseg.engine.inference import Predictor
from paddle_adaptseg.errors import CheckpointError
from paddle_adaptseg.files import check_file, write_atomically
from paddle_adaptseg.metrics import ConfusionMatrix
from paddle_adaptseg.scores import BINS, boundary_counts, reliability_counts
from paddle_adaptseg.upsample import View, entropy_of, label_of

COARSE = 8  # labels that later checkpoints are compared with are kept at an eighth of the network's input
SCORERS = 2
_META = "meta.json"


@dataclass(frozen=True)
class Scored:
    """One image: counts, and its labels at full and at coarse resolution."""

    matrix: np.ndarray  # [C, C]
    boundary: np.ndarray  # [3, C]
    reliability: np.ndarray  # [3, BINS]
    entropy: float
    label: np.ndarray
    coarse: np.ndarray


@dataclass(frozen=True)
class Measured:
    """One domain: counts by image, and what needs no labels (entropy, coarse labels)."""

    stems: tuple[str, ...]
    matrices: np.ndarray  # [N, C, C] int64
    boundary: np.ndarray  # [3, C]
    reliability: np.ndarray  # [3, BINS]
    entropy: float
    coarse: np.ndarray  # [N, h, w] uint8
    seconds: float

    @property
    def matrix(self) -> ConfusionMatrix:
        """All images' counts in one matrix."""
        matrix = ConfusionMatrix(self.matrices.shape[1])
        matrix.counts, matrix.images = self.matrices.sum(0), len(self.matrices)
        return matrix

    def shares(self) -> np.ndarray:
        """Share of each class in the predictions; no labels are needed for it."""
        counts = np.bincount(self.coarse.ravel(), minlength=self.matrices.shape[1])
        return counts / counts.sum()

    def image_mious(self) -> np.ndarray:
        """mIoU of every image on its own; only to find good and bad ones, never averaged."""
        values = []
        for counts in self.matrices:
            one = ConfusionMatrix(len(counts))
            one.counts = counts
            values.append(one.miou())
        return np.array(values)


def score(views: list[View], sample: Sample, size: tuple[int, int], classes: int, detail: bool) -> Scored:
    """Score one image; without `detail` only the confusion matrix and the labels are made."""
    label, sure = label_of(views, sample.truth.shape, detail)
    matrix = ConfusionMatrix(classes)
    matrix.update(sample.truth, label)
    if not detail:
        return Scored(matrix.counts, np.zeros((3, classes)), np.zeros((3, BINS)), 0.0, label, np.empty((0, 0)))
    known = sample.truth < classes
    right = label == sample.truth
    return Scored(
        matrix.counts,
        boundary_counts(sample.truth, label, classes),
        reliability_counts(sure[known], right[known]),
        entropy_of(views),
        label,
        label_of(views, size)[0],
    )


def scores(
    predictor: Predictor, files: DomainFiles, indices: list[int], classes: int, at_training_size: bool, detail: bool,
    workers: int,
) -> Iterator[tuple[Sample, Scored]]:  # fmt: skip
    """Every image with its scores, in order; a few are in flight at once."""
    samples = read_ahead(files, indices, predictor.options.scales, files.size if at_training_size else None, workers)
    height, width = coarse_size(files)
    waiting: deque[tuple[Sample, Future]] = deque()
    with ThreadPoolExecutor(SCORERS) as pool:
        for sample in tqdm(samples, "evaluate", len(indices), leave=False, unit="image", disable=None):
            views = predictor.views(sample.images)
            waiting.append((sample, pool.submit(score, views, sample, (height, width), classes, detail)))
            if len(waiting) > SCORERS:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def measure(
    predictor: Predictor, files: DomainFiles, indices: list[int], classes: int, at_training_size: bool = False,
    workers: int = 1, each: Optional[Callable[[Sample, Scored], object]] = None,
) -> Measured:  # fmt: skip
    """Everything about a network on one domain, in one pass; `each` is called with every image and its labels.

    Each of several processes measures its share of the images, and all return the same.
    """
    began = time.perf_counter()
    mine, size = parallel.share(indices), coarse_size(files)
    shapes = {"matrix": (classes, classes), "boundary": (3, classes), "reliability": (3, BINS), "coarse": size}
    kinds = {"matrix": np.int64, "coarse": np.uint8}
    rows = {name: np.zeros((len(mine), *shape), kinds.get(name, np.float64)) for name, shape in shapes.items()}
    entropies = np.zeros(len(mine))
    for place, (sample, scored) in enumerate(scores(predictor, files, mine, classes, at_training_size, True, workers)):
        for name, array in rows.items():
            array[place] = getattr(scored, name)
        entropies[place] = scored.entropy
        if each is not None:
            each(sample, scored)
    found = {name: parallel.merged(array, len(indices)) for name, array in rows.items()}
    return Measured(
        tuple(files.stem(index) for index in indices),
        found["matrix"],
        found["boundary"].sum(0),
        found["reliability"].sum(0),
        float(parallel.merged(entropies, len(indices)).mean()),
        found["coarse"],
        time.perf_counter() - began,
    )


def coarse_size(files: DomainFiles) -> tuple[int, int]:
    """Height and width of coarse labels."""
    width, height = files.size
    return max(1, height // COARSE), max(1, width // COARSE)


_ARRAYS = ("matrices", "boundary", "reliability", "coarse")


def save_measured(path: Path, measured: Measured, key: str) -> None:
    """Write a measurement in one atomic step; `key` says what it is a measurement of."""
    meta = {"key": key, "stems": measured.stems, "entropy": measured.entropy, "seconds": measured.seconds}

    def write(handle) -> None:
        with zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in _ARRAYS:
                data = io.BytesIO()
                np.lib.format.write_array(data, getattr(measured, name), allow_pickle=False)
                archive.writestr(f"{name}.npy", data.getvalue())
            archive.writestr(_META, json.dumps(meta))

    write_atomically(path, write)


def load_measured(path: Path, key: str) -> Optional[Measured]:
    """A saved measurement of exactly `key`; None when there is none. A damaged file is an error."""
    try:
        check_file(path)
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read(_META))
            if meta["key"] != key:
                return None
            arrays = {n: np.lib.format.read_array(io.BytesIO(archive.read(f"{n}.npy"))) for n in _ARRAYS}
    except FileNotFoundError:
        return None
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise CheckpointError(f"evaluation '{path}' is damaged ({error}); delete it") from None
    return Measured(stems=tuple(meta["stems"]), entropy=meta["entropy"], seconds=meta["seconds"], **arrays)

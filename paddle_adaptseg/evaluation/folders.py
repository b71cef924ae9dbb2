"""Scores of predictions saved as label PNGs against a data set's label files."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from paddle_adaptseg.core.errors import DataError, shorten
from paddle_adaptseg.core.labels import LabelSpace
from paddle_adaptseg.core.progress import progress
from paddle_adaptseg.data.catalog import LabelSource, dataset_spec
from paddle_adaptseg.data.decode import LABELS, decode_ids
from paddle_adaptseg.data.files import Ref
from paddle_adaptseg.evaluation.metrics import ConfusionMatrix


def score_folders(
    ground_truth: Path, predictions: Path, dataset: str, space: LabelSpace, workers: int
) -> ConfusionMatrix:
    """Compare all label files below `ground_truth` with the predictions of their images; a missing one is an error."""
    for folder in (ground_truth, predictions):
        if not folder.is_dir():
            raise DataError(f"folder '{folder}' does not exist")
    spec = dataset_spec(dataset)
    if not spec.images:
        raise DataError(f"files of {spec.title} have no pattern: name a data set that says how they are called")
    source, names = _labels(ground_truth, spec.labels)
    if source is None:
        wanted = " or ".join(s.pattern.rsplit("/", 1)[-1] for s in spec.labels)
        raise DataError(f"no label file below '{ground_truth}' (expected names like {wanted})")
    tail = spec.images[0].rsplit("/", 1)[-1].rsplit(".", 1)[0]
    pairs = [(path, predictions / f"{tail.replace('{name}', name)}.png") for name, path in names.items()]
    missing = [str(p) for _, p in pairs if not p.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(pairs)} predictions are missing: {shorten(missing, 3)}")
    lut, matrix = space.lut(source.ids), ConfusionMatrix(len(space))

    def one(pair: tuple[Path, Path]) -> ConfusionMatrix:
        ids, labels = LABELS[source.decode](_ref(pair[0])), decode_ids(_ref(pair[1]))
        if ids.shape != labels.shape:
            raise DataError(
                f"prediction '{pair[1]}' is {_size(labels)}, but its ground truth '{pair[0]}' is {_size(ids)}"
            )
        part = ConfusionMatrix(len(space))
        try:
            part.update(cv2.LUT(ids, lut), labels)
        except ValueError as error:
            raise DataError(f"'{pair[1]}': {error}") from None
        return part

    with ThreadPoolExecutor(workers) as pool:  # decoding and counting release the interpreter
        for part in progress(pool.map(one, pairs), "compare", len(pairs)):
            matrix.merge(part)
    return matrix


def _labels(root: Path, sources: tuple[LabelSource, ...]) -> tuple[LabelSource | None, dict[str, Path]]:
    """The first way of naming labels that any file follows, and those files by their {name}."""
    files = sorted(p for p in root.rglob("*.png"))
    for source in sorted(sources, key=lambda s: -len(s.pattern.rsplit("/", 1)[-1])):  # the most specific name first
        pattern = re.escape(source.pattern.rsplit("/", 1)[-1]).replace(r"\{name\}", "(.+)")
        found: dict[str, Path] = {}
        for path in files:
            if match := re.fullmatch(pattern, path.name):
                other = found.setdefault(match[1], path)
                if other != path:
                    raise DataError(f"'{other}' and '{path}' would be compared with one prediction: score them apart")
        if found:
            return source, found
    return None, {}


def _ref(path: Path) -> Ref:
    return Ref(str(path.parent), path.name)


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"

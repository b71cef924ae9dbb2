"""One pass of a network over one domain: a confusion matrix, or everything that reports and tables need.

Images are decoded ahead in threads. On a CPU others make labels and scores while the network computes; on a GPU labels
and counts are made there, and of a plain evaluation nothing but counts is copied to the host.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
from PIL import Image

from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core import distributed
from paddle_adaptseg.core.errors import DataError, StopRequested
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.core.labels import LabelSpace
from paddle_adaptseg.core.progress import progress
from paddle_adaptseg.data import label_space, open_validation
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.reading import Sample, read_ahead
from paddle_adaptseg.evaluation.logits import Logits
from paddle_adaptseg.evaluation.metrics import BINS, ConfusionMatrix, boundary_counts, pair_counts, reliability_counts
from paddle_adaptseg.evaluation.predictor import PLAIN, InferenceOptions, Predictor
from paddle_adaptseg.evaluation.protocol import class_sets
from paddle_adaptseg.evaluation.visual import palette_image
from paddle_adaptseg.models.segmenter import Network

COARSE = 8  # labels that later checkpoints are compared with are kept at an eighth of the network's input
SCORERS = 2  # threads


@dataclass(frozen=True)
class Detail:
    """What a report needs of one image beside its confusion matrix."""

    boundary: np.ndarray  # [3, C]
    reliability: np.ndarray  # [3, BINS]
    entropy: float
    coarse: np.ndarray  # labels at coarse_size()


@dataclass(frozen=True)
class ImageScores:
    """One image: its labels at the ground truth's size, pairs [256, 256] of ground truth and label, and the detail."""

    label: Any
    pairs: Any  # like the label an array, or on a GPU a Tensor
    detail: Optional[Detail] = None

    def matrix(self, classes: int) -> np.ndarray:
        """The confusion matrix [C, C]."""
        matrix = ConfusionMatrix(classes)
        matrix.add_pairs(np.asarray(self.pairs))
        return matrix.counts


@dataclass(frozen=True)
class Measurement:
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


def score(logits: Logits, sample: Sample, coarse: tuple[int, int], classes: int, detail: bool) -> ImageScores:
    """Score one image; without `detail` only its labels and their pairs with the ground truth are made."""
    ground_truth = sample.ground_truth
    if not detail:
        label = logits.labels(ground_truth.shape)
        return ImageScores(label, logits.pair_counts(ground_truth, label))
    label, confidence = map(np.asarray, logits.labels_and_confidence(ground_truth.shape))
    known, right = ground_truth < classes, label == ground_truth
    more = Detail(
        boundary_counts(ground_truth, label, classes),
        reliability_counts(confidence[known], right[known]),
        logits.entropy(),
        np.asarray(logits.labels(coarse)),
    )
    return ImageScores(label, pair_counts(ground_truth, label), more)


def score_images(
    predictor: Predictor, files: DomainFiles, indices: Sequence[int], classes: int, at_training_size: bool = False,
    detail: bool = False, workers: int = 0,
) -> Iterator[tuple[Sample, ImageScores]]:  # fmt: skip
    """Every image with its scores, in order; a few are in flight at once."""
    samples = read_ahead(files, indices, predictor.options.scales, files.size if at_training_size else None, workers)
    coarse, waiting = coarse_size(files), deque[tuple[Sample, Future]]()
    with ThreadPoolExecutor(SCORERS) as pool:
        submit = pool.submit if predictor.kind.on_host else _at_once
        for sample in progress(samples, "evaluate", len(indices)):
            logits = predictor.logits(sample.images)
            waiting.append((sample, submit(score, logits, sample, coarse, classes, detail)))
            if len(waiting) > SCORERS:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _at_once(function: Callable, *arguments: Any) -> Future:
    """Like the submit() of a pool, but in this thread: the only one that may use a GPU."""
    future: Future = Future()
    future.set_result(function(*arguments))
    return future


def measure(
    predictor: Predictor, files: DomainFiles, indices: Sequence[int], classes: int, at_training_size: bool = False,
    workers: int = 1, each: Optional[Callable[[Sample, ImageScores], object]] = None,
) -> Measurement:  # fmt: skip
    """Everything about a network on one domain, in one pass; `each` is called with every image and its labels.

    With several ranks each measures its share of the images, and all return the same.
    """
    began = time.perf_counter()
    mine, count, size = distributed.shard(indices), len(indices), coarse_size(files)
    matrices = np.zeros((len(mine), classes, classes), np.int64)
    boundary, reliability = np.zeros((len(mine), 3, classes)), np.zeros((len(mine), 3, BINS))
    entropy, coarse = np.zeros(len(mine)), np.zeros((len(mine), *size), np.uint8)
    with predictor.ready():
        scored_images = score_images(predictor, files, mine, classes, at_training_size, True, workers)
        for place, (sample, scored) in enumerate(scored_images):
            assert scored.detail is not None  # was asked for
            matrices[place], entropy[place] = scored.matrix(classes), scored.detail.entropy
            boundary[place], reliability[place] = scored.detail.boundary, scored.detail.reliability
            coarse[place] = scored.detail.coarse
            if each is not None:
                each(sample, scored)
    return Measurement(
        tuple(files.stem(index) for index in indices),
        distributed.gather_rows(matrices, count),
        distributed.gather_rows(boundary, count).sum(0),
        distributed.gather_rows(reliability, count).sum(0),
        float(distributed.gather_rows(entropy, count).mean()),
        distributed.gather_rows(coarse, count),
        time.perf_counter() - began,
    )


def coarse_size(files: DomainFiles) -> tuple[int, int]:
    """Height and width of coarse labels."""
    width, height = files.size
    return max(1, height // COARSE), max(1, width // COARSE)


def evaluate_model(
    model: Network, config: Config, files: Optional[DomainFiles] = None, save: Optional[Path] = None,
    options: InferenceOptions = PLAIN, check: Callable[[], object] = lambda: None,
) -> ConfusionMatrix:  # fmt: skip
    """Score a model on the validation domain; `save` also writes label and colour images there.

    `check` is called before every image and may raise StopRequested to interrupt the evaluation, on all ranks when
    one does. With several ranks each scores its share of the images; the counts are those of all.
    """
    space, files = label_space(config), files or open_validation(config)
    matrix, predictor = ConfusionMatrix(len(space)), Predictor(model, config.data.pixels, options.within(config.eval))
    mine, stopped = distributed.shard(range(len(files))), False
    keep = saver(files, range(len(files)), save, space) if save is not None else None
    with predictor.ready():
        try:
            check()
            for sample, scored in score_images(predictor, files, mine, len(space), workers=config.data.workers):
                matrix.counts += scored.matrix(len(space))
                if keep is not None:
                    keep(sample, scored)
                check()
        except StopRequested:
            stopped = True
    if distributed.all_reduce([stopped])[0]:
        raise StopRequested
    matrix.counts, matrix.images = distributed.all_reduce_array(matrix.counts), len(files)
    return matrix


def evaluate(
    origin: str | Path | Sequence[str | Path], config: Optional[Config] = None, overrides: Sequence[str] = (),
    save: Optional[str | Path] = None, weights: Sequence[float] = (), options: InferenceOptions = PLAIN,
) -> tuple[ConfusionMatrix, Config]:  # fmt: skip
    """Score weights on their configuration's validation domain; `save` writes the predictions as images.

    Several origins are an ensemble: their probabilities are averaged with `weights`.
    """
    from paddle_adaptseg.weights.load import load_models  # training measures networks that it has

    origins = [origin] if isinstance(origin, (str, Path)) else list(origin)
    model, config = load_models(origins, config, overrides, weights)
    class_sets(config)  # a wrong protocol is reported before the images are read
    return evaluate_model(model, config, save=Path(save) if save else None, options=options), config


def saver(
    files: DomainFiles, indices: Sequence[int], folder: Path, space: LabelSpace
) -> Callable[[Sample, ImageScores], object]:
    """What writes the prediction of each image into a folder; two images of one name are an error."""
    names: dict[str, int] = {}
    for index in indices:
        other = names.setdefault(files.stem(index), index)
        if other != index:
            both = f"'{files.name(other)}' and '{files.name(index)}'"
            raise DataError(f"{both} would both be written as '{files.stem(index)}.png': evaluate them one by one")
    return lambda sample, scored: save_prediction(np.asarray(scored.label), sample.stem, folder, space)


def save_prediction(prediction: np.ndarray, stem: str, folder: Path, space: LabelSpace) -> None:
    """Write `<stem>.png` with class indices and `<stem>_color.png`, the names that the originals use."""
    for name, drawn in ((stem, Image.fromarray(prediction)), (f"{stem}_color", palette_image(prediction, space))):
        write_atomically(folder / f"{name}.png", lambda handle, drawn=drawn: drawn.save(handle, "PNG"), durable=False)

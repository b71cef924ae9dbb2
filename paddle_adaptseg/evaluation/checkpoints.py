"""Every checkpoint of a run, measured once: finished results are kept, so an interrupted evaluation resumes.

Results lie in RUN/evaluation/<domain>-<digest>/; the digest stands for everything that changes a result (options, data,
network), and each file also carries the digest of its weights, so results of different questions never mix.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import math
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

import numpy as np

from paddle_adaptseg.config.loading import to_plain
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core import distributed
from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.core.files import check_file, sha256, write_atomically
from paddle_adaptseg.data import label_space, open_domain, scored_domain
from paddle_adaptseg.data.reading import Sample, spread
from paddle_adaptseg.evaluation.measure import ImageScores, Measurement, measure, saver, score_images
from paddle_adaptseg.evaluation.metrics import miou_interval, share_agreement
from paddle_adaptseg.evaluation.predictor import Backend, InferenceOptions, Predictor, eager
from paddle_adaptseg.evaluation.protocol import class_sets
from paddle_adaptseg.models.segmenter import Network
from paddle_adaptseg.weights.load import load_model, weights_by_step

FORMAT = 1
SOURCE_LIMIT = 100  # source images, when nothing else is asked for: the source set may have 25 000
POLL = 2.0  # seconds between checks for new weights
_ARRAYS = ("matrices", "boundary", "reliability", "coarse")
_META = "meta.json"


class DomainEvaluator:
    """One domain with its files: evaluates any network on it in the same way."""

    def __init__(
        self, config: Config, domain: str, options: InferenceOptions, limit: Optional[int] = None,
        training_size: bool = False, backend: Backend = eager,
    ) -> None:  # fmt: skip
        self.config, self.domain, self.options = config, domain, options.within(config.eval)
        self.training_size, self.backend = training_size, backend
        self.files, self.classes = open_domain(config, domain), len(label_space(config))
        self.indices = spread(len(self.files), limit or (SOURCE_LIMIT if domain == "source" else None))

    def measure(
        self, model: Network, options: Optional[InferenceOptions] = None,
        each: Optional[Callable[[Sample, ImageScores], object]] = None,
    ) -> Measurement:  # fmt: skip
        """One pass with its own options, or with others."""
        predictor = Predictor(model, self.config.data.pixels, options or self.options, self.backend)
        workers = max(1, self.config.data.workers)
        return measure(predictor, self.files, self.indices, self.classes, self.training_size, workers, each)

    def saver(self, folder: Path) -> Callable[[Sample, ImageScores], object]:
        """What writes the prediction of each of its images into a folder."""
        return saver(self.files, self.indices, folder, label_space(self.config))

    def predict(self, model: Network, places: Sequence[int]) -> list[tuple[Sample, ImageScores]]:
        """The images at some places of its list again, with their labels."""
        predictor = Predictor(model, self.config.data.pixels, self.options, self.backend)
        indices = [self.indices[place] for place in places]
        with predictor.ready():
            return list(score_images(predictor, self.files, indices, self.classes, self.training_size))

    def question(self) -> dict:
        """Everything but the weights that a result depends on."""
        data = self.config.data
        return {
            "format": FORMAT, "domain": self.domain, "options": dataclasses.asdict(self.options),
            "training_size": self.training_size, "images": [self.files.name(i) for i in self.indices],
            "data": to_plain(scored_domain(self.config, self.domain)), "classes": data.classes,
            "pixels": to_plain(data.pixels), "model": to_plain(self.config.model),
        }  # fmt: skip

    def folder(self, run: Path) -> Path:
        """Where a run keeps the answers to this question."""
        text = json.dumps(self.question(), sort_keys=True)
        folder = run / "evaluation" / f"{self.domain}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
        if distributed.is_rank_zero() and not (folder / "question.json").is_file():
            write_atomically(folder / "question.json", lambda handle: handle.write(text.encode()))
        return folder

    def recall(self, folder: Path, name: str, weights: Path, load: Callable[[], Network]) -> Measurement:
        """The kept measurement of a weights file, or a new one that is kept. `load` is called only for a new one.

        Rank 0 decides and writes; the other ranks must see the same folder.
        """
        path, key = folder / f"{name}.npz", sha256(weights)
        found = load_measured(path, key)
        if not distributed.all_reduce([float(distributed.is_rank_zero() and found is not None)])[0]:
            found = self.measure(load())
            if distributed.is_rank_zero():
                save_measured(path, found, key)
        elif found is None:
            raise CheckpointError(f"rank {distributed.rank()} does not see '{path}': let all machines share the folder")
        return found


@dataclass(frozen=True)
class Entry:
    """One checkpoint and what every domain says about it."""

    step: int
    weights: Path
    measured: Mapping[str, Measurement]


def evaluate_run(
    run: Path, evaluators: Sequence[DomainEvaluator], watch: Optional[float], echo: Callable[[str], object]
) -> list[Entry]:
    """Measure all checkpoints of a run in order, keeping each; with `watch`, wait that many seconds for a new one."""
    if not weights_by_step(run) and watch is None:
        raise CheckpointError(f"folder '{run}' holds no weights to evaluate (expected weights/step_*.pdparams)")
    config, entries = evaluators[0].config, []
    primary = next(iter(class_sets(config).values()))
    for step, path in follow(run, config.schedule.stop, watch, echo):
        load = functools.cache(lambda path=path: load_model(path, config)[0])
        measured = {b.domain: b.recall(b.folder(run), path.stem, path, load) for b in evaluators}
        entries.append(Entry(step, path, measured))
        text = ", ".join(f"{d} mIoU {100 * m.matrix.miou(primary):.2f}" for d, m in measured.items())
        echo(f"step {step}  {text}" + ("" if load.cache_info().misses else "  (measured before)"))
    return sorted(entries, key=lambda entry: entry.step)


def follow(run: Path, stop: int, watch: Optional[float], echo: Callable[[str], object]) -> Iterator[tuple[int, Path]]:
    """Weights of a run by step. With `watch`, until step `stop` or until nothing new came for so many seconds."""
    done: set[int] = set()
    since = time.monotonic()
    while True:
        fresh = {step: path for step, path in weights_by_step(run).items() if step not in done}
        for step, path in fresh.items():
            if not path.is_file():
                continue  # the training went back and dropped it
            done.add(step)
            yield step, path
            since = time.monotonic()
        if watch is None or stop in done:
            return
        if not fresh and time.monotonic() - since > watch:
            echo(f"no new weights in '{run}' for {watch:g} s: stopping at step {max(done, default=0)} of {stop}")
            return
        if not fresh:
            time.sleep(min(POLL, watch))


def readings(entries: Sequence[Entry], config: Config) -> list[dict[str, float]]:
    """A row per checkpoint: scores in per cent, the criteria that need no target labels, IoU by class."""
    sets, rows, before = class_sets(config), [], None
    first = next(iter(sets.values()))
    for entry in entries:
        target, source = entry.measured["target"], entry.measured.get("source")
        matrix = target.matrix
        low, high = miou_interval(target.matrices, first)
        row = {"step": entry.step, "miou": 100 * matrix.miou(first), "low": 100 * low, "high": 100 * high}
        row |= {f"mIoU_{name}": 100 * matrix.miou(ids) for name, ids in list(sets.items())[1:]}
        row |= {
            "pixel_accuracy": 100 * matrix.pixel_accuracy(),
            "source_miou": 100 * source.matrix.miou(first) if source else math.nan,
            "entropy": target.entropy,
            "stability": stability(before, target),
            "share_agreement": agreement(source, target),
        }
        names = label_space(config).names
        rows.append(row | {f"IoU_{name}": 100 * iou for name, iou in zip(names, matrix.iou())})
        before = target
    return rows


def stability(before: Optional[Measurement], now: Measurement) -> float:
    """Share of target pixels whose class did not change since the checkpoint before."""
    return float((before.coarse == now.coarse).mean()) if before is not None else math.nan


def agreement(source: Optional[Measurement], target: Measurement) -> float:
    """How alike the predicted classes on the target and the labelled ones of the source are distributed."""
    if source is None:
        return math.nan
    labelled = source.matrices.sum((0, 2)).astype(np.float64)
    return share_agreement(target.shares(), labelled)


def save_measured(path: Path, measured: Measurement, key: str) -> None:
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


def load_measured(path: Path, key: str) -> Optional[Measurement]:
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
    return Measurement(stems=tuple(meta["stems"]), entropy=meta["entropy"], seconds=meta["seconds"], **arrays)

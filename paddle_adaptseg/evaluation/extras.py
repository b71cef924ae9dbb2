"""What only a report shows: the effect of every option, and the best, median and worst image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from paddle_adaptseg.core.labels import LabelSpace
from paddle_adaptseg.data import label_space
from paddle_adaptseg.evaluation.checkpoints import DomainEvaluator
from paddle_adaptseg.evaluation.measure import Measurement
from paddle_adaptseg.evaluation.options import PLAIN
from paddle_adaptseg.evaluation.report import Findings, Shown
from paddle_adaptseg.evaluation.visual import at_size, colourise
from paddle_adaptseg.models.segmenter import Ensemble, Network

IMAGE_WIDTH = 512
ERROR = (230, 40, 40)  # the colour of wrong pixels


def with_extras(
    found: Findings, evaluators: Sequence[DomainEvaluator], model: Network, measured: Mapping[str, Measurement],
    paths: Sequence[Path], baseline: Optional[Network] = None,
) -> Findings:  # fmt: skip
    """Findings with what only the report shows: the effect of each option, and the best, median and worst image."""
    target = next((evaluator for evaluator in evaluators if evaluator.domain == "target"), None)
    if target is None:
        return found
    full = measured["target"]
    return dataclasses.replace(
        found, effects=_effects(target, model, full, found, paths), images=_shown(target, model, full, baseline)
    )


def _effects(
    evaluator: DomainEvaluator, model: Network, full: Measurement, found: Findings, paths: Sequence[Path]
) -> dict[str, float]:
    """Target mIoU of the plain way and of each option on its own, and of each member of an ensemble."""
    ids = next(iter(found.sets.values()))
    effects, scores = evaluator.options.effects(PLAIN.within(evaluator.config.eval)), dict[str, float]()
    if isinstance(model, Ensemble):
        plain = effects["plain"]
        for path, member in zip(paths, model.members):
            scores[f"{path} alone"] = 100 * evaluator.measure(member, plain).matrix.miou(ids)
    for name, options in effects.items():
        measured = full if options == evaluator.options else evaluator.measure(model, options)
        scores[name] = 100 * measured.matrix.miou(ids)
    return scores


def _shown(
    evaluator: DomainEvaluator, model: Network, measured: Measurement, baseline: Optional[Network]
) -> list[Shown]:
    mious, space = measured.image_mious(), label_space(evaluator.config)
    order = [i for i in np.argsort(-mious, kind="stable") if not np.isnan(mious[i])]
    if not order:
        return []
    picks = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    places = list(picks.values())
    before = [scored for _, scored in evaluator.predict(baseline, places)] if baseline is not None else []
    found = []
    for turn, ((word, place), (sample, scored)) in enumerate(zip(picks.items(), evaluator.predict(model, places))):
        labels = {"this model": np.asarray(scored.label)}
        if before:
            labels = {"baseline": np.asarray(before[turn].label), **labels}
        caption = f"{word}: {sample.stem}, {100 * mious[place]:.1f} mIoU on its own classes"
        found.append(_picture(caption, sample.images[0], sample.ground_truth, labels, space))
    return found


def _picture(
    caption: str, image: np.ndarray, ground_truth: np.ndarray, labels: Mapping[str, np.ndarray], space: LabelSpace
) -> Shown:
    """The image, its ground truth, each prediction and each one's errors, at the size of the report."""
    width = min(IMAGE_WIDTH, max(image.shape[1], 192))
    size = (width, round(width * image.shape[0] / image.shape[1]))
    counts = ground_truth < len(space)
    pictures = {"image": at_size(image, size, smooth=True), "ground truth": _drawn(ground_truth, space, size)}
    classes = set(np.unique(ground_truth[counts]).tolist())
    for name, label in labels.items():
        shown = np.where(counts, label, 255).astype(np.uint8)
        classes |= set(np.unique(shown[counts]).tolist())
        pictures[name] = _drawn(shown, space, size)
    for name, label in labels.items():
        wrong = at_size(((label != ground_truth) & counts).astype(np.uint8), size, smooth=False)
        known = at_size(counts.astype(np.uint8), size, smooth=False)[..., None]
        grey = np.repeat(pictures["image"].mean(axis=2, keepdims=True), 3, axis=2)
        pictures[f"errors, {name}"] = (np.where(wrong[..., None] > 0, ERROR, 0.7 * grey) * known).astype(np.uint8)
    return Shown(caption, pictures, sorted(int(index) for index in classes))


def _drawn(label: np.ndarray, space: LabelSpace, size: tuple[int, int]) -> np.ndarray:
    return colourise(at_size(label.astype(np.uint8), size, smooth=False), space)

"""What only a report shows: the effect of every option, and the best, median and worst image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from paddle_adaptseg.data import label_space
from paddle_adaptseg.evaluation.checkpoints import DomainEvaluator
from paddle_adaptseg.evaluation.measure import Measurement
from paddle_adaptseg.evaluation.options import PLAIN
from paddle_adaptseg.evaluation.report import Findings, Shown
from paddle_adaptseg.evaluation.visual import at_size, colourise
from paddle_adaptseg.models.segmenter import Ensemble, Network

IMAGE_WIDTH = 512


def with_extras(
    found: Findings, evaluators: Sequence[DomainEvaluator], model: Network, measured: Mapping[str, Measurement],
    paths: Sequence[Path],
) -> Findings:  # fmt: skip
    """Findings with what only the report shows: the effect of each option, and the best, median and worst image."""
    target = next((evaluator for evaluator in evaluators if evaluator.domain == "target"), None)
    if target is None:
        return found
    full = measured["target"]
    return dataclasses.replace(
        found, effects=_effects(target, model, full, found, paths), images=_shown(target, model, full)
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


def _shown(evaluator: DomainEvaluator, model: Network, measured: Measurement) -> list[Shown]:
    mious, space = measured.image_mious(), label_space(evaluator.config)
    order = [i for i in np.argsort(-mious, kind="stable") if not np.isnan(mious[i])]
    if not order:
        return []
    picks = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    found = []
    for (word, place), (sample, scored) in zip(picks.items(), evaluator.predict(model, list(picks.values()))):
        image = sample.images[0]
        width = min(IMAGE_WIDTH, max(image.shape[1], 192))
        size = (width, round(width * image.shape[0] / image.shape[1]))
        label = np.where(sample.ground_truth < len(space), np.asarray(scored.label), 255).astype(np.uint8)
        ids = [colourise(at_size(part, size, smooth=False), space) for part in (sample.ground_truth, label)]
        images = [at_size(image, size, smooth=True), *ids]
        found.append(Shown(f"{word}: {sample.stem}, {100 * mious[place]:.1f} mIoU on its own classes", *images))
    return found

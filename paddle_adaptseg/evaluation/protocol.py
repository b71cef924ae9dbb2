"""The rule of an evaluation: which class sets are scored, on which images, at which resolution."""

from __future__ import annotations

import math
from collections.abc import Iterator

from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.data import class_set, label_space, scored_domain
from paddle_adaptseg.evaluation.metrics import ConfusionMatrix


def class_sets(config: Config) -> dict[str, list[int]]:
    """Class indices of every protocol, in the order of the configuration; the first one decides what is best."""
    space = label_space(config)
    return {protocol: class_set(space, protocol) for protocol in config.data.protocols or (config.data.classes,)}


def score_scalars(matrix: ConfusionMatrix, config: Config, prefix: str) -> Iterator[tuple[str, float]]:
    """mIoU of every protocol and the IoU of every present class in per cent, named for the log."""
    for index, (protocol, indices) in enumerate(class_sets(config).items()):
        yield (f"{prefix}/mIoU_{protocol}" if index else f"{prefix}/mIoU"), 100 * matrix.miou(indices)
    for name, value in zip(label_space(config).names, matrix.iou()):
        if not math.isnan(value):
            yield f"{prefix}_IoU/{name}", 100 * value


def protocol_line(config: Config, images: int, domain: str = "target", at_training_size: bool = False) -> str:
    """What an evaluation was, in one line."""
    data = scored_domain(config, domain)
    resolution = "the network's input resolution" if at_training_size else "the labels' full resolution"
    return (
        f"protocol: {' and '.join(class_sets(config))}; {images} images of {data.dataset} {data.split}, read at "
        f"{data.size[0]}x{data.size[1]}, scored at {resolution}"
    )

"""Evaluation: logits upsampled to the truth's full resolution, one accumulated confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

import numpy as np
from paddle import Tensor
from PIL import Image

from paddle_adaptseg import parallel
from paddle_adaptseg.config import Config
from paddle_adaptseg.data import class_set, label_space, open_validation, scored_domain
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.engine import counting
from paddle_adaptseg.engine.inference import Inference, Predictor
from paddle_adaptseg.engine.interrupt import Asked
from paddle_adaptseg.engine.measure import scores
from paddle_adaptseg.files import write_atomically
from paddle_adaptseg.labels import LabelSpace
from paddle_adaptseg.losses import entropy_map
from paddle_adaptseg.metrics import ConfusionMatrix
from paddle_adaptseg.models.layers import inference
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.visual import palette_image

PLAIN = Inference()


def predict_label(model: Segmenter, image: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Class indices [H, W] uint8 of one normalised image at `size` (height, width)."""
    return model.predict(image, size).argmax(axis=1).numpy()[0].astype(np.uint8)


def evaluate_model(
    model: Segmenter,
    config: Config,
    files: Optional[DomainFiles] = None,
    save: Optional[Path] = None,
    options: Inference = PLAIN,
    check: Callable[[], object] = lambda: None,
) -> ConfusionMatrix:
    """Score a model on the validation domain; `save` also writes label and colour pictures there.

    `check` is called before every image and may raise Asked to break the evaluation off, for all processes when one
    does. Each of several processes scores its share of the images; the counts are those of all.
    """
    space = label_space(config)
    files = files or open_validation(config)
    matrix = ConfusionMatrix(len(space))
    mine, stopped = parallel.share(range(len(files))), False
    with inference(model):
        try:
            check()
            if counting.on_gpu() and options == PLAIN and save is None:
                matrix.add_pairs(counting.count_all(model, files, mine, config.data, check))
            else:
                predictor = Predictor(model, options, config.data.pixels)
                for sample, scored in scores(predictor, files, mine, len(space), False, False, config.data.workers):
                    matrix.counts += scored.matrix
                    if save is not None:
                        save_prediction(scored.label, sample.stem, save, space)
                    check()
        except Asked:
            stopped = True
    if parallel.meet([stopped])[0]:
        raise Asked
    matrix.counts, matrix.images = parallel.total(matrix.counts), len(files)
    return matrix


def save_prediction(prediction: np.ndarray, stem: str, folder: Path, space: LabelSpace) -> None:
    """Write `<stem>.png` with class indices and `<stem>_color.png`, the names that the originals use."""
    for name, picture in ((stem, Image.fromarray(prediction)), (f"{stem}_color", palette_image(prediction, space))):
        write_atomically(
            folder / f"{name}.png", lambda handle, picture=picture: picture.save(handle, "PNG"), durable=False
        )


def look(model: Segmenter, image: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Prediction [H, W] and normalised entropy [H, W] of one normalised image at its own size."""
    with inference(model):
        logits = model(image)["main"]
        return logits.argmax(axis=1).numpy()[0].astype(np.uint8), entropy_map(logits).numpy()[0]


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
        f"{data.size[0]}x{data.size[1]}, scored at {resolution}; one confusion matrix; "
        "pixels of a class outside a set still count against the classes they are taken for"
    )

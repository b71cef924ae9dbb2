"""The way back to PaddleSeg: weights under its names, a configuration, and the validation data as a list.

`paddleseg.core.evaluate` then gives the IoU of every class that the evaluation here gives: exactly at the images' own
size; at another one PaddleSeg's filter for resizing differs from Pillow's. PaddleSeg counts a class that never occurs
as 0 in its mean, where here it is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PIL import Image

from paddle_adaptseg.config.loading import dump, to_plain
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.config.yamltree import write_tree
from paddle_adaptseg.core.errors import CheckpointError, DataError
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.data import label_space, open_validation
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.files import is_archive
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.weights import arrays_of, save_weights
from paddle_adaptseg.weights.load import load_model

WEIGHTS, CONFIG, LIST = "model.pdparams", "paddleseg.yml", "val.txt"
OWN_KEYS = ("head_rate", "norm_decay", "norm")  # of our model: how it is trained here
HEADER = f"""# Written by paddle_adaptseg for PaddleSeg 2.8. Weights: {WEIGHTS} beside this file. Evaluate it there with
#   python tools/val.py --config {CONFIG} --model_path {WEIGHTS}
# To train on, write train.txt (a line for each image: its path, a tab, its label's path).
"""


def export_paddleseg(
    origin: str | Path, folder: str | Path, config: Optional[Config] = None, overrides: Sequence[str] = ()
) -> list[str]:
    """Write a folder that PaddleSeg evaluates and trains; returns lines that say what is in it."""
    model, config = load_model(origin, config, overrides)
    folder = Path(folder).resolve()
    network, arrays = _network(model, config)
    if config.data.pixels.order != "rgb":
        raise CheckpointError("PaddleSeg feeds RGB, but this network was trained on data.pixels.order=bgr")
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS, arrays, dump(config), {"written_for": "PaddleSeg 2.8"})
    lines = [f"{folder / WEIGHTS}: {len(arrays)} tensors under PaddleSeg's names"]
    try:
        lines += _write_validation(open_validation(config), folder)
    except DataError as error:
        lines.append(f"no {LIST}: {error}; write it yourself, a line for each image: its path, a tab, its label's path")
    text = HEADER + write_tree(_tree(network, model, config, folder))
    write_atomically(folder / CONFIG, lambda handle: handle.write(text.encode()))
    return [*lines, f"{folder / CONFIG}: {network['type']} and its data, for PaddleSeg"]


def _network(model: Segmenter, config: Config) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    """A network as PaddleSeg's `model` section says it, and its tensors by PaddleSeg's names."""
    if config.model.name != "paddleseg":
        raise CheckpointError(
            f"'{config.model.name}' is no network of PaddleSeg: only model.name=paddleseg can be given back to it"
        )
    params = {key: value for key, value in to_plain(config.model.params).items() if key not in OWN_KEYS}
    return params, {re.sub(r"^net\.", "", name): array for name, array in arrays_of(model).items()}


def _write_validation(files: DomainFiles, folder: Path) -> list[str]:
    """The list of validation images, with their labels as train ids beside it; images of archives are copied."""
    lines, scaled = [], False
    for index, item in enumerate(files.items):
        image = Path(item.image.store, item.image.name).resolve()
        if is_archive(item.image.store):
            image = folder / "images" / f"{index:06d}{Path(item.image.name).suffix}"
            data = item.image.read()
            write_atomically(image, lambda handle, data=data: handle.write(data))
        label, ids = folder / "labels" / f"{index:06d}.png", files.label(index)
        write_atomically(label, lambda handle, ids=ids: Image.fromarray(ids).save(handle, "PNG"))
        lines.append(f"{image}\t{label}")
        scaled = scaled or ids.shape[1::-1] != files.size
    write_atomically(folder / LIST, lambda handle: handle.write("\n".join([*lines, ""]).encode()))
    note = "; resized by another filter there, its scores differ a little from those here" if scaled else ""
    return [f"{folder / LIST}: {len(lines)} validation images with labels as train ids{note}"]


def _tree(network: Mapping[str, Any], model: Segmenter, config: Config, folder: Path) -> dict[str, Any]:
    """The configuration."""
    classes, pixels = len(label_space(config)), config.data.pixels
    weights = config.method.params.get("seg_weights") or {}

    def data_set(mode: str, name: str) -> dict[str, Any]:
        resize = {"type": "Resize", "target_size": list(config.data.validation.size), "interp": "AREA"}
        normalise = {"type": "Normalize", "mean": _shares(pixels.mean), "std": _shares(pixels.std)}
        common = {"type": "Dataset", "dataset_root": str(folder), "num_classes": classes, "separator": "\t"}
        return {**common, "transforms": [resize, normalise], "mode": mode, f"{mode}_path": str(folder / name)}

    return {
        "batch_size": config.data.batch_size,
        "iters": config.schedule.stop,
        "model": {**network, "num_classes": classes},
        "train_dataset": data_set("train", "train.txt"),
        "val_dataset": data_set("val", LIST),
        "optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 4.0e-5},
        "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.001, "end_lr": 0.0, "power": 0.9},
        "loss": {"types": [{"type": "CrossEntropyLoss"}], "coef": [weights.get(k, 1.0) for k in model.levels]},
    }


def _shares(values: Sequence[float]) -> list[float]:
    """Numbers of 0 to 255 as shares of 255."""
    return [round(value / 255, 9) for value in values]

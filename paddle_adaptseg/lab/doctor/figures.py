"""Figures of the original programs, replayed by the training step of this package: losses and changes of every family.

`figures.json` holds, for each case, a configuration, what the originals' losses were in every step, and by how much
(l2 norm) each tensor changed in all of them. Weights and images are made from names, so that they need not be shipped.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddle_adaptseg.config.loading import parse_config
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.config.yamltree import write_tree
from paddle_adaptseg.core import runtime
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods import build_method
from paddle_adaptseg.methods.base import Clock, Method
from paddle_adaptseg.models import build_model
from paddle_adaptseg.training.optim import build_players
from paddle_adaptseg.training.step import TrainState, train_step

FIGURES = Path(__file__).with_name("figures.json")
UNUSED = {"dataset": "gta5", "root": "unused", "split": "all", "size": [1, 1]}


def replay(case: Mapping[str, Any]) -> tuple[float, float]:
    """Train from the figures' values: the largest relative difference of any loss, and of any tensor's change."""
    config, before, with_teacher = _configuration(case), {}, "pasted" in case["inputs"]
    with runtime.fresh_names():
        method = _method(config, case["classes"])
        tensors = {n: t for n, t in method.state_dict().items() if not with_teacher or n.startswith("segmenter.")}
        for name, tensor in tensors.items():
            before[name] = values(case["tensors"][name][0], tuple(tensor.shape), case["salt"], with_teacher)
            tensor.set_value(before[name])
        for part in method.parts():
            part.loaded()
        state = TrainState(method, build_players(method, config))
        losses = max(_step(state, config, case, number) for number in range(len(case["steps"])))
    changes = [
        abs(np.linalg.norm(tensor.numpy().astype(np.float64) - before[name]) / norm - 1.0)
        for name, tensor in tensors.items()
        if (norm := case["tensors"][name][1])
    ]
    return losses, float(np.max(changes))  # NaN where any is


def _configuration(case: Mapping[str, Any]) -> Config:
    data = {"source": UNUSED, "target": UNUSED, "validation": UNUSED, "batch_size": case["images"]}
    return parse_config(write_tree({**case["config"], "data": data}), "a figure's configuration")


def _method(config: Config, classes: int) -> Method:
    return build_method(
        config.method, build_model(config.model, classes), classes, lambda: build_model(config.model, classes)
    )


def _step(state: TrainState, config: Config, case: Mapping[str, Any], number: int) -> float:
    """One step; the largest relative difference of its losses. NaN is as wrong as can be."""
    arrays = batch(case["inputs"], number, case["salt"], case["images"], case["classes"])
    given = Batch(*map(paddle.to_tensor, arrays))
    if "pasted" in case["inputs"]:
        _paste(state.method, case["inputs"]["pasted"][number])
    report = train_step(state, Clock(number, config.schedule.horizon, watch=True), config.schedule, iter([given]))
    expected = case["steps"][number]
    differences = [abs(report.losses[name] - value) / max(abs(value), 1e-3) for name, value in expected.items()]
    return float(np.nan_to_num(np.max(differences), nan=np.inf))


def _paste(method: Any, classes: list) -> None:
    """Let self-training paste these classes of each image."""
    ranks = np.full((len(classes), 256), 0.9, np.float32)
    for row, chosen in zip(ranks, classes):
        row[chosen] = 0.1
    method.choices.class_ranks = lambda batch, clock: ranks


# How the inputs behind the figures were made: NumPy only, whose RandomState gives the same numbers everywhere.


def _stream(text: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(text.encode()))


def values(name: str, shape: tuple, salt: str, any_norm: bool) -> np.ndarray:
    """Initial value of the tensor that the figures call `name`; `any_norm`: every 1-D weight is one of a norm."""
    noise = _stream(f"{salt}:{name}").standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return (1 + 0.1 * np.abs(noise)).astype(np.float32)
    if len(shape) == 4:
        return noise * np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
    of_norm = name.endswith("weight") and (any_norm or "bn" in name or "downsample.1" in name)
    return (1 + 0.1 * noise if of_norm else 0.1 * noise).astype(np.float32)


def batch(inputs: Mapping[str, Any], step: int, salt: str, images: int, classes: int) -> tuple[np.ndarray, ...]:
    """Source image, source label and target image of a step; the top eighth of a label is ignored."""
    rng = _stream(f"{salt}:batch:{step}")
    if "size" in inputs:
        return _batch_in_cells(rng, images, inputs["size"], classes, inputs["cell"])
    source, target = (rng.uniform(-110, 140, (images, 3, *inputs[d])).astype(np.float32) for d in ("source", "target"))
    height, width = inputs["source"]
    label = rng.randint(0, classes, (images, height // 8, width // 8)).repeat(8, 1).repeat(8, 2).astype(np.int64)
    label[:, : height // 8] = 255
    return source, label, target


def _batch_in_cells(rng: np.random.RandomState, images: int, size: list, classes: int, cell: int):
    height, width = size
    source, target = (rng.standard_normal((images, 3, height, width)).astype(np.float32) for _ in range(2))
    cells = rng.randint(0, classes, (images, -(-height // cell), -(-width // cell)))
    blocks = rng.randint(0, classes, (images, height // 8, width // 8))
    redrawn = (rng.uniform(size=blocks.shape) < 0.15).repeat(8, 1).repeat(8, 2)
    label = cells.repeat(cell, 1).repeat(cell, 2)[:, :height, :width]
    label = np.where(redrawn, blocks.repeat(8, 1).repeat(8, 2), label).astype(np.int64)
    label[:, : height // 8] = 255
    return source, label, target


def load_figures() -> dict[str, Any]:
    """The cases by name."""
    return json.loads(FIGURES.read_text(encoding="utf-8"))

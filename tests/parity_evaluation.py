"""Replays figures of inference through evaluation's own predictor: whole images, windows, mirroring, rescaling.

Figures lie in tests/parity_* or in $PARITY_DIR. What a figure's `what` says decides how it is replayed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import paddle
import pytest
from parity_networks import classes_of
from parity_self_training import component, files, fill, load_rules

from paddle_adaptseg.config.schema import Eval, Pixels
from paddle_adaptseg.core import runtime
from paddle_adaptseg.evaluation.logits import Logits
from paddle_adaptseg.evaluation.options import InferenceOptions
from paddle_adaptseg.evaluation.predictor import Predictor
from paddle_adaptseg.models import build_model


def parts() -> list:
    """The networks of all files of inference of whole pictures, as parameters of a test."""
    found = [(path, name) for path in files("evaluation") for name, part in read(path).items() if "picture" not in part]
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name in found]


def pictures() -> list:
    """VFM-UDA's figures, which begin with a photograph."""
    found = [(path, name, part) for path in files("evaluation") for name, part in read(path).items()]
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name, part in found if "picture" in part]


def read(path: Path) -> dict[str, dict]:
    """The networks of a file."""
    return json.loads(path.read_text())["networks"]


def sliding(part: dict) -> Eval:
    """Our `eval` section for a figure's `test`, whose sizes are (height, width)."""
    test = part["model"].get("test", {"mode": "whole"})
    if test["mode"] == "whole":
        return Eval()
    return Eval(tuple(test["crop_size"][::-1]), tuple(test["stride"][::-1]))


def run_inference(part: dict) -> np.ndarray:
    """Class probabilities at the original image's size."""
    with runtime.fresh_names():
        ours = component(part["model"])
        network = build_model(ours, classes_of(part["tensors"]))
        fill(network, ours.name, part["tensors"], "G.", part["salt"])
    flip = {"horizontal": True}.get(part["flip"]) if part.get("flip") else False
    assert flip is not None, f"flip '{part['flip']}' is not built"
    image = load_rules().image2(part["salt"], part["input"])
    # The original is given the mirrored image and mirrors its result back; ours mirrors both, as its second view.
    batch = paddle.to_tensor(np.ascontiguousarray(image[..., ::-1]) if flip else image)
    predictor = Predictor(network, Pixels(), InferenceOptions(flip=flip).within(sliding(part)))
    with predictor.ready():
        found: Logits = predictor.logits([batch])
    return np.asarray(type(found)(found.views[-1:], [1.0], found.align_corners).probabilities(part["ori_shape"]))


REPLAYS: Mapping[str, Callable[[dict], np.ndarray]] = {"inference": run_inference}


def run(path: Path, name: str) -> np.ndarray:
    """Class probabilities [C, H, W] of a figure."""
    part = read(path)[name]
    if part.get("what") not in REPLAYS:
        pytest.fail(f"{name}: inference '{part.get('what')}' is not replayed yet")
    return REPLAYS[part["what"]](part)

#!/usr/bin/env python3
"""A peer: this project's predictor, or its ONNX program as ONNX Runtime runs it.

Ways: eager, fp32 and bf16 (Paddle Inference), onnx and int8 (ONNX Runtime).
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import inference_common as common
import numpy as np
from trainer import ROOT, paddle

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core import runtime
from paddle_adaptseg.deploy.export import WRITERS, contract_of, program_of
from paddle_adaptseg.deploy.quantise import quantise
from paddle_adaptseg.deploy.runners import FORMATS
from paddle_adaptseg.evaluation.options import InferenceOptions
from paddle_adaptseg.evaluation.predictor import Predictor, eager
from paddle_adaptseg.evaluation.programs import onednn
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.segmenter import Segmenter

OPEN = contextlib.ExitStack()  # until the process ends


def build(case: common.Case, size: int, way: str):
    runtime.keep_freed_memory()  # as tools/eval.py and tools/predict.py do
    changes = [f"data.validation.size=[{size},{size}]", "eval.window=null", "eval.stride=null", "eval.average=logits"]
    if case.head == "light":
        changes.append(f"model.backbone.image_size={size}")
    config = load_config(ROOT / f"configs/{case.config}.yml", changes)
    model = build_model(config.model, common.CLASSES)
    for name, parameter in model.named_parameters():
        if not name.endswith(("_mean", "_variance")):
            parameter.set_value(common.weights(name, tuple(parameter.shape)))
    model.eval()
    title = f"{runtime.environment()}, {runtime.cpu_count()} threads"
    return (onnx(model, config, size, way) if way in ("onnx", "int8") else prediction(model, config, way)), title


def prediction(model: Segmenter, config: Config, way: str) -> common.Label:
    """As tools/eval.py and tools/predict.py label images."""
    backend, precision = (eager, "fp32") if way == "eager" else (onednn, way)
    predictor = Predictor(model, config.data.pixels, InferenceOptions(precision=precision), backend)
    OPEN.enter_context(predictor.ready())

    def label(image: np.ndarray, watch: common.Stopwatch) -> np.ndarray:
        logits = predictor.logits([image])
        watch.lap("network")
        return np.asarray(logits.labels(image.shape[:2]))

    return label


def onnx(model: Segmenter, config: Config, size: int, way: str) -> common.Label:
    """As tools/export.py writes and tools/predict.py runs it: resize and choice of labels are in the program."""
    folder = Path(OPEN.enter_context(tempfile.TemporaryDirectory()))
    with paddle.no_grad():
        files = WRITERS["onnx"](program_of(model, config, [size, size]), folder, "fp32")
    if way == "int8":
        quantise(
            folder / files[0], [common.picture(number, size) for number in (1000, 1001)]
        )  # none of those that are labelled
    program = FORMATS["onnx"](folder, contract_of(config, model, "onnx", files, "fp32", [size, size]))
    return lambda image, watch: program(image[None])[0].astype(np.uint8)


if __name__ == "__main__":
    common.serve(build)

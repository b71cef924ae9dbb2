#!/usr/bin/env python3
"""A peer: this project's own step. The trainer, the method and the optimiser are those of a real run."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import transformers_common as common

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from paddle_adaptseg.core import runtime  # noqa: E402

runtime.import_paddle()

import paddle  # noqa: E402

from paddle_adaptseg.config.loading import load_config  # noqa: E402
from paddle_adaptseg.cpu import accelerate  # noqa: E402
from paddle_adaptseg.data.batch import Batch  # noqa: E402
from paddle_adaptseg.methods.base import Clock  # noqa: E402
from paddle_adaptseg.training.run import build_state  # noqa: E402
from paddle_adaptseg.training.step import train_step  # noqa: E402

ACCELERATED = contextlib.ExitStack()  # kept, or the session would end with the line that opens it


def changes(case: common.Case, size: int) -> list[str]:
    """What is random in the papers' steps is off."""
    same = ["method.augment=null", "data.batch_size=1", "schedule.warmup=0", "schedule.warmup_ratio=0.0"]
    if case.method == "daformer":
        return [*same, "model.head.dropout=0.0", "model.backbone.drop_path=0.0"]
    return [*same, "method.weak=null", "method.masked.augment=null", f"model.backbone.image_size={size}"]


def build(case: common.Case, size: int, way: str):
    config = load_config(ROOT / f"configs/{case.config}.yml", changes(case, size))
    state = build_state(config)
    runtime.keep_freed_memory()
    if way != "plain":
        ACCELERATED.enter_context(accelerate(state.method))
    for name, parameter in state.method.segmenter.named_parameters():
        if not name.endswith(("_mean", "_variance")):
            parameter.set_value(common.weights(name, tuple(parameter.shape)))
    for part in state.method.parts():
        part.loaded()
    plain = state.method.all_losses

    def step(number: int, arrays: tuple):
        watch = common.Stopwatch()

        def timed(batch, clock):
            watch.lap("labels")
            for phase, terms in zip(common.PHASES[1:], plain(batch, clock)):
                yield terms
                watch.lap(phase)

        state.method.all_losses = timed
        source_image, label, target_image = map(paddle.to_tensor, arrays)
        batches = iter([Batch(source_image, label, target_image)])
        report = train_step(state, Clock(number, config.schedule.horizon), config.schedule, batches)
        watch.lap("update")
        return report.losses, watch.seconds

    name = f"paddle_adaptseg on Paddle {paddle.__version__}, {runtime.cpu_count()} threads"
    return step, {"name": name, "environment": runtime.environment()}


if __name__ == "__main__":
    common.serve(build)

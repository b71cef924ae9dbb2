#!/usr/bin/env python3
"""A peer: this project's own step. The trainer, the method and the optimisers are those of a real run."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import common

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
CONFIG = ROOT / "configs/gta5_cityscapes/adaptsegnet_multi.yml"


def build(source: tuple[int, int], target: tuple[int, int]):
    config = load_config(CONFIG)
    state = build_state(config)
    runtime.keep_freed_memory()
    ACCELERATED.enter_context(accelerate(state.method))
    for name, parameter in state.method.named_parameters():
        parameter.set_value(common.weights(name, tuple(parameter.shape)))
    plain = state.method.losses

    def step(number: int, arrays: tuple):
        watch = common.Stopwatch()

        def timed(batch, clock):
            for phase, terms in zip(common.PHASES, plain(batch, clock)):
                yield terms
                watch.lap(phase)

        state.method.losses = timed
        source_image, label, target_image = map(paddle.to_tensor, arrays)
        batches = iter([Batch(source_image, label, target_image)])
        report = train_step(state, Clock(number, config.schedule.horizon), config.schedule, batches)
        watch.lap("update")
        return report.losses, watch.seconds

    name = f"paddle_adaptseg on Paddle {paddle.__version__}, {runtime.cpu_count()} threads"
    return step, {"name": name, "environment": runtime.environment()}


def multiply() -> float:
    matrix = paddle.randn([2048, 2048])
    return common.best_rate(lambda: paddle.matmul(matrix, matrix), 2048)


if __name__ == "__main__":
    common.serve(build, multiply)

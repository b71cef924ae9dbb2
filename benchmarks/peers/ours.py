#!/usr/bin/env python3
"""A peer: this project's own step. The trainer, the method and the optimisers are those of a real run."""

from __future__ import annotations

import common
from trainer import ROOT, paddle, start, timed_step

from paddle_adaptseg.config.loading import load_config


def build(source: tuple[int, int], target: tuple[int, int]):
    config = load_config(ROOT / "configs/gta5_cityscapes/adaptsegnet_multi.yml")
    state = start(config)
    for name, parameter in state.method.named_parameters():
        parameter.set_value(common.weights(name, tuple(parameter.shape)))
    return timed_step(state, config, common.PHASES)


def multiply() -> float:
    matrix = paddle.randn([2048, 2048])
    return common.best_rate(lambda: paddle.matmul(matrix, matrix), 2048)


if __name__ == "__main__":
    common.serve(build, multiply)

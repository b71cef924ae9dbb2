#!/usr/bin/env python3
"""A peer: this project's own step. The trainer, the method and the optimiser are those of a real run."""

from __future__ import annotations

import transformers_common as common
from trainer import ROOT, start, timed_step

from paddle_adaptseg.config.loading import load_config


def changes(case: common.Case, size: int) -> list[str]:
    """What is random in the papers' steps is off."""
    same = ["method.augment=null", "data.batch_size=1", "schedule.warmup=0", "schedule.warmup_ratio=0.0"]
    more = {
        "dacs": [],
        "daformer": ["model.head.dropout=0.0", "model.backbone.drop_path=0.0"],
        "vfm_uda": ["method.weak=null", "method.masked.augment=null", f"model.backbone.image_size={size}"],
        "hrda": [
            "model.network.head.dropout=0.0",
            "model.network.backbone.drop_path=0.0",
            f"model.crop=[{size},{size}]",
        ],
    }
    return [*same, *more[case.method]]


def build(case: common.Case, size: int, way: str):
    config = load_config(ROOT / f"configs/{case.config}.yml", changes(case, size))
    state = start(config, accelerated=way != "plain")
    for name, parameter in state.method.segmenter.named_parameters():
        if not name.endswith(("_mean", "_variance")):
            parameter.set_value(common.weights(name, tuple(parameter.shape)))
    for part in state.method.parts():
        part.loaded()
    return timed_step(state, config, common.PHASES[1:], first=common.PHASES[0])


if __name__ == "__main__":
    common.serve(build)

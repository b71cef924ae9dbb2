"""From a configuration to what is trained: network, method, players."""

from __future__ import annotations

import itertools
from typing import Callable

import paddle

from paddle_adaptseg import parallel, runtime
from paddle_adaptseg.config import Config
from paddle_adaptseg.data import label_space
from paddle_adaptseg.engine.compiled import compile_segmenter
from paddle_adaptseg.engine.optim import build_players
from paddle_adaptseg.engine.precision import precision_of
from paddle_adaptseg.engine.ranks import synchronise_norms
from paddle_adaptseg.engine.trainer import TrainState
from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.methods import Method, build_method
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.recompute import set_recompute
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.weights.load import fill_segmenter


def check_sizes(config: Config, method: Method) -> None:
    """Refuse to train on images that are too small for the network, and for the method's discriminators."""
    data, least = config.data, method.least_size
    domains = {"source": data.source, "target": data.target} if method.uses_target else {"source": data.source}
    for name, domain in domains.items():
        key, size = ("augment.crop", data.augment.crop) if data.augment.crop else (f"{name}.size", domain.size)
        if min(size) < least:
            raise ConfigError(
                f"data.{key}=[{size[0]}, {size[1]}] is too small for {config.method.name}: "
                f"width and height must be at least {least}"
            )


def build_state(config: Config) -> TrainState:
    """Network, method and optimisers of a configuration, initialised from its seed."""
    runtime.seed_step(config.run.seed, 0)
    names, pixels, seed = label_space(config).names, config.data.pixels, config.run.seed
    segmenter = build_model(config.model, len(names))
    make_segmenter = segmenter_maker(config, len(names))
    method = build_method(config.method, segmenter, len(names), make_segmenter, pixels, seed, names)
    if config.run.sync_norm and parallel.world() > 1:
        synchronise_norms(method)
    check_sizes(config, method)
    precision_of(config.run)  # what this machine cannot do is said now
    set_recompute(method.segmenter, config.run.recompute)
    if config.run.to_static:
        compile_segmenter(method.segmenter)
    return TrainState(method, build_players(method, config))


def segmenter_maker(config: Config, classes: int) -> Callable[..., Segmenter]:
    """What methods are given to build further networks with: each has a seed of its own, derived from the run's."""
    numbers = itertools.count(1)

    def make_segmenter(weights: str = "") -> Segmenter:
        state = paddle.get_rng_state()
        runtime.seed_step(config.run.seed, -next(numbers))
        segmenter = build_model(config.model, classes)
        paddle.set_rng_state(state)  # whatever the method builds next does not depend on this network
        set_recompute(segmenter, config.run.recompute)
        if weights:
            fill_segmenter(segmenter, weights, config)
        return segmenter

    return make_segmenter

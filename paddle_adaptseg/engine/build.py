"""From a configuration to what is trained: network, method, players."""

from __future__ import annotations

from paddle_adaptseg import parallel, runtime
from paddle_adaptseg.config import Config
from paddle_adaptseg.data import label_space
from paddle_adaptseg.engine.memory import prepare
from paddle_adaptseg.engine.optim import build_players
from paddle_adaptseg.engine.ranks import synchronise_norms
from paddle_adaptseg.engine.trainer import TrainState
from paddle_adaptseg.methods import build_method
from paddle_adaptseg.models import build_model


def build_state(config: Config) -> TrainState:
    """Network, method and optimisers of a configuration, initialised from its seed."""
    runtime.seed_step(config.run.seed, 0)
    classes = len(label_space(config))
    method = build_method(config.method, build_model(config.model, classes), classes)
    if config.run.sync_norm and parallel.world() > 1:
        synchronise_norms(method)
    prepare(method, config.run)
    return TrainState(method, build_players(method, config))

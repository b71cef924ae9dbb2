"""Where a run starts: from its configuration and seed, from weights, or at a checkpoint of its own.

Nothing is continued with other settings by accident.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Callable, Optional

import paddle

from paddle_adaptseg.config.loading import differences, parse_config
from paddle_adaptseg.config.schema import Component, Config
from paddle_adaptseg.core import distributed, runtime
from paddle_adaptseg.core.errors import CheckpointError, ConfigError, shorten
from paddle_adaptseg.core.files import delete, write_atomically
from paddle_adaptseg.data import label_space
from paddle_adaptseg.methods import Method, build_method
from paddle_adaptseg.methods.base import Trained
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.recompute import set_recompute
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.training import checkpoint
from paddle_adaptseg.training.allreduce import synchronise_norms
from paddle_adaptseg.training.checkpoint import Snapshot
from paddle_adaptseg.training.optim import build_players
from paddle_adaptseg.training.precision import precision_of
from paddle_adaptseg.training.step import TrainState


def check_sizes(config: Config, method: Method) -> None:
    """Refuse to train on images that are too small for the network, and for the method's discriminators."""
    data, least = config.data, method.least_size
    uses_target = method.uses_target or data.target_labelled is not None
    domains = {**(data.all_sources() if method.uses_source else {}), **({"target": data.target} if uses_target else {})}
    for name, domain in domains.items():
        key, size = ("augment.crop", data.augment.crop) if data.augment.crop else (f"{name}.size", domain.size)
        if min(size) < least:
            raise ConfigError(
                f"data.{key}=[{size[0]}, {size[1]}] is too small for {config.method.name}: "
                f"width and height must be at least {least}"
            )


def check_domains(config: Config, method: Method) -> None:
    """Refuse a method without what it starts from or reads, and settings for what it does not read."""
    data, name = config.data, config.method.name
    if method.uses_source and not data.all_sources():
        raise ConfigError(f"method '{name}' trains on a labelled source: give data.source, or data.sources")
    if method.needs_weights and not config.run.restore_from:
        raise ConfigError(f"method '{name}' starts from a trained network: give its weights with run.restore_from")
    if data.rare_classes is not None and not method.uses_source:
        raise ConfigError(f"data.rare_classes draws source images, and '{name}' reads no source: leave it out")
    if data.rare_classes is not None and len({source.share for source in data.sources.values()}) > 1:
        raise ConfigError("data.rare_classes draws images by class, not by share: leave out data.sources.<name>.share")


def method_component(config: Config) -> Component:
    """The method, with the addition that trains on labelled target images where there are any."""
    component, key = config.method, "target_labelled"
    if config.data.target_labelled is None:
        if component.params.get(key) is not None:
            raise ConfigError(f"method.{key} weighs labelled target images: say which ones with data.{key}")
        return component
    return Component(component.name, {**component.params, key: component.params.get(key) or {}})


def build_state(config: Config) -> TrainState:
    """Network, method and optimisers of a configuration, initialised from its seed."""
    component = method_component(config)
    runtime.seed_step(config.run.seed, 0)
    names, pixels, seed = label_space(config).names, config.data.pixels, config.run.seed
    segmenter = build_model(config.model, len(names))
    make_segmenter = segmenter_maker(config, len(names))
    trained = trained_opener(config)
    method = build_method(component, segmenter, len(names), make_segmenter, pixels, seed, names, trained)
    if config.run.sync_norm and distributed.world() > 1:
        synchronise_norms(method)
    check_domains(config, method)
    check_sizes(config, method)
    precision = precision_of(config.run)  # what this machine cannot do is reported now
    set_recompute(method.segmenter, config.run.recompute)
    return TrainState(method, build_players(method, config), precision=precision)


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
            from paddle_adaptseg.weights.load import fill_segmenter

            fill_segmenter(segmenter, weights, config)
        return segmenter

    return make_segmenter


def trained_opener(config: Config) -> Callable[[str], Trained]:
    """What methods are given to open a trained network with, each as its own weights file configures it."""

    def trained(origin: str) -> Trained:
        from paddle_adaptseg.weights.load import load_trained

        state = paddle.get_rng_state()
        network, own = load_trained(origin)
        paddle.set_rng_state(state)  # whatever the method builds next does not depend on this network
        return Trained(network, own.data.pixels, tuple(label_space(own).names))

    return trained


def starting_point(
    folder: Path, config: Config, resume: Optional[str], overwrite: bool, accept_changes: bool
) -> tuple[Optional[Snapshot], str]:
    """The snapshot to continue from, if any, and a line about changes that were accepted."""
    if resume is None:
        steps = checkpoint.list_steps(folder)
        if steps and not overwrite:
            raise CheckpointError(
                f"'{folder}' already holds a run at step {steps[-1]}: continue it with --continue-train, "
                "name another folder with --checkpoint-dir, or start it anew with --overwrite"
            )
        return None, ""
    snapshot = checkpoint.find_state(folder, resume, lambda text: print(f"note: {text}"))
    changed = _changes(snapshot, config, folder) if snapshot else []
    if changed and not accept_changes:
        raise CheckpointError(
            f"the run in '{folder}' was trained with another configuration ({shorten(changed)}): use its own, continue "
            "from here with these changes by --accept-changes, or start another run with --checkpoint-dir"
        )
    return snapshot, f"continuing with changes: {shorten(changed)}" if changed else ""


def _changes(snapshot: Snapshot, config: Config, folder: Path) -> list[str]:
    """What differs from the run so far and lets it compute other numbers."""
    try:
        old = parse_config(
            str(snapshot.record["config"]), f"configuration inside the checkpoint of step {snapshot.step}"
        )
    except ConfigError as error:
        raise CheckpointError(f"'{folder}' was written by another version of this program: {error}") from None
    before, now = snapshot.record.get("paddle", paddle.__version__), paddle.__version__
    return differences(old, config) + ([f"Paddle: {before} -> {now}"] if before != now else [])


def restore_best(folder: Path, best_step: int, step: int) -> str:
    """Let best.pdparams be the best network up to `step`; returns what the user should know.

    It is written again from `best_step`'s file in weights/. Without that file it stays as it is, unless its own record
    says that it is of a later step.
    """
    weights, best = folder / "weights" / f"step_{best_step:08d}.pdparams", folder / "best.pdparams"
    if best_step and weights.is_file():
        data = weights.read_bytes()
        write_atomically(best, lambda handle: handle.write(data))
    elif best.is_file():
        own = _trained_steps(best)
        if own is None:
            return f"'{best}' does not record its step; it was left unchanged"
        if own > step:
            delete(best)
            return f"'{best}' was deleted: it is of step {own}, and the run continues from step {step}"
    return ""


def _trained_steps(path: Path) -> Optional[int]:
    """The step that a weights file of ours records; None: it has no such record, or cannot be read."""
    from paddle_adaptseg.weights.reader import read_weights

    try:
        steps = read_weights(path).origin.get("trained_steps")
    except CheckpointError:
        return None
    return steps if isinstance(steps, int) else None


def set_start(state: TrainState, snapshot: Optional[Snapshot], config: Config, echo: Callable[[str], object]) -> None:
    """Bring a freshly built state to where it starts: a snapshot, weights for the trained network, or as it is."""
    if snapshot is not None:
        state.restore(snapshot)
        return
    if config.run.restore_from:
        from paddle_adaptseg.weights.load import fill_segmenter  # readers of all formats: most starts need none

        echo(fill_segmenter(state.method.segmenter, config.run.restore_from, config, config.run.restore_partial))
    with paddle.no_grad():
        for part in state.method.parts():
            part.loaded()

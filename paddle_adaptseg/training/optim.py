"""Players to optimisers, and the learning rate as a pure function of the step.

Optimiser state is stored under structured parameter names ("segmenter.backbone.conv1.weight/velocity_0"), never under
Paddle's automatic ones, so the order in which things were built does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

import numpy as np
import paddle

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.config.optim import SGD, Adam, AdamW, LegacySGD, Optim, Optimiser
from paddle_adaptseg.config.schema import Config, Schedule
from paddle_adaptseg.core import distributed
from paddle_adaptseg.core.errors import CheckpointError, ConfigError, shorten, suggest
from paddle_adaptseg.methods.base import Method
from paddle_adaptseg.models.segmenter import ParamGroup


def poly(step: int, schedule: Schedule) -> float:
    """The factor on every learning rate: linear warm-up, then (1 - step/horizon)^power."""
    if schedule.warmup_alone and step < schedule.warmup:
        return schedule.warmup_ratio + (1.0 - schedule.warmup_ratio) * step / max(1, schedule.warmup - 1)
    decayed = (1.0 - step / schedule.horizon) ** schedule.power
    if step >= schedule.warmup:
        return decayed
    if schedule.warmup_ratio == 0.0:
        return step / schedule.warmup
    return decayed * (1.0 - (1.0 - step / schedule.warmup) * (1.0 - schedule.warmup_ratio))


def common_batch(config: Config) -> int:
    """Images of each domain in a step of all processes."""
    return config.data.batch_size * config.schedule.iter_size * distributed.world()


def batch_factor(config: Config) -> float:
    """What the number of images in a step does to every learning rate."""
    return lookup(BATCH_RULES, config.schedule.batch_rule, "schedule.batch_rule")(common_batch(config))


BATCH_RULES: Mapping[str, Callable[[int], float]] = {"fixed": lambda images: 1.0, "sqrt": math.sqrt}


def set_learning_rates(players: Mapping[str, Player], factor: float) -> dict[str, float]:
    """Set every player's learning rates and return them by the name of their curve."""
    rates: dict[str, float] = {}
    for name, player in players.items():
        for group, lr in player.set_learning_rate(factor).items():
            rates[f"{name}_{group}" if group in rates else group] = lr
    return rates


class LegacyMomentum:
    """The momentum step of 2018, in which a tensor listed n times in its group was updated n times.

    Each turn adds weight decay into the gradient in place, so decay accumulates. The released numbers were trained so.
    """

    def __init__(self, groups: Sequence[ParamGroup], momentum: float, weight_decay: float) -> None:
        self.groups, self.momentum, self.weight_decay = groups, momentum, weight_decay
        self.lr = 0.0
        self.velocity: dict[str, paddle.Tensor] = {}

    def set_lr(self, value: float) -> None:
        self.lr = value

    @paddle.no_grad()
    def step(self) -> None:
        for group in self.groups:
            for parameter in group.parameters:
                if parameter.grad is not None:
                    self._update(parameter, self.lr * group.lr_factor, self.weight_decay * group.decay, group.listings)

    def _update(self, parameter: paddle.Tensor, learning_rate: float, decay: float, listings: int) -> None:
        gradient = parameter.grad.clone()
        key = f"{parameter.name}_velocity_0"
        velocity = self.velocity.get(key, paddle.zeros_like(gradient))
        for _ in range(listings):
            gradient = gradient + decay * parameter
            velocity = self.momentum * velocity + gradient
            parameter.subtract_(learning_rate * velocity)
        self.velocity[key] = velocity

    def clear_grad(self, set_to_zero: bool) -> None:
        for group in self.groups:
            for parameter in group.parameters:
                parameter.clear_gradient(set_to_zero)

    def state_dict(self) -> dict[str, paddle.Tensor]:
        return dict(self.velocity)

    def set_state_dict(self, state: Mapping[str, paddle.Tensor]) -> None:
        self.velocity = {k: paddle.to_tensor(v) for k, v in state.items()}


class Player:
    """One optimiser with its parameter groups and learning rate."""

    def __init__(
        self, groups: Sequence[ParamGroup], names: Mapping[str, str], settings: Optimiser, factor: float = 1.0
    ) -> None:
        """`names` maps Paddle's automatic parameter names to structured ones; `factor` is on every learning rate."""
        self.groups = [g for g in groups if g.parameters]
        self.names, self.lr = names, settings.lr * factor
        self.waiting: dict[str, np.ndarray] = {}  # loaded, and not yet taken up by a step
        self.optimiser = BUILDERS[type(settings)](self.groups, settings)

    def set_learning_rate(self, factor: float) -> dict[str, float]:
        """Set the learning rate to `factor` times the configured one and return that of each group."""
        self.optimiser.set_lr(self.lr * factor)
        return {g.name: self.lr * factor * g.lr_factor for g in self.groups}

    def step(self) -> None:
        self.optimiser.step()
        self.clear()

    def clear(self) -> None:
        """Drop this step's gradients; kept as zeros they would lie beside the next step's activations."""
        self.optimiser.clear_grad(set_to_zero=False)

    def gradients(self) -> list[tuple[str, paddle.Tensor]]:
        """Gradients by structured parameter name."""
        return [(name, p.grad) for name, p in self._parameters().items() if p.grad is not None]

    def parameters(self) -> list[paddle.Tensor]:
        """What the optimiser steps."""
        return [p for group in self.groups for p in group.parameters]

    def state(self) -> dict[str, np.ndarray]:
        """Optimiser state as arrays under structured names."""
        arrays = {}
        for key, value in self.optimiser.state_dict().items():
            owner = next((n for n in self.names if key.startswith(n + "_")), None)
            if owner is not None:
                arrays[f"{self.names[owner]}/{key[len(owner) + 1 :]}"] = np.asarray(value)
        # Paddle 2.6 does not return what it has loaded before a step has used it.
        self.waiting = {key: value for key, value in self.waiting.items() if key not in arrays}
        return {**self.waiting, **arrays}

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restore what state() returned; a name that is not ours is an error."""
        automatic = {structured: name for name, structured in self.names.items()}
        known = self._parameters()
        unknown = [key for key in arrays if key.count("/") != 1 or key.split("/")[0] not in known]
        if unknown:
            raise CheckpointError(f"optimiser state for unknown parameters: {shorten(unknown)}")
        odd = [k for k, v in arrays.items() if v.size != 1 and list(v.shape) != list(known[k.split("/")[0]].shape)]
        if odd:
            raise CheckpointError(f"optimiser state of another shape: {shorten(odd)}")
        self.waiting = dict(arrays)
        self.optimiser.set_state_dict(
            {"{}_{}".format(automatic[k.split("/")[0]], k.split("/")[1]): v for k, v in arrays.items()}
        )

    def _parameters(self) -> dict[str, paddle.Tensor]:
        return {self.names[p.name]: p for group in self.groups for p in group.parameters}


def _momentum(groups: Sequence[ParamGroup], settings: SGD):
    return paddle.optimizer.Momentum(
        settings.lr, settings.momentum, _grouped(groups, settings.weight_decay), weight_decay=settings.weight_decay
    )


def _legacy_momentum(groups: Sequence[ParamGroup], settings: LegacySGD):
    return LegacyMomentum(groups, settings.momentum, settings.weight_decay)


def _adam(groups: Sequence[ParamGroup], settings: Adam):
    parameters = _grouped(groups, settings.weight_decay or None)  # with 0.0 zeros would be added to every gradient
    return paddle.optimizer.Adam(settings.lr, settings.beta1, settings.beta2, parameters=parameters)


def _adamw(groups: Sequence[ParamGroup], settings: AdamW):
    parameters = _grouped(groups, settings.weight_decay)
    return paddle.optimizer.AdamW(settings.lr, settings.beta1, settings.beta2, parameters=parameters)


BUILDERS: Mapping[type, Callable[..., Any]] = {
    SGD: _momentum,
    LegacySGD: _legacy_momentum,
    Adam: _adam,
    AdamW: _adamw,
}


def _grouped(groups: Sequence[ParamGroup], weight_decay: Optional[float]) -> list[dict]:
    # A Paddle group's "learning_rate" multiplies the optimiser's (10.0 is the 10x head); "weight_decay" replaces it.
    return [
        {
            "params": list(g.parameters),
            "learning_rate": g.lr_factor,
            "weight_decay": None if weight_decay is None else g.decay * weight_decay,
        }
        for g in groups
    ]


def build_players(method: Method, config: Config) -> dict[str, Player]:
    """An optimiser for each of the method's players; every trainable parameter must belong to exactly one group."""
    names = {p.name: name for name, p in method.named_parameters()}
    players = method.players()
    for name in config.optim:
        if name not in players and name not in Optim():  # most configurations inherit an optimiser of both of these
            method_name = config.method.name
            raise ConfigError(f"optim.{name}: method '{method_name}' has no such player: {suggest(name, players)}")
    listed = [p.name for groups in players.values() for g in groups for p in g.parameters]
    trainable = [p.name for p in method.parameters() if not p.stop_gradient]
    if sorted(listed) != sorted(trainable):
        odd = [names.get(n, n) for n in {*listed, *trainable} if listed.count(n) != trainable.count(n)]
        raise AssertionError(
            f"players() must list every trainable parameter exactly once, and none whose stop_gradient is set: "
            f"{shorten(sorted(odd))}"
        )
    factor = batch_factor(config)
    return {name: Player(groups, names, config.optim[name], factor) for name, groups in players.items()}

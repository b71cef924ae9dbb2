"""The optimisers that a configuration may name, and which player has which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Union

from paddle_adaptseg.config.conversion import check_keys, convert, dotted, lookup


@dataclass(frozen=True)
class SGD:
    """SGD with momentum; the defaults are those of the 2018 papers' segmenters."""

    lr: float = 2.5e-4
    momentum: float = 0.9
    weight_decay: float = 5e-4


@dataclass(frozen=True)
class LegacySGD(SGD):
    """The same, but each tensor's update is repeated as the 2018 optimiser did (docs/methods.md)."""


@dataclass(frozen=True)
class Adam:
    """Adam; the defaults are those of AdaptSegNet's discriminators. Weight decay is added to the gradient."""

    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay; the defaults are those of DAFormer."""

    lr: float = 6e-5
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01


Optimiser = Union[SGD, Adam, AdamW]
OPTIMISERS: Mapping[str, type[Optimiser]] = {"sgd": SGD, "legacy_sgd": LegacySGD, "adam": Adam, "adamw": AdamW}


class Optim(dict[str, Optimiser]):
    """The optimiser of each player, by the player's name; one that is not named has Adam."""

    def __init__(self, players: Mapping[str, Optimiser] = MappingProxyType({})) -> None:
        super().__init__({"segmenter": SGD(), "discriminators": Adam(), **players})

    def __missing__(self, player: str) -> Optimiser:
        return Adam()

    @classmethod
    def from_plain(cls, value: Any, path: str) -> Optim:
        """Read `{player: {name: adamw, lr: ...}}`; without a name the segmenter has sgd, every other player adam."""
        check_keys(value, value, path)
        return cls({str(player): _optimiser(value[player], str(player), dotted(path, player)) for player in value})

    def to_plain(self) -> dict[str, Any]:
        names = {kind: name for name, kind in OPTIMISERS.items()}
        return {player: {"name": names[type(chosen)], **vars(chosen)} for player, chosen in self.items()}


def _optimiser(value: Any, player: str, path: str) -> Optimiser:
    check_keys(value, value, path)
    settings = {"name": "sgd" if player == "segmenter" else "adam", **value}
    name = str(settings.pop("name"))
    if "legacy_updates" in settings and name in ("sgd", "legacy_sgd"):  # how legacy_sgd was spelled first
        legacy = convert(settings.pop("legacy_updates"), bool, dotted(path, "legacy_updates"))
        name = "legacy_sgd" if legacy else "sgd"
    return convert(settings, lookup(OPTIMISERS, name, f"'{dotted(path, 'name')}'"), path)

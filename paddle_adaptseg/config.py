"""One configuration: frozen dataclasses read from YAML with base files and dotted overrides, checked once, at load.

A file's `base: [..]` are merged left to right, then the file itself, then `key.path=value` overrides. The resolved
configuration can be dumped and is itself a valid file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.schema import convert, dotted
from paddle_adaptseg.yamltree import override_tree, parse_tree, read_tree


@dataclass(frozen=True)
class Component:
    """A model or method: its name in the table, and keywords that its constructor checks."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_plain(cls, value: Any, path: str) -> Component:
        """Read `{name: x, other: ...}`."""
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ConfigError(f"'{path}' must be a mapping with a 'name', not {value!r}")
        return cls(value["name"], {k: v for k, v in value.items() if k != "name"})

    def to_plain(self) -> dict[str, Any]:
        return {"name": self.name, **self.params}


@dataclass(frozen=True)
class Domain:
    """Where images come from: a row of the data catalog, its folder, the split, and the size the network sees."""

    dataset: str
    root: str
    split: str
    size: tuple[int, int]  # width, height


@dataclass(frozen=True)
class Pixels:
    """How 8-bit RGB becomes network input; part of what the weights were trained with (default: Caffe's BGR)."""

    order: str = "bgr"
    mean: tuple[float, float, float] = (104.00698793, 116.66876762, 122.67891434)  # in the order above
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Augment:
    """Random changes to training images, each a function of (seed, position)."""

    mirror: bool = False


@dataclass(frozen=True)
class Data:
    source: Domain
    target: Domain
    validation: Domain
    classes: str = "cityscapes_19"
    pixels: Pixels = field(default_factory=Pixels)
    augment: Augment = field(default_factory=Augment)
    batch_size: int = 1
    workers: int = 2


@dataclass(frozen=True)
class SegmenterOptim:
    """Momentum SGD; `legacy_updates` repeats each tensor's update as the 2018 optimiser did (docs/methods.md)."""

    lr: float = 2.5e-4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    legacy_updates: bool = False


@dataclass(frozen=True)
class CriticsOptim:
    """Adam for the discriminators."""

    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99


@dataclass(frozen=True)
class Optim:
    segmenter: SegmenterOptim = field(default_factory=SegmenterOptim)
    critics: CriticsOptim = field(default_factory=CriticsOptim)


@dataclass(frozen=True)
class Schedule:
    """Rate = lr * (1 - step/horizon)^power. The originals set the horizon to 250k but stop at 150k."""

    horizon: int = 250_000
    stop: int = 150_000
    power: float = 0.9
    warmup: int = 0
    iter_size: int = 1


@dataclass(frozen=True)
class Run:
    """Where the run writes, how often, and what it starts from."""

    output: str = "checkpoint/run"
    seed: int = 0
    device: str = "auto"
    log_every: int = 10
    eval_every: int = 5000
    save_every: int = 5000
    keep: int = 3
    restore_from: str = ""
    restore_partial: bool = False


@dataclass(frozen=True)
class Config:
    model: Component
    method: Component
    data: Data
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    run: Run = field(default_factory=Run)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file with its bases and apply `key.path=value` overrides."""
    origins: dict[str, str] = {}
    tree = read_tree(Path(path), origins)
    for text in overrides:
        override_tree(tree, text, origins)
    return _convert(tree, origins, str(path))


def parse_config(text: str, name: str = "config") -> Config:
    """Read a resolved configuration from YAML text, as it is saved with a run and inside its weights."""
    return _convert(parse_tree(text, name), {}, name)


def override(config: Config, *overrides: str) -> Config:
    """A copy of `config` with `key.path=value` overrides applied."""
    tree, origins = to_plain(config), {}
    for text in overrides:
        override_tree(tree, text, origins)
    return _convert(tree, origins, "config")


def dump(config: Config) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, default_flow_style=None, allow_unicode=True)


# What may change between the parts of one run without changing what it computes.
_FREE = ("run.", "data.workers", "schedule.stop", "data.source.root", "data.target.root", "data.validation.root")


def differences(old: Config, new: Config) -> list[str]:
    """A line per key in which a run cannot be continued: 'key: old -> new'."""
    before, after = _flat(to_plain(old)), _flat(to_plain(new))
    keys = [k for k in {**before, **after} if k == "run.seed" or not k.startswith(_FREE)]
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)]


def _flat(tree: Mapping, path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        where = dotted(path, key)
        flat.update(_flat(value, where) if isinstance(value, Mapping) else {where: value})
    return flat


def to_plain(value: Any) -> Any:
    """Dataclasses as nested plain dicts and lists."""
    if hasattr(value, "to_plain"):
        return to_plain(value.to_plain())
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    return value


def _convert(tree: Mapping, origins: Mapping[str, str], name: str) -> Config:
    try:
        config = convert(tree, Config, "")
    except ConfigError as error:
        quoted = str(error).split("'")  # messages quote the dotted path first
        where = origins.get(quoted[1].split("[")[0] if len(quoted) > 1 else "", name)
        raise ConfigError(f"{where}: {error}") from None
    _check_ranges(config, name)
    return config


def _check_ranges(config: Config, name: str) -> None:
    data, schedule, run = config.data, config.schedule, config.run
    positive = {
        "data.batch_size": data.batch_size,
        "schedule.horizon": schedule.horizon,
        "schedule.iter_size": schedule.iter_size,
        "run.log_every": run.log_every,
        "run.save_every": run.save_every,
        "run.keep": run.keep,
        **{f"data.{d}.size": min(getattr(data, d).size) for d in ("source", "target", "validation")},
        "data.pixels.std": min(data.pixels.std),
    }
    for path, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{name}: '{path}' must be more than 0, not {value}")
    for path, value in {"data.workers": data.workers, "run.eval_every": run.eval_every, "run.seed": run.seed}.items():
        if value < 0:
            raise ConfigError(f"{name}: '{path}' must not be negative, but is {value}")
    if not 0 <= schedule.stop <= schedule.horizon:
        raise ConfigError(f"{name}: 'schedule.stop' ({schedule.stop}) must lie in 0..schedule.horizon")
    if data.pixels.order not in ("rgb", "bgr"):
        raise ConfigError(f"{name}: 'data.pixels.order' must be rgb or bgr, not '{data.pixels.order}'")

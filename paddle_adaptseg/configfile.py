"""Configurations from YAML and back, checked once, at load.

A file's `base: [..]` are merged left to right, then the file itself, then `key.path=value` overrides. The resolved
configuration can be dumped and is itself a valid file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from paddle_adaptseg.config import Config
from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.schema import convert, dotted
from paddle_adaptseg.yamltree import override_tree, parse_tree, read_tree


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
_FREE = ("run.", "data.workers", "data.cache", "data.protocols", "data.validation.", "schedule.stop",
         "data.source.root", "data.target.root")  # fmt: skip


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

"""Configurations from YAML and back, checked once, at load.

A file's `base: [..]` are merged left to right, then the file itself, then `key.path=value` overrides. The resolved
configuration can be dumped and is itself a valid file.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from paddle_adaptseg.config.conversion import check_plugins, convert, dotted, import_plugins
from paddle_adaptseg.config.schema import AVERAGES, Config, Data, Eval
from paddle_adaptseg.config.yamltree import (
    Origins,
    check_text,
    override_tree,
    parse_tree,
    read_tree,
    rename_keys,
    write_tree,
)
from paddle_adaptseg.core.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent.parent
# The configurations of the project: inside an installed package, or beside it in a clone.
SHIPPED = next((f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir()), _PACKAGE / "configs")


def find_config(name: str | Path) -> Path:
    """A YAML file, or one of the project's own by its name: `gta5_cityscapes/adaptsegnet_multi`."""
    path = Path(name)
    if path.is_file() or path.is_absolute():
        return path
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    shipped = [SHIPPED / inside, SHIPPED / f"{inside}.yml"]
    return next((file for file in shipped if file.is_file()), path)


def shipped_configs() -> list[str]:
    """The names of the project's own configurations."""
    files = (file.relative_to(SHIPPED) for file in SHIPPED.rglob("*.yml"))
    return sorted(file.with_suffix("").as_posix() for file in files if not file.parts[0].startswith("_"))


def load_config(path: str | Path, overrides: Iterable[str] = (), own: bool = True) -> Config:
    """Read a YAML file, or one of the project's by name, with its bases, overrides `key.path=value` and plugins.

    `own` is false for a file that the user did not name: then the overrides must name the plugins that it needs.
    """
    origins, overrides = Origins(), list(overrides)
    file = find_config(path)
    if not file.is_file():
        raise ConfigError(f"config file '{path}' does not exist{_suggestion(str(path))}")
    tree = read_tree(file, origins)
    for text in overrides:
        override_tree(tree, text, origins)
    _include_paddleseg(tree)
    config = _convert(tree, origins, str(path))
    if own or named_plugins(overrides):
        import_plugins(config.plugins)
    check_plugins(config.plugins, f"'{path}'")
    return config


def _include_paddleseg(tree: dict) -> None:
    if isinstance(tree.get("model"), Mapping) and tree["model"].get("name") == "paddleseg":
        from paddle_adaptseg.config.paddleseg import include_paddleseg  # most configurations do without

        include_paddleseg(tree)


def _suggestion(name: str) -> str:
    near = difflib.get_close_matches(name.removeprefix("configs/").removesuffix(".yml"), shipped_configs(), 3)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def parse_config(text: str, name: str = "config") -> Config:
    """Read a resolved configuration from YAML text, as it is saved with a run and inside its weights."""
    return _convert(rename_keys(parse_tree(text, name), name), Origins(), name)


def override(config: Config, *overrides: str) -> Config:
    """A copy of `config` with `key.path=value` overrides applied; plugins that they name are imported."""
    tree, origins = to_plain(config), Origins()
    for text in overrides:
        override_tree(tree, text, origins)
    _include_paddleseg(tree)
    changed = _convert(tree, origins, "config")
    if named_plugins(overrides):
        import_plugins(changed.plugins)
    return changed


def named_plugins(overrides: Iterable[str]) -> list[str]:
    """Those of the overrides that set `plugins`."""
    return [text for text in overrides if text.partition("=")[0].strip() == "plugins"]


def dump(config: Config) -> str:
    """The resolved configuration as YAML."""
    return write_tree(to_plain(config))


# What may change between the parts of one run without changing what it computes.
_FREE = ("run.", "data.workers", "data.timeout", "data.quarantine", "data.cache", "data.protocols", "data.validation.",
         "eval.", "schedule.stop", "data.source.root", "data.target.root", "data.target_labelled.root")  # fmt: skip
_BINDING = ("run.seed", "run.sync_norm", "run.precision")


def differences(old: Config, new: Config) -> list[str]:
    """A line per key in which a run cannot be continued: 'key: old -> new'."""
    before, after = _flat(to_plain(old)), _flat(to_plain(new))
    roots = [f"data.{name}.root" for name in (*old.data.all_sources(), *new.data.all_sources())]
    keys = [k for k in {**before, **after} if k in _BINDING or not k.startswith((*_FREE, *roots))]
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


def _convert(tree: Mapping, origins: Origins, name: str) -> Config:
    try:
        check_text(tree)
        config = convert(tree, Config, "")
    except ConfigError as error:
        quoted = str(error).split("'")  # messages quote the dotted path first
        where = origins.of.get(quoted[1].split("[")[0] if len(quoted) > 1 else "", name)
        raise ConfigError(f"{where}: {error}") from None
    _check_ranges(config, name)
    return config


def _check_ranges(config: Config, name: str) -> None:
    for path, (value, fine, wanted) in _ranges(config).items():
        if not fine:
            raise ConfigError(f"{name}: '{path}' must {wanted}, not {to_plain(value)}")


def _practice_ranges(data: Data) -> dict[str, tuple[Any, bool, str]]:
    """Several sources, and target labels."""
    named, labels = list(data.sources), data.target_labelled
    checks: dict[str, tuple[Any, bool, str]] = {
        "data.sources": (named, not (named and data.source), "be left out with data.source (or set data.source=null)")
    }
    for name, source in data.sources.items():
        checks[f"data.sources.{name}.share"] = (source.share, source.share > 0, "be more than 0")
    if labels is not None:
        one = not (labels.count and labels.share)
        checks["data.target_labelled.count"] = (labels.count, labels.count >= 0 and one, "be at least 0, without share")
        checks["data.target_labelled.share"] = (labels.share, 0 <= labels.share <= 1, "lie in 0..1")
        checks["data.target_labelled.seed"] = (labels.seed, labels.seed >= 0, "be at least 0")
        chosen = bool(labels.count or labels.share or labels.list or labels.root)
        checks["data.target_labelled"] = (labels, chosen, "name a list, root, count or share of the labelled images")
    return checks


def _ranges(config: Config) -> dict[str, tuple[Any, bool, str]]:
    """Values with whether they are possible and what they must be."""
    data, schedule, run = config.data, config.schedule, config.run
    change, order = data.augment, data.pixels.order
    checks: dict[str, tuple[Any, bool, str]] = {
        "schedule.stop": (schedule.stop, 0 <= schedule.stop <= schedule.horizon, "lie in 0..schedule.horizon"),
        "data.pixels.order": (order, order in ("rgb", "bgr"), "be rgb or bgr"),
        "data.pixels.std": (data.pixels.std, min(data.pixels.std) > 0, "be more than 0"),
        "data.augment.scale": (change.scale, 0 < change.scale[0] <= change.scale[1], "be [low, high], 0 < low <= high"),
        "data.augment.jitter": (change.jitter, 0 <= change.jitter < 1, "lie in 0..1"),
        "data.augment.blur": (change.blur, 0 <= change.blur <= 1, "lie in 0..1"),
        "data.augment.crop": (change.crop, change.crop is None or min(change.crop) > 0, "be more than 0"),
    }
    checks |= _window_ranges(config.eval)
    for domain, where in {**data.all_sources(), "target": data.target, "validation": data.validation}.items():
        checks[f"data.{domain}.size"] = (where.size, min(where.size) > 0, "be more than 0")
    checks |= _practice_ranges(data)
    for section, names in ((data, ("batch_size",)), (schedule, ("horizon", "iter_size"))):
        for key in names:
            value = getattr(section, key)
            checks[f"{'data' if section is data else 'schedule'}.{key}"] = (value, value > 0, "be more than 0")
    ratio = schedule.warmup_ratio
    checks["schedule.warmup_ratio"] = (ratio, 0 <= ratio <= 1, "lie in 0..1")
    checks["run.on_nonfinite"] = (run.on_nonfinite, run.on_nonfinite in ("stop", "skip"), "be stop or skip")
    fastest = run.cudnn_autotune and run.deterministic
    checks["run.cudnn_autotune"] = (run.cudnn_autotune, not fastest, "be left out, or false, with run.deterministic")
    checks["run.timeout"] = (run.timeout, run.timeout > 0, "be more than 0")
    checks["data.timeout"] = (data.timeout, data.timeout > 0, "be more than 0")
    for key, least in (("log_every", 1), ("save_every", 1), ("keep", 1), ("eval_every", 0), ("profile", 0), ("seed", 0),
                       ("max_hours", 0), ("max_nonfinite", 0)):  # fmt: skip
        value = getattr(run, key)
        checks[f"run.{key}"] = (value, value >= least, f"be at least {least}")
    for path, value in (("data.workers", data.workers), ("data.quarantine", data.quarantine),
                        ("schedule.warmup", schedule.warmup)):  # fmt: skip
        checks[path] = (value, value >= 0, "be at least 0")
    return checks


def _window_ranges(sliding: Eval) -> dict[str, tuple[Any, bool, str]]:
    stride, window = sliding.stride, sliding.window
    covers = stride is None or window is not None and all(0 < step <= side for step, side in zip(stride, window))
    return {
        "eval.window": (window, window is None or min(window) > 0, "be more than 0"),
        "eval.stride": (stride, covers, "be more than 0, no more than eval.window, and have one"),
        "eval.windows_at_once": (sliding.windows_at_once, sliding.windows_at_once > 0, "be more than 0"),
        "eval.average": (sliding.average, sliding.average in AVERAGES, f"be {' or '.join(AVERAGES)}"),
    }

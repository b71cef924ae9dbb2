"""What every key of a configuration means, and docs/configuration.md, which is written from it.

Types and defaults are read from the dataclasses and constructors that are the schema; only meanings stand here. A test
asserts that every key has one and that none is left over.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Union

from paddle_adaptseg.config.loading import to_plain
from paddle_adaptseg.config.optim import OPTIMISERS, Optim
from paddle_adaptseg.config.schema import Component, Config, Domain, Roots, Stages, Switch
from paddle_adaptseg.data.catalog import OwnClass, OwnDataset
from paddle_adaptseg.lab import reference_self_training
from paddle_adaptseg.lab.reference_keys import DOMAIN, KEYWORDS, MEANINGS, OPTIMISER_KEYS, OTHERWISE, OWN
from paddle_adaptseg.methods import ADDITIONS, GIVEN, METHODS
from paddle_adaptseg.methods.base import Ramp
from paddle_adaptseg.models import MODELS
from paddle_adaptseg.models.encode_decode import BACKBONES, HEADS


def type_text(hint: Any) -> str:
    """An annotation in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Union:
        return f"{type_text(next(a for a in args if a is not type(None)))}, or null"
    if origin is tuple:
        inside = f"{type_text(args[0])}, ..." if args[-1] is Ellipsis else ", ".join(map(type_text, args))
        return f"[{inside}]"
    if origin is not None or hint is Ramp or dataclasses.is_dataclass(hint):
        return "mapping"
    names = {bool: "bool", int: "int", float: "float", str: "str", Roots: "str or list", Stages: "bool or list",
             Switch: "auto, on or off"}  # fmt: skip
    return names.get(hint, "mapping")


def fields(cls: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, type and default of everything below a dataclass; components and optimisers have tables of their own."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, key = hints[field.name], f"{path}{field.name}"
        if hint in (Component, Optim):
            continue
        if dataclasses.is_dataclass(hint):
            if hint is not Domain or field.name == "target":  # the others are alike
                yield from fields(hint, DOMAIN if hint is Domain else f"{key}.")
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        yield key, type_text(hint), _default(default, dataclasses.MISSING)
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is Union else Domain
        if dataclasses.is_dataclass(inner) and inner is not Domain:
            yield from fields(inner, f"{key}.")


def keywords(cls: Any) -> Iterator[tuple[str, str, str]]:
    """Key, type and default of what a network's or method's constructor takes from a configuration."""
    hints = typing.get_type_hints(cls.__init__)
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name not in ("self", "widths", *GIVEN) and parameter.kind is not parameter.VAR_KEYWORD:
            yield name, type_text(hints[name]), _default(parameter.default, parameter.empty)


def _default(value: Any, none: Any) -> str:
    return "required" if value is none else f"`{json.dumps(to_plain(value))}`"


def _table(rows: typing.Iterable[tuple[str, str, str]], meanings: Mapping[str, str]) -> list[str]:
    lines = ["| Key | Type | Default | Meaning |", "|---|---|---|---|"]
    return lines + [f"| `{key}` | {kind} | {default} | {meanings[key]} |" for key, kind, default in rows]


OPTIM = (
    "`optim` sets the optimiser of each trained network: `{segmenter: {name: adamw, lr: 6e-5}}`. Without a name",
    "`segmenter` uses `sgd`, and `discriminators` and all others use `adam`. Another name has its own defaults.",
    "`legacy_updates: true` on `sgd` is the same as `name: legacy_sgd`.",
)
SECTIONS = {"schedule": "schedule: learning rate, warm-up and number of steps"}
TABLES: tuple[tuple[str, Mapping[str, Any], Callable, Mapping[str, str]], ...] = (
    ("optim", OPTIMISERS, fields, OPTIMISER_KEYS),
    ("model", MODELS, keywords, KEYWORDS),
    ("model.backbone", BACKBONES, keywords, KEYWORDS),
    ("model.head", HEADS, keywords, KEYWORDS),
    ("method", METHODS, keywords, KEYWORDS),
    ("added to any method", ADDITIONS, keywords, KEYWORDS),
    ("value", reference_self_training.VALUES, fields, reference_self_training.VALUE_KEYS),
)


def configuration_page() -> str:
    """docs/configuration.md."""
    lines = [
        "# Configuration",
        "",
        "All keys, their types and defaults. Written by `make pages` from the classes that check configurations.",
        "",
        "A configuration is a YAML file. Its `base:` files are merged from left to right, then the file itself, then",
        "`-o key=value` from the command line. Unknown keys, wrong types and impossible values are errors that",
        "name the file and the key. Every run saves its complete configuration as `config.yml`, which is a valid",
        "configuration file, too.",
        "",
        "```yaml",
        "base: [../_base_/data/gta5_cityscapes.yml, ../_base_/model/deeplabv2_resnet101.yml]",
        "method: {name: source_only, seg_weights: {main: 1.0}}",
        "run: {output: checkpoint/mine}",
        "```",
        "",
        "`<domain>` stands for `source` (labelled), `target` (unlabelled) and `validation` (labelled, only evaluated).",
        "Any key can be set on the command line: `-o data.source.root=/data/GTA5 schedule.stop=1000`.",
    ]
    everything = list(fields(Config))
    for section in dict.fromkeys(key.split(".")[0] for key, _, _ in everything):
        lines += ["", f"## {SECTIONS.get(section, section)}", ""]
        lines += _table([row for row in everything if row[0].split(".")[0] == section], MEANINGS)
    lines += ["", "## optim", "", *OPTIM]
    for section, table, rows, meanings in TABLES:
        for name, cls in table.items():
            lines += ["", f"## {section}: {name}", "", (inspect.getdoc(cls) or "").splitlines()[0], ""]
            lines += _table(rows(cls), {**meanings, **OTHERWISE.get(name, {})})
    lines += ["", "## A data set of your own", ""]
    lines += ["The YAML file that `dataset:` may name ([example](datasets.md)).", ""]
    own = [*fields(OwnDataset), *fields(OwnClass, "classes[].")]
    return "\n".join([*lines, *_table(own, OWN)]) + "\n"

"""Names to things. A table is a plain dict; an unknown name is an error that lists the known ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from paddle_adaptseg.errors import ConfigError, suggest
from paddle_adaptseg.schema import arguments

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """The entry of `table` called `name`."""
    if name not in table:
        raise ConfigError(f"unknown {kind} '{name}': {suggest(name, table)}")
    return table[name]


def build(table: Mapping[str, Any], name: str, params: Mapping[str, Any], kind: str, **given: Any) -> Any:
    """Construct the entry `name` with `params` from a config (checked against its signature) and `given` objects."""
    cls = lookup(table, name, kind)
    checked = arguments(cls, params, kind, set(given))
    try:
        return cls(**given, **checked)
    except (ValueError, ArithmeticError, AssertionError, MemoryError) as error:  # a width of 0, or of a billion
        raise ConfigError(f"{kind} '{name}' cannot be built with {checked}: {error}") from error

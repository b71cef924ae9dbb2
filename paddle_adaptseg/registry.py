"""Names to things, and plugins: modules of the user's that add to them.

A table is a plain dict; an unknown name is an error that lists the known ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

from paddle_adaptseg import runtime
from paddle_adaptseg.errors import CheckpointError, ConfigError, UserError, suggest
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


def register(table: MutableMapping[str, Any], name: str, entry: Any = None) -> Any:
    """Add an entry to METHODS, MODELS, DATASETS or another table; without `entry`, a decorator that does so."""
    if entry is None:
        return lambda cls: register(table, name, cls)
    if name in table:
        raise ConfigError(f"'{name}' is registered already: choose another name")
    table[name] = entry
    return entry


def import_plugins(plugins: Iterable[str]) -> None:
    """Import modules that register entries: a module's dotted name, or the path of a .py file."""
    for plugin in plugins:
        if _module_name(plugin) in sys.modules:
            continue
        runtime.import_paddle()
        try:
            _import(plugin)
        except UserError as error:
            raise ConfigError(f"plugins: '{plugin}': {error}") from error
        except Exception as error:  # whatever a user's module may raise
            raise ConfigError(f"plugins: cannot import '{plugin}': {type(error).__name__}: {error}") from error


def check_plugins(plugins: Iterable[str], origin: str) -> None:
    """Refuse plugins that the user has not named: a file of somebody else's must not choose which code runs here."""
    missing = [plugin for plugin in plugins if _module_name(plugin) not in sys.modules]
    if missing:
        raise CheckpointError(
            f"{origin} needs plugins, which are only imported when you name them: "
            f"-o plugins=[{','.join(missing)}], or a --config that lists them"
        )


def _module_name(plugin: str) -> str:
    """Under which name a plugin stands in sys.modules."""
    return f"plugin {Path(plugin).resolve()}" if plugin.endswith(".py") else plugin


def _import(plugin: str) -> None:
    if not plugin.endswith(".py"):
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))  # the user's project, where commands are started
        importlib.import_module(plugin)
        return
    if not Path(plugin).is_file():
        raise ConfigError("the file does not exist")
    name = _module_name(plugin)
    spec = importlib.util.spec_from_file_location(name, plugin)
    assert spec is not None and spec.loader is not None  # it is a .py file
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise

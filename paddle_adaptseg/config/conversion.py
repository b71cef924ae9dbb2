"""Plain YAML values to typed ones, names to the entries of tables, and plugins that add entries.

The schema is never written twice: it is the annotations of a dataclass or of a constructor. Every error names the
dotted path and, for keys, the nearest known name.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TypeVar, Union

from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import CheckpointError, ConfigError, UserError, suggest


def convert(value: Any, hint: Any, path: str) -> Any:
    """Return `value` as the annotated type `hint`, or raise a ConfigError that names `path`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, inspect.Parameter.empty):
        return value
    if origin is Union:
        if value is None and type(None) in args:
            return None
        return convert(value, next(a for a in args if a is not type(None)), path)
    if hasattr(hint, "from_plain"):
        return hint.from_plain(value, path)
    if dataclasses.is_dataclass(hint):
        return _dataclass(value, hint, path)
    if origin is tuple:
        return _tuple(value, args, path)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(path, value, "a mapping")
        return {str(k): convert(v, args[1], dotted(path, k)) for k, v in value.items()}
    return _scalar(value, hint, path)


def arguments(function: Any, values: Mapping[str, Any], path: str, given: Collection[str] = ()) -> dict[str, Any]:
    """Check and convert keyword arguments for `function` against its signature; `given` ones come from the caller.

    Where it takes any keywords (**), those that it does not name are handed on as they are.
    """
    target = function.__init__ if inspect.isclass(function) else function
    hints = typing.get_type_hints(target)
    signature = inspect.signature(function).parameters
    parameters = {k: p for k, p in signature.items() if k not in given and p.kind is not p.VAR_KEYWORD}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    check_keys(values, [*parameters, *values] if takes_any else parameters, path)
    missing = [k for k, p in parameters.items() if p.default is p.empty and k not in values]
    if missing:
        raise ConfigError(f"{path}.{missing[0]} is missing: '{function.__name__}' needs it")
    return {k: convert(v, hints.get(k, Any) if k in parameters else Any, f"{path}.{k}") for k, v in values.items()}


def check_keys(values: Any, known: typing.Iterable[str], path: str) -> None:
    """Refuse anything but a mapping whose keys are all known."""
    if not isinstance(values, Mapping):
        raise _wrong(path, values, "a mapping")
    known = list(known)
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key '{dotted(path, key)}': {suggest(str(key), known)}")


def dotted(path: str, key: Any) -> str:
    """The path of `key` below `path`."""
    return f"{path}.{key}" if path else str(key)


def _dataclass(value: Any, cls: Any, path: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    check_keys(value, fields, path)
    hints = typing.get_type_hints(cls)
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise ConfigError(f"'{dotted(path, name)}' is missing")
    return cls(**{k: convert(v, hints[k], dotted(path, k)) for k, v in value.items()})


def _tuple(value: Any, args: tuple, path: str) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise _wrong(path, value, "a list")
    if args[-1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(value) != len(args):
        raise _wrong(path, value, f"a list of {len(args)}")
    return tuple(convert(v, a, f"{path}[{i}]") for i, (v, a) in enumerate(zip(value, args)))


def _scalar(value: Any, hint: type, path: str) -> Any:
    """Convert to bool, int, float or str; text that is a number counts as one, as in a quoted '1e-4'."""
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise _wrong(path, value, "a number") from None
        if number != number or number in (float("inf"), float("-inf")):
            raise _wrong(path, value, "a finite number")
        return number
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if type(value) is not hint:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise _wrong(path, value, names.get(hint, str(hint)))
    return value


def _wrong(path: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"'{path}' must be {wanted}, not {value!r}")


T = TypeVar("T")


class Table(MutableMapping[str, T]):
    """Names to things. An entry "module:name" is imported when it is looked up: runs load what they need."""

    def __init__(self, package: str, entries: Mapping[str, Any]) -> None:
        self.package, self.entries = package, dict(entries)

    def __getitem__(self, name: str) -> T:
        if isinstance(self.entries[name], str):
            module, _, attribute = self.entries[name].partition(":")
            self.entries[name] = getattr(importlib.import_module(f"{self.package}.{module}"), attribute)
        return self.entries[name]

    def __setitem__(self, name: str, entry: T) -> None:
        self.entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self.entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


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

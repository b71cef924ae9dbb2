"""Nested plain dicts from YAML: base files, merging, dotted overrides. What the keys mean is said in schema.py.

A text of a few lines can stand for gigabytes (aliases of aliases), so its size is counted before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import yaml

from paddle_adaptseg.config.conversion import dotted
from paddle_adaptseg.core.errors import ConfigError

MAX_TEXT = 2**20  # characters of a file
MAX_VALUES = 20_000  # of a file, with every alias written out
MAX_DEPTH = 40  # of maps and lists inside one another
MAX_FILES, MAX_BASES = 64, 16  # read for one configuration; bases of bases
MAX_DIGITS = 30
# Keys that had other names once, which are still read.
RENAMED = {
    "optim.critics": "optim.discriminators",
    "method.critic_width": "method.discriminator_width",
    "method.critic_scale": "method.discriminator_scale",
}


_FLOAT = "tag:yaml.org,2002:float"
# YAML 1.1 takes 1e-3 for text; here it is a number, as in YAML 1.2.
_EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise ValueError(f"a number of {len(node.value)} digits")
        return super().construct_yaml_int(node)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Puts quotes around text that the loader would take for a number."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


@dataclass
class Origins:
    """Which file or override set which dotted path, and how many files and values were read for it."""

    of: dict[str, str] = field(default_factory=dict)
    files: int = 0
    values: int = 0


REMOVED = {"run.to_static": False}  # keys that are gone, and the value with which files may still name them


def rename_keys(tree: dict, name: str) -> dict:
    """Give keys their present names, in place; `name` says in errors where they came from."""
    for path, harmless in REMOVED.items():
        section, old = path.split(".")
        keys = tree.get(section)
        if isinstance(keys, dict) and old in keys:
            if keys[old] != harmless:
                raise ConfigError(f"{name}: '{path}' does not exist any more: leave it out")
            tree[section] = {key: value for key, value in keys.items() if key != old}
    for path, present in RENAMED.items():
        section, old = path.split(".")
        keys, new = tree.get(section), present.split(".")[1]
        if not isinstance(keys, dict) or old not in keys:
            continue
        if new in keys:
            raise ConfigError(f"{name}: '{path}' is the old name of '{present}': give only one of them")
        tree[section] = {new if key == old else key: value for key, value in keys.items()}
    return tree


def read_tree(path: Path, origins: Origins, seen: tuple[Path, ...] = ()) -> dict:
    """A file merged onto its bases; `origins` receives which file set which dotted path."""
    origins.files += 1
    if origins.files > MAX_FILES or len(seen) > MAX_BASES:
        raise ConfigError(f"{path}: too many base files (at most {MAX_FILES}, {MAX_BASES} deep)")
    if not path.is_file():
        raise ConfigError(f"config file '{path}' does not exist" + (f" (base of {seen[-1]})" if seen else ""))
    if path.resolve() in seen:
        raise ConfigError(f"{path}: 'base' leads back to the file itself")
    own, values = _parse(read_text(path), str(path))
    own = rename_keys(own, str(path))
    origins.values += values
    if origins.values > MAX_VALUES:
        raise ConfigError(f"{path}: it and its base files hold more than {MAX_VALUES} values")
    bases = own.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(b, str) for b in bases):
        raise ConfigError(f"{path}: 'base' must be a list of file names")
    tree: dict = {}
    for base in bases:
        _merge(tree, read_tree(path.parent / base, origins, (*seen, path.resolve())), origins, None)
    _merge(tree, own, origins, str(path))
    return tree


def read_text(path: Path) -> str:
    """A text file of a reasonable size; anything else is an error."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"'{path}' is not a regular file")
        if path.stat().st_size > MAX_TEXT:
            raise ConfigError(f"'{path}' has {path.stat().st_size} bytes, but YAML files here have at most {MAX_TEXT}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"'{path}' is not a text file") from None
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}") from None


def parse_tree(text: str, name: str) -> dict:
    """YAML text as a mapping; `name` says in errors where it came from."""
    return _parse(text, name)[0]


def _parse(text: str, name: str) -> tuple[dict, int]:
    try:
        values = _count(text, name)
        tree = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{name}: not valid YAML: {reason}") from None
    if tree is None:
        return {}, 0
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: must be a mapping of sections, not {type(tree).__name__}")
    return tree, values


def _count(text: str, name: str) -> int:
    """Count the values of a text with every alias written out, and how deep they lie, without building any."""
    if len(text) > MAX_TEXT:
        raise ConfigError(f"{name}: {len(text)} characters are too many (at most {MAX_TEXT})")
    sizes: dict[Optional[str], tuple[int, int]] = {}  # values and depth of what has a name
    around: list[list[Any]] = [[None, 0, 0]]  # name, values, depth of the maps and lists that are open
    for event in yaml.parse(text, _Loader):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            around.append([event.anchor, 0, 0])
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            anchor, values, depth = around.pop()
            _add(around, sizes, anchor, values + 1, depth + 1)
        elif isinstance(event, yaml.ScalarEvent):
            _add(around, sizes, event.anchor, 1, 0)
        elif isinstance(event, yaml.AliasEvent):
            if any(event.anchor == anchor for anchor, _, _ in around):
                raise ConfigError(f"{name}: '*{event.anchor}' contains itself")
            _add(around, sizes, None, *sizes.get(event.anchor, (1, 0)))
        if around[-1][1] > MAX_VALUES:
            raise ConfigError(f"{name}: it stands for more than {MAX_VALUES} values (aliases written out)")
        if len(around) + around[-1][2] > MAX_DEPTH:
            raise ConfigError(f"{name}: maps and lists lie more than {MAX_DEPTH} deep in one another")
    return around[0][1]


def _add(around: list, sizes: dict, anchor: Optional[str], values: int, depth: int) -> None:
    """Count a finished value in what is around it."""
    around[-1][1:] = around[-1][1] + values, max(around[-1][2], depth)
    if anchor is not None:
        sizes[anchor] = values, depth


def write_tree(tree: Mapping) -> str:
    """A mapping as YAML text: one line per scalar or short list, in the order given."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True)


def check_text(value: Any, path: str = "") -> None:
    """Refuse text that no file or file name can hold."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        check_text(inner, dotted(path, key))
    for index, inner in enumerate(value) if isinstance(value, (list, tuple)) else ():
        check_text(inner, f"{path}[{index}]")
    if isinstance(value, str) and ("\0" in value or value != value.encode(errors="ignore").decode()):
        raise ConfigError(f"'{path}' holds characters that no file can hold: {value!r}")


def _merge(tree: dict, new: Mapping, origins: Origins, source: Optional[str], path: str = "") -> None:
    """Merge `new` into `tree` in place. A component with another name replaces the old one whole."""
    for key, value in new.items():
        where = dotted(path, key)
        if source:
            origins.of[where] = source
        old = tree.get(key)
        if not isinstance(value, Mapping):
            tree[key] = value
            continue
        same = isinstance(old, dict) and value.get("name", old.get("name")) == old.get("name")
        tree[key] = old if same else {}
        _merge(tree[key], value, origins, source, where)


def override_tree(tree: dict, text: str, origins: Origins) -> None:
    """Apply one `key.path=value` to `tree` in place."""
    path, equals, raw = text.partition("=")
    if not equals or not path.strip() or path.count(".") > MAX_DEPTH:
        raise ConfigError(f"override '{text}' must have the form key.path=value")
    new: Any = parse_tree(f"value: {raw}" if raw.strip() else "value: ''", f"override '{text}'").get("value")
    for key in reversed(path.strip().split(".")):
        new = {key: new}
    rename_keys(new, f"override '{text}'")
    _merge(tree, new, origins, f"override '{text}'")

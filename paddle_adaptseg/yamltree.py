"""Nested plain dicts from YAML: base files, merging, dotted overrides. What the keys mean is config.py's matter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import yaml

from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.schema import dotted

# Keys that had other names once, which are still read.
RENAMED = {
    "optim.critics": "optim.discriminators",
    "method.critic_width": "method.discriminator_width",
    "method.critic_scale": "method.discriminator_scale",
}


def rename_keys(tree: dict, name: str) -> dict:
    """Give keys their present names, in place; `name` says in errors where they came from."""
    for path, present in RENAMED.items():
        section, old = path.split(".")
        keys, new = tree.get(section), present.split(".")[1]
        if not isinstance(keys, dict) or old not in keys:
            continue
        if new in keys:
            raise ConfigError(f"{name}: '{path}' is the old name of '{present}': give only one of them")
        tree[section] = {new if key == old else key: value for key, value in keys.items()}
    return tree


def read_tree(path: Path, origins: dict[str, str], seen: tuple[Path, ...] = ()) -> dict:
    """A file merged onto its bases; `origins` receives which file set which dotted path."""
    if not path.is_file():
        raise ConfigError(f"config file '{path}' does not exist" + (f" (base of {seen[-1]})" if seen else ""))
    if path.resolve() in seen:
        raise ConfigError(f"{path}: 'base' leads back to the file itself")
    own = rename_keys(parse_tree(read_text(path), str(path)), str(path))
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
    """A text file; what is no text is an error."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"'{path}' is not a text file") from None
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}") from None


def parse_tree(text: str, name: str) -> dict:
    """YAML text as a mapping; `name` says in errors where it came from."""
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{name}: not valid YAML: {reason}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: must be a mapping of sections, not {type(tree).__name__}")
    return tree


def write_tree(tree: Mapping) -> str:
    """A mapping as YAML text: one line per scalar or short list, in the order given."""
    return yaml.safe_dump(dict(tree), sort_keys=False, default_flow_style=None, allow_unicode=True)


def check_text(value: Any, path: str = "") -> None:
    """Refuse text that no file or file name can hold."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        check_text(inner, dotted(path, key))
    for index, inner in enumerate(value) if isinstance(value, (list, tuple)) else ():
        check_text(inner, f"{path}[{index}]")
    if isinstance(value, str) and ("\0" in value or value != value.encode(errors="ignore").decode()):
        raise ConfigError(f"'{path}' holds characters that no file can hold: {value!r}")


def _merge(tree: dict, new: Mapping, origins: dict[str, str], source: Optional[str], path: str = "") -> None:
    """Merge `new` into `tree` in place. A component with another name replaces the old one whole."""
    for key, value in new.items():
        where = dotted(path, key)
        if source:
            origins[where] = source
        old = tree.get(key)
        if not isinstance(value, Mapping):
            tree[key] = value
            continue
        same = isinstance(old, dict) and value.get("name", old.get("name")) == old.get("name")
        tree[key] = old if same else {}
        _merge(tree[key], value, origins, source, where)


def override_tree(tree: dict, text: str, origins: dict[str, str]) -> None:
    """Apply one `key.path=value` to `tree` in place."""
    path, equals, raw = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"override '{text}' must have the form key.path=value")
    new: Any = parse_tree(f"value: {raw}" if raw.strip() else "value: ''", f"override '{text}'").get("value")
    for key in reversed(path.strip().split(".")):
        new = {key: new}
    rename_keys(new, f"override '{text}'")
    _merge(tree, new, origins, f"override '{text}'")

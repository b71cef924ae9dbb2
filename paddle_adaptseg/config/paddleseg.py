"""A network that is named by a configuration of PaddleSeg: `model: {name: paddleseg, config: segformer_b0.yml}`.

What such a file says of the network, and of the pixels that it is trained on, becomes part of the configuration when
that is loaded, so that nothing depends on the file afterwards. Nothing of PaddleSeg is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from paddle_adaptseg.config.yamltree import parse_tree, read_text
from paddle_adaptseg.core.errors import ConfigError

BASE, INHERIT = "_base_", "_inherited_"  # PaddleSeg's keys for base files, and for leaving them out
MAX_FILES = 64  # read for one configuration
GREY = [0.5]  # PaddleSeg's mean and deviation where its Normalize names none


def include_paddleseg(tree: dict) -> None:
    """Replace `model.config` by what the file that it names says of network and pixels; keys beside it go before."""
    model = tree.get("model")
    if not isinstance(model, dict) or model.get("name") != "paddleseg" or "config" not in model:
        return
    path = model.pop("config")
    if not isinstance(path, str) or not path:
        raise ConfigError(f"'model.config' must be a YAML file of PaddleSeg, not {path!r}")
    theirs = read_paddleseg(Path(path))
    network = theirs.get("model")
    if not isinstance(network, dict) or not isinstance(network.get("type"), str):
        raise ConfigError(f"{path}: it has no 'model' with a 'type', as a configuration of PaddleSeg has")
    network, starts = _without_pretrained({k: v for k, v in network.items() if k != "num_classes"})
    tree["model"] = {"name": "paddleseg", **_merged(network, {k: v for k, v in model.items() if k != "name"})}
    pixels, data = _pixels(theirs), tree.setdefault("data", {})
    if pixels and isinstance(data, dict) and data.setdefault("pixels", pixels) != pixels:
        print(f"note: '{path}' normalises by {pixels}, but data.pixels of this configuration goes before",
              file=sys.stderr)  # fmt: skip
    run = tree.get("run")
    if starts and not (isinstance(run, dict) and run.get("restore_from")):
        print(f"note: '{path}' starts from {', '.join(starts)}, which is not downloaded: fetch and unpack it, and name "
              "its .pdparams in run.restore_from", file=sys.stderr)  # fmt: skip


def read_paddleseg(path: Path, seen: Optional[list[Path]] = None) -> dict:
    """A configuration of PaddleSeg with its base files: a list of them merges in turn, later keys go before."""
    seen = [] if seen is None else seen
    seen.append(path)
    if len(seen) > MAX_FILES:
        raise ConfigError(f"{path}: '{BASE}' leads to more than {MAX_FILES} files; does it lead back to itself?")
    if not path.is_file():
        raise ConfigError(f"PaddleSeg configuration '{path}' does not exist")
    tree = parse_tree(read_text(path), str(path))
    bases = tree.pop(BASE, None) or []
    for base in [bases] if isinstance(bases, str) else bases:
        tree = _merged(read_paddleseg(path.parent / str(base), seen), tree)
    return tree


def _merged(base: Mapping, own: Mapping) -> dict:
    """Two mappings, the second going before, by PaddleSeg's rules."""
    if not own.get(INHERIT, True):
        return {k: v for k, v in own.items() if k != INHERIT}
    both = dict(base)
    for key, value in own.items():
        inside = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        both[key] = _merged(base[key], value) if inside else value
    return both


def _without_pretrained(value: Any) -> tuple[Any, list[str]]:
    """A tree without its keys `pretrained`, and what they named."""
    starts: list[str] = []
    if isinstance(value, Mapping):
        starts += [str(value["pretrained"])] if value.get("pretrained") else []
        parts = {key: _without_pretrained(inner) for key, inner in value.items() if key != "pretrained"}
        return {k: inner for k, (inner, _) in parts.items()}, starts + [s for _, found in parts.values() for s in found]
    return value, starts


def _pixels(theirs: Mapping) -> Optional[dict]:
    """How PaddleSeg normalises images, as `data.pixels` says it."""
    for section in ("val_dataset", "train_dataset"):
        part = theirs.get(section)
        transforms = part.get("transforms") if isinstance(part, Mapping) else None
        for step in transforms if isinstance(transforms, list) else ():
            if isinstance(step, Mapping) and step.get("type") == "Normalize":
                mean, deviation = step.get("mean", GREY), step.get("std", GREY)
                return {"order": "rgb", "mean": _bytes(mean), "std": _bytes(deviation)}
    return None


def _bytes(values: Any) -> list[float]:
    """Shares of 255 as numbers of 0 to 255; a single one is that of all channels."""
    if not isinstance(values, list) or not all(isinstance(v, (int, float)) for v in values):
        raise ConfigError(f"Normalize of a PaddleSeg configuration must list its numbers, not {values!r}")
    return [round(255 * value, 6) for value in (values * 3 if len(values) == 1 else values)]

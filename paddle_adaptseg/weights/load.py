"""From a weights file or a run's folder to a network, or to an ensemble."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from paddle_adaptseg.config.conversion import check_plugins, convert
from paddle_adaptseg.config.loading import dump, override, parse_config, to_plain
from paddle_adaptseg.config.schema import Component, Config, Pixels
from paddle_adaptseg.config.yamltree import parse_tree
from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import CheckpointError, shorten
from paddle_adaptseg.core.files import files_by_step, sha256
from paddle_adaptseg.data import label_space
from paddle_adaptseg.models import MODELS, build_model
from paddle_adaptseg.models.segmenter import Ensemble, Network, Segmenter
from paddle_adaptseg.weights import coverage, load_arrays, save_weights
from paddle_adaptseg.weights.kind import pixel_overrides
from paddle_adaptseg.weights.kinds import KINDS, Kind, identify, trained_branches, translate
from paddle_adaptseg.weights.reader import Weights, read_weights, split_part

# Keys of a network that change its meaning but not its tensors, or its tensors throughout; and their usual values.
ARCHITECTURE = {"stride_in": "1x1", "variant": "plain"}


def find_weights(origin: str | Path) -> Path:
    """The weights file that a path names: itself, or a run folder's best, else newest.

    FOLDER@best, FOLDER@latest and FOLDER@12000 name one of a run's; FILE@teacher a part of a self-training checkpoint.
    """
    path, which = Path(origin), ""
    if split_part(path)[0].is_file():
        return path  # a file, or a part of one
    if not path.exists() and "@" in path.name:
        path, which = path.with_name(path.name.rpartition("@")[0]), path.name.rpartition("@")[2]
    if not path.exists():
        raise CheckpointError(f"weights '{path}' do not exist")
    steps = weights_by_step(path)
    known = {str(step): steps[step] for step in reversed(steps)}
    if steps:
        known["latest"] = steps[max(steps)]
    if (path / "best.pdparams").is_file():
        known["best"] = path / "best.pdparams"
    for name in (which,) if which else ("best", "latest"):
        if name in known:
            return known[name]
    wanted = f"weights '{which}'" if which else "weights (expected best.pdparams or weights/step_*.pdparams)"
    runs = sorted(p.parent.relative_to(path).as_posix() for p in path.rglob("config.yml")) if not known else []
    inside = f"it holds runs, name one: {shorten(runs)}" if runs else f"known: {shorten(known) or 'none'}"
    raise CheckpointError(f"folder '{path}' holds no {wanted}; {inside}")


def weights_by_step(run: Path) -> dict[int, Path]:
    """A run's weights files by step, ascending."""
    return files_by_step(run / "weights", "pdparams")


def fitting_weights(weights: Weights, path: Path, config: Config) -> tuple[dict[str, np.ndarray], Kind]:
    """Arrays under our names, and whose weights they are; they must fit the configuration's preprocessing."""
    name = kind_for(weights, config)
    if name is None:
        raise CheckpointError(f"'{path}' holds weights of no known kind (first names: {shorten(weights.arrays, 4)})")
    kind = KINDS.get(str(weights.origin.get("kind")), KINDS[name])
    pixels, model = _trained_with(weights, path, kind)
    others = {k: v for k, v in pixels.items() if v != to_plain(getattr(config.data.pixels, k))}
    if others:
        wanted = " ".join(pixel_overrides(others))
        raise CheckpointError(f"'{path}' ({kind.title}) was trained on other pixels: use -o {wanted}")
    for key, needed in model.items():
        default = getattr(MODELS.get(config.model.name), key, None)
        if default and needed != config.model.params.get(key, default):
            raise CheckpointError(f"'{path}' ({kind.title}) needs -o model.{key}={needed}")
    return translate(weights.arrays, name, config.model.params.get("aspp_branches", 2)), kind


def kind_for(weights: Weights, config: Config) -> Optional[str]:
    """The kind of weights: as the configured network says of names that are its own affair, else as they look."""
    says = getattr(MODELS.get(config.model.name), "weights_kind", None)
    return says(config.model.params, list(weights.arrays)) if says else identify(weights.arrays)


def fill_segmenter(segmenter: Segmenter, origin: str, config: Config, partial: bool = False) -> str:
    """Load weights that a configuration names; returns a line that says what a partial load left out."""
    path = find_weights(origin)
    weights = read_weights(path)
    segmenter, config = wrapped(segmenter, weights, config)
    arrays, kind = fitting_weights(weights, path, config)
    if kind.seen and not config.run.restore_labelled:
        raise CheckpointError(
            f"'{path}' has seen {kind.seen}, so what is trained from it is no adaptation to them; "
            "run.restore_labelled=true starts from it all the same"
        )
    report = load_arrays(segmenter, arrays, f"'{path}'", partial, new_heads=True, absent=kind.absent)
    return f"weights from {path}: {kind.title}" + (f"; initialised anew: {'; '.join(report)}" if report else "")


def wrapped(segmenter: Segmenter, weights: Weights, config: Config) -> tuple[Segmenter, Config]:
    """Where weights go: those of a plain network into the one that hrda wraps, with a configuration of that one."""
    inner = config.model.params.get("network")
    if inner is None or any("scale_attention" in name or name.startswith("network.") for name in weights.arrays):
        return segmenter, config
    return segmenter.network, dataclasses.replace(config, model=Component.from_plain(inner, "model.network"))


def _trained_with(weights: Weights, path: Path, kind: Kind) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The pixels and the architecture that weights expect: as their own configuration says, else as their kind does."""
    if weights.config:
        where = f"configuration inside '{path}'"
        tree = parse_tree(weights.config, where)
        data = convert(tree.get("data", {}), dict[str, Any], f"{where}: data")
        pixels = convert(data.get("pixels", {}), Pixels, f"{where}: data.pixels")
        component = convert(tree.get("model"), Component, f"{where}: model")
        usual = {key: getattr(MODELS.get(component.name), key, None) for key in ARCHITECTURE}
        return to_plain(pixels), {key: component.params.get(key, usual[key]) for key in ARCHITECTURE if usual[key]}
    if kind is KINDS["ours"]:
        return {}, {}
    return to_plain(kind.pixels or {}), {key: kind.model.get(key, usual) for key, usual in ARCHITECTURE.items()}


def convert_weights(source: Path, output: Optional[Path], config: Config) -> list[str]:
    """Write weights of a known kind under our names, if they fit the network; returns what was found."""
    weights = read_weights(source)
    name, chosen = kind_for(weights, config), []
    if name is not None:
        chosen = KINDS[name].overrides()
    trained = trained_branches(weights.arrays)
    if trained is not None and name != "ours":
        chosen.append(f"model.aspp_branches={trained}")
    config = override(config, *chosen)
    translated, kind = fitting_weights(weights, source, config)
    with runtime.fresh_names():
        model = build_model(config.model, len(label_space(config)))
    report = load_arrays(model, translated, f"'{source}'", new_heads=True, absent=kind.absent)
    lines = [f"{source}: {kind.title}", f"{len(weights.arrays)} tensors in the file; {config.model.name}: "]
    lines[1] += coverage(model, translated).summary()
    lines += [f"set by the weights: {' '.join(chosen)}"] if chosen else []
    lines += [f"initialised anew when training: {line}" for line in report]
    if output is not None:
        origin = provenance(source, name, config)
        save_weights(output, {k: np.asarray(v) for k, v in translated.items()}, dump(config), origin)
        lines.append(f"written: {output} with its origin {json.dumps(origin)}")
    return lines


def provenance(source: Path, kind: Optional[str], config: Config) -> dict[str, object]:
    """Where converted weights came from and what they need, for the record inside the new file."""
    params = config.model.params
    return {
        "source": source.name,
        "sha256": sha256(split_part(source)[0]),
        "kind": kind,
        "aspp_branches": params.get("aspp_branches"),
        "norm": params.get("norm"),
        "pixels": to_plain(config.data.pixels),
    }


def saved_config(config: Config, where: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration saved at `where`, with overrides, for this machine: a device that is not here becomes auto."""
    device = config.run.device
    if not runtime.has_device(device):
        config = override(config, "run.device=auto")
        if not any(text.startswith("run.device=") for text in overrides):
            note = f"note: '{where}' was saved with run.device={device}, which this machine has not; using what it has"
            print(note, file=sys.stderr)
    return override(config, *overrides)


def own_config(path: Path, overrides: Sequence[str] = ()) -> Optional[Config]:
    """The configuration inside a weights file of this project, with overrides; None where there is none."""
    text = read_weights(path).config
    return override(parse_config(text, f"configuration inside '{path}'"), *overrides) if text else None


def load_model(
    origin: str | Path, config: Optional[Config] = None, overrides: Sequence[str] = ()
) -> tuple[Segmenter, Config]:
    """A network with weights, and the configuration it is used with: the one given, else the one in the file."""
    path = find_weights(origin)
    weights = read_weights(path)
    if config is None:
        if not weights.config:
            raise CheckpointError(f"'{path}' carries no configuration; name one with --config")
        config = saved_config(parse_config(weights.config, f"configuration inside '{path}'"), path, overrides)
    runtime.set_device(config.run.device)
    runtime.set_accelerate(config.run.accelerate)
    with runtime.fresh_names():
        return _built(weights, path, config), config


def load_trained(origin: str | Path) -> tuple[Segmenter, Config]:
    """A network as its own weights file configures it, beside other networks: device and the like are not changed."""
    path = find_weights(origin)
    weights = read_weights(path)
    if not weights.config:
        raise CheckpointError(f"'{path}' carries no configuration, so nothing says which network it is of")
    config = parse_config(weights.config, f"configuration inside '{path}'")
    return _built(weights, path, config), config


def _built(weights: Weights, path: Path, config: Config) -> Segmenter:
    check_plugins(config.plugins, f"'{path}'")
    model = build_model(config.model, len(label_space(config)))
    load_arrays(model, fitting_weights(weights, path, config)[0], f"'{path}'")
    return model


def load_models(
    origins: Sequence[str | Path], config: Optional[Config], overrides: Sequence[str], weights: Sequence[float]
) -> tuple[Network, Config]:
    """One network, or several as an ensemble. Each keeps its own network; data and protocol are those of the first."""
    if weights and len(origins) == 1:
        raise CheckpointError("--weights are those of an ensemble's models, but there is only one model")
    model, config = load_model(origins[0], config, overrides)
    if len(origins) == 1:
        return model, config
    others = [load_trained(path) for path in origins[1:]]
    for path, (_, other) in zip(origins[1:], others):
        if label_space(other) != label_space(config) or other.data.pixels != config.data.pixels:
            raise CheckpointError(f"'{path}' predicts other classes or reads pixels in another way than '{origins[0]}'")
    return Ensemble([model, *(m for m, _ in others)], weights), config

"""From a weights file or a run's folder to a network, and its score."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from paddle_adaptseg import runtime
from paddle_adaptseg.config import Config
from paddle_adaptseg.configfile import dump, override, parse_config
from paddle_adaptseg.data import label_space
from paddle_adaptseg.engine.evaluator import class_sets, evaluate_model
from paddle_adaptseg.errors import CheckpointError, shorten
from paddle_adaptseg.metrics import ConfusionMatrix
from paddle_adaptseg.models import MODELS, build_model
from paddle_adaptseg.models.ensemble import Ensemble, Mirrored
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.weights import load_arrays
from paddle_adaptseg.weights.kinds import KINDS, Arrays, Kind, identify, trained_branches, translate
from paddle_adaptseg.weights.pdparams import save_weights
from paddle_adaptseg.weights.reader import read_weights


def find_weights(origin: str | Path) -> Path:
    """The weights file that a path names: itself, or a run folder's best, else newest.

    FOLDER@best, FOLDER@latest and FOLDER@12000 name one of a run's.
    """
    path, which = Path(origin), ""
    if not path.exists() and "@" in path.name:
        path, which = path.with_name(path.name.rpartition("@")[0]), path.name.rpartition("@")[2]
    if path.is_file() and not which:
        return path
    if not path.exists():
        raise CheckpointError(f"weights '{path}' do not exist")
    steps = sorted((path / "weights").glob("step_*.pdparams"), reverse=True)
    known = {str(int(step.stem.split("_")[1])): step for step in steps}
    if steps:
        known["latest"] = steps[0]
    if (path / "best.pdparams").is_file():
        known["best"] = path / "best.pdparams"
    for name in (which,) if which else ("best", "latest"):
        if name in known:
            return known[name]
    wanted = f"weights '{which}'" if which else "weights (expected best.pdparams or weights/step_*.pdparams)"
    raise CheckpointError(f"folder '{path}' holds no {wanted}; known: {shorten(known) or 'none'}")


def translated_weights(path: Path, config: Config) -> tuple[dict[str, np.ndarray], Kind]:
    """A file's arrays under our names, and whose weights they are; they must fit the configuration's preprocessing."""
    return fitting_weights(read_weights(path)[0], path, config)


def fitting_weights(arrays: Arrays, path: Path, config: Config) -> tuple[dict[str, np.ndarray], Kind]:
    """The same for arrays that were read from `path` already."""
    name = identify(arrays)
    if name is None:
        raise CheckpointError(f"'{path}' holds weights of no known kind (first names: {shorten(arrays, 4)})")
    kind, pixels = KINDS[name], config.data.pixels
    if kind.pixels is not None and any(getattr(pixels, k) != v for k, v in kind.pixels.items()):
        wanted = " ".join(kind.pixel_overrides())
        raise CheckpointError(f"'{path}' ({kind.title}) was trained on other pixels: use -o {wanted}")
    wanted, default = kind.model.get("stride_in", "1x1"), getattr(MODELS.get(config.model.name), "stride_in", None)
    if default and wanted != config.model.params.get("stride_in", default) and name != "ours":
        raise CheckpointError(f"'{path}' ({kind.title}) needs -o model.stride_in={wanted}")
    return translate(arrays, name, config.model.params.get("aspp_branches", 2)), kind


def convert_weights(source: Path, output: Optional[Path], config: Config) -> list[str]:
    """Write weights of a known kind under our names, if they fit the network; returns what was found."""
    arrays, _ = read_weights(source)
    name = identify(arrays)
    chosen = []
    if name is not None:
        chosen = [f"model.{k}={v}" for k, v in KINDS[name].model.items()] + KINDS[name].pixel_overrides()
    trained = trained_branches(arrays)
    if trained is not None and name != "ours":
        chosen.append(f"model.aspp_branches={trained}")
    config = override(config, *chosen)
    translated, kind = fitting_weights(arrays, source, config)
    with runtime.fresh_names():
        model = build_model(config.model, len(label_space(config)))
    report = load_arrays(model, translated, f"'{source}'", partial=not kind.complete, new_heads=True)
    lines = [f"{source}: {kind.title}", f"{len(arrays)} tensors, {len(translated)} taken for {config.model.name}"]
    lines += [f"set by the weights: {' '.join(chosen)}"] if chosen else []
    lines += [f"not in the file, initialised anew when training: {line}" for line in report]
    if output is not None:
        save_weights(output, {k: np.asarray(v) for k, v in translated.items()}, dump(config))
        lines.append(f"written: {output} (sha256 of the source {hashlib.sha256(source.read_bytes()).hexdigest()})")
    return lines


def load_model(
    origin: str | Path, config: Optional[Config] = None, overrides: Sequence[str] = ()
) -> tuple[Segmenter, Config]:
    """A network with weights, and the configuration it is used with: the one given, else the one in the file."""
    path = find_weights(origin)
    arrays, text = read_weights(path)
    if config is None:
        if not text:
            raise CheckpointError(f"'{path}' carries no configuration; name one with --config")
        config = override(parse_config(text, f"configuration inside '{path}'"), *overrides)
    runtime.set_device(config.run.device)
    with runtime.fresh_names():
        model = build_model(config.model, len(label_space(config)))
    load_arrays(model, fitting_weights(arrays, path, config)[0], f"'{path}'")
    return model, config


def evaluate(
    origin: str | Path | Sequence[str | Path],
    config: Optional[Config] = None,
    overrides: Sequence[str] = (),
    save: Optional[str | Path] = None,
    weights: Sequence[float] = (),
    flip: bool = False,
) -> tuple[ConfusionMatrix, Config]:
    """Score weights on their configuration's validation domain; `save` writes the predictions as pictures.

    Several origins are an ensemble: their probabilities are averaged with `weights`. Each keeps its own network; data
    and protocol are those of the first. `flip` averages with the prediction of the mirrored image.
    """
    origins = [origin] if isinstance(origin, (str, Path)) else list(origin)
    model, config = load_model(origins[0], config, overrides)
    if len(origins) > 1:
        others = [load_model(path) for path in origins[1:]]
        for path, (_, other) in zip(origins[1:], others):
            if label_space(other) != label_space(config) or other.data.pixels != config.data.pixels:
                raise CheckpointError(
                    f"'{path}' predicts other classes or reads pixels in another way than '{origins[0]}'"
                )
        model = Ensemble([model, *(m for m, _ in others)], weights)
    class_sets(config)  # a wrong protocol is said before the images are read
    return evaluate_model(Mirrored(model) if flip else model, config, save=Path(save) if save else None), config

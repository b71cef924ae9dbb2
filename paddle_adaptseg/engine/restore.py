"""From a weights file or a run's folder to a network, and its score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from paddle_adaptseg import runtime
from paddle_adaptseg.config import Config
from paddle_adaptseg.configfile import override, parse_config
from paddle_adaptseg.data import label_space
from paddle_adaptseg.engine.evaluator import evaluate_model
from paddle_adaptseg.errors import CheckpointError
from paddle_adaptseg.metrics import ConfusionMatrix
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.ensemble import Ensemble
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.weights import load_arrays
from paddle_adaptseg.weights.pdparams import read_weights


def find_weights(origin: str | Path) -> Path:
    """The weights file that a path names: itself, or a run folder's best, else newest."""
    path = Path(origin)
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"weights '{path}' do not exist")
    candidates = [path / "best.pdparams", *sorted((path / "weights").glob("step_*.pdparams"), reverse=True)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise CheckpointError(f"folder '{path}' holds no weights (expected best.pdparams or weights/step_*.pdparams)")


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
    with runtime.fresh_names():
        model = build_model(config.model, len(label_space(config)))
    load_arrays(model, arrays, f"'{path}'")
    return model, config


def evaluate(
    origin: str | Path | Sequence[str | Path],
    config: Optional[Config] = None,
    overrides: Sequence[str] = (),
    save: Optional[str | Path] = None,
    weights: Sequence[float] = (),
) -> tuple[ConfusionMatrix, Config]:
    """Score weights on their configuration's validation domain; `save` writes the predictions as pictures.

    Several origins are an ensemble: their probabilities are averaged with `weights`. Each keeps its own network; data
    and protocol are those of the first.
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
    runtime.set_device(config.run.device)
    return evaluate_model(model, config, save=Path(save) if save else None), config

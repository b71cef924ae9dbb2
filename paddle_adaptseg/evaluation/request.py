"""What a user asked for, checked before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from paddle_adaptseg.errors import ConfigError, suggest
from paddle_adaptseg.evaluation.options import InferenceOptions
from paddle_adaptseg.weights.load import find_weights

DOMAINS = ("target", "source")


@dataclass(frozen=True)
class Request:
    """What is to be evaluated, and how."""

    origins: tuple[str, ...]
    weights: tuple[float, ...] = ()
    step: Optional[str] = None
    config: Optional[str] = None
    overrides: tuple[str, ...] = ()
    save: Optional[str] = None
    domains: tuple[str, ...] = ()
    training_size: bool = False
    limit: Optional[int] = None
    baseline: Optional[str] = None
    options: InferenceOptions = field(default_factory=InferenceOptions)
    report: Optional[str] = None
    watch: Optional[float] = None
    tail: int = 5

    @property
    def run(self) -> Optional[Path]:
        """The run whose every checkpoint is asked for: one folder, and no step of it."""
        path = Path(self.origins[0])
        return path if len(self.origins) == 1 and self.step is None and path.is_dir() else None


def check(request: Request) -> None:
    """Refuse what makes no sense, before anything is measured."""
    unknown = "".join([d for d in request.domains if d not in DOMAINS][:1])
    bulk = request.run is not None
    wrong = {
        f"--domains: unknown domain '{unknown}': {suggest(unknown, DOMAINS)}": bool(unknown),
        f"--limit must be at least 1, not {request.limit}": request.limit is not None and request.limit < 1,
        f"--last must be at least 1, not {request.tail}": request.tail < 1,
        "--save needs one model: name a checkpoint of the run with --step": bulk and request.save,
        "--weights are those of an ensemble's models, but there is only one model": bulk and request.weights,
        "--domains: every checkpoint of a run is judged on the target; add it": bulk and request.domains == ("source",),
        "--watch follows a run's folder; give one, without --step": request.watch is not None and not bulk,
    }
    for message, happened in wrong.items():
        if happened:
            raise ConfigError(message)
    if request.baseline:
        baseline_path(request)  # an absent one is said before anything is measured


def weights_path(origin: str, step: Optional[str]) -> Path:
    """A weights file; with a step it is one of a run's, as FOLDER@STEP names it."""
    if step is not None and not Path(origin).is_dir():
        raise ConfigError(f"--step {step} needs a run's folder, but '{origin}' is none")
    return find_weights(origin if step is None else f"{origin}@{step}")


def baseline_path(request: Request) -> Path:
    """The baseline's weights; of a run its last checkpoint, which no target label chose."""
    origin = request.baseline or ""
    return weights_path(origin, "latest" if Path(origin).is_dir() else None)

"""Weights in and out of networks: checked loading, and deployable files that Paddle reads too."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
from paddle import nn

from paddle_adaptseg.core.errors import CheckpointError, shorten
from paddle_adaptseg.core.files import write_atomically

RECORD = "@paddle_adaptseg"  # the key of the configuration text in our own files
ORIGIN = "@origin"  # the key of a JSON text that says where the tensors came from
HEADS = "heads."  # tensors whose shape follows the number of classes
NOTHING = r"(?!)"  # a pattern that no name matches


def arrays_of(layer: nn.Layer) -> dict[str, np.ndarray]:
    """A layer's parameters and buffers as arrays."""
    return {name: tensor.numpy() for name, tensor in layer.state_dict().items()}


@dataclass(frozen=True)
class Coverage:
    """How arrays meet the tensors of a layer, by name."""

    fitting: list[str]
    missing: list[str]
    unused: list[str]
    reshaped: list[str]

    def summary(self) -> str:
        """All counts in one line."""
        return (
            f"{len(self.fitting)} tensors loaded, {len(self.missing)} missing, {len(self.unused)} unused, "
            f"{len(self.reshaped)} of another shape"
        )

    def lines(self) -> list[str]:
        """A line for each kind of difference that occurs."""
        kinds = (("missing", self.missing), ("unused", self.unused), ("of another shape", self.reshaped))
        return [f"{len(names)} {kind}: {shorten(names)}" for kind, names in kinds if names]


def coverage(layer: nn.Layer, arrays: Mapping[str, np.ndarray]) -> Coverage:
    """Compare arrays with a layer's tensors by name and shape."""
    own = layer.state_dict()
    shared = [name for name in own if name in arrays]
    reshaped = [name for name in shared if tuple(own[name].shape) != tuple(arrays[name].shape)]
    return Coverage(
        fitting=[name for name in shared if name not in reshaped],
        missing=[name for name in own if name not in arrays],
        unused=[name for name in arrays if name not in own],
        reshaped=reshaped,
    )


def load_arrays(
    layer: nn.Layer,
    arrays: Mapping[str, np.ndarray],
    origin: str,
    partial: bool = False,
    new_heads: bool = False,
    absent: str = NOTHING,
) -> list[str]:
    """Set a layer's tensors from arrays. Anything missing, unused or of another shape is an error unless `partial`.

    Names that match `absent` may be missing; with `new_heads`, heads of another shape stay as they are initialised.
    Returns a line per kind of difference.
    """
    found = coverage(layer, arrays)
    report = found.lines()
    odd = found.unused or [name for name in found.missing if not re.search(absent, name)]
    odd = odd or [name for name in found.reshaped if not (new_heads and name.startswith(HEADS))]
    if odd and not partial:
        raise CheckpointError(
            f"{origin} does not fit the model: {'; '.join(report)} (run.restore_partial=true loads what fits)"
        )
    if not found.fitting:
        raise CheckpointError(f"{origin} has no tensor that fits the model: {'; '.join(report)}")
    own = layer.state_dict()
    for name in found.fitting:
        own[name].set_value(np.ascontiguousarray(arrays[name]).astype(own[name].numpy().dtype))
    return report


def save_weights(
    path: Path, arrays: Mapping[str, np.ndarray], config_text: str, origin: Optional[Mapping[str, Any]] = None
) -> None:
    """Write weights, their configuration and where they came from in one atomic step."""
    payload = pickle.dumps({**arrays, RECORD: config_text, ORIGIN: json.dumps(origin or {})}, protocol=4)
    write_atomically(path, lambda handle: handle.write(payload))

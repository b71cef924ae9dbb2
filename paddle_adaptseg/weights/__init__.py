"""Weights in and out of networks: safe readers and checked loading."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from paddle import nn

from paddle_adaptseg.errors import CheckpointError, shorten


def arrays_of(layer: nn.Layer) -> dict[str, np.ndarray]:
    """A layer's parameters and buffers as arrays."""
    return {name: tensor.numpy() for name, tensor in layer.state_dict().items()}


HEADS = "heads."  # tensors whose shape follows the number of classes


def load_arrays(
    layer: nn.Layer, arrays: Mapping[str, np.ndarray], origin: str, partial: bool = False, new_heads: bool = False
) -> list[str]:
    """Set a layer's tensors from arrays. Anything missing, unused or of another shape is an error unless `partial`.

    With `new_heads`, heads of another shape stay as they are initialised. Returns a line per kind of difference.
    """
    own = layer.state_dict()
    missing = [name for name in own if name not in arrays]
    unused = [name for name in arrays if name not in own]
    reshaped = [n for n in own if n in arrays and tuple(own[n].shape) != tuple(arrays[n].shape)]
    report = [
        f"{len(names)} {kind}: {shorten(names)}"
        for kind, names in (("missing", missing), ("unused", unused), ("of another shape", reshaped))
        if names
    ]
    only_heads = new_heads and not missing and not unused and all(n.startswith(HEADS) for n in reshaped)
    if report and not partial and not only_heads:
        raise CheckpointError(
            f"{origin} does not fit the model: {'; '.join(report)} (run.restore_partial=true loads what fits)"
        )
    fitting = [name for name in own if name in arrays and name not in reshaped]
    if not fitting:
        raise CheckpointError(f"{origin} has no tensor that fits the model: {'; '.join(report)}")
    for name in fitting:
        own[name].set_value(np.ascontiguousarray(arrays[name]).astype(own[name].numpy().dtype))
    return report

"""Deployable weights: one `.pdparams` file of plain arrays with the configuration inside. Paddle reads it too."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from paddle_adaptseg.files import write_atomically
from paddle_adaptseg.weights.reader import RECORD


def save_weights(path: Path, arrays: Mapping[str, np.ndarray], config_text: str) -> None:
    """Write weights and configuration in one atomic step."""
    payload = pickle.dumps({**arrays, RECORD: config_text}, protocol=4)
    write_atomically(path, lambda handle: handle.write(payload))

"""Deployable weights: one `.pdparams` file of plain arrays with the configuration inside. Paddle reads it too."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np

from paddle_adaptseg.files import write_atomically
from paddle_adaptseg.weights.reader import ORIGIN, RECORD


def save_weights(
    path: Path, arrays: Mapping[str, np.ndarray], config_text: str, origin: Optional[Mapping[str, Any]] = None
) -> None:
    """Write weights, their configuration and where they came from in one atomic step."""
    payload = pickle.dumps({**arrays, RECORD: config_text, ORIGIN: json.dumps(origin or {})}, protocol=4)
    write_atomically(path, lambda handle: handle.write(payload))

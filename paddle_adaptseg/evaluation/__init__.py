"""From an image to its labels (predictor), from labels to scores (metrics, measure), and the evaluation command."""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {"InferenceOptions": "predictor", "Predictor": "predictor", "Request": "command", "evaluate_request": "command"}
__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    """What notebooks and tools import from here, loaded when it is used: training needs neither command nor reports."""
    if name not in _LAZY:
        raise AttributeError(f"module 'paddle_adaptseg.evaluation' has no attribute '{name}'")
    return getattr(importlib.import_module(f"paddle_adaptseg.evaluation.{_LAZY[name]}"), name)

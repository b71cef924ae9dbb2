"""fit() trains a configuration, evaluate() scores weights: what the tools and notebooks call."""

from __future__ import annotations

from paddle_adaptseg.engine.fit import FitResult, fit
from paddle_adaptseg.engine.restore import evaluate, load_model

__all__ = ["FitResult", "evaluate", "fit", "load_model"]

"""fit() trains a configuration, evaluate() scores weights: what the tools and notebooks call."""

from __future__ import annotations

from paddle_adaptseg.engine.restore import evaluate, load_model
from paddle_adaptseg.engine.run import FitResult, fit

__all__ = ["FitResult", "evaluate", "fit", "load_model"]

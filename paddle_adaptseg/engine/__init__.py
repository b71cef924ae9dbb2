"""fit() trains a configuration, evaluate() scores weights: what the tools and notebooks call."""

from __future__ import annotations

from paddle_adaptseg.engine.run import FitResult, fit
from paddle_adaptseg.evaluation.measure import evaluate
from paddle_adaptseg.weights.load import load_model

__all__ = ["FitResult", "evaluate", "fit", "load_model"]

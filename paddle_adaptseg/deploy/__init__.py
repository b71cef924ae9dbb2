"""Trained networks in use: exported programs, predictions for pictures and films, and one call for notebooks."""

from __future__ import annotations

from paddle_adaptseg.deploy.notebook import Prediction, predict

__all__ = ["Prediction", "predict"]

"""Unsupervised domain adaptation for semantic segmentation on PaddlePaddle.

Importing the package sets CPU thread variables (they must stand before Paddle is imported) and does nothing else;
the names a notebook needs are loaded when first used.
"""

from __future__ import annotations

import importlib

from paddle_adaptseg.core import runtime

__version__ = "0.1.0"

runtime.set_cpu_threads()

_LAZY = {
    "load_config": "paddle_adaptseg.config.loading",
    "override": "paddle_adaptseg.config.loading",
    "register": "paddle_adaptseg.config.conversion",
    "fit": "paddle_adaptseg.training.run",
    "evaluate": "paddle_adaptseg.evaluation.measure",
    "evaluate_request": "paddle_adaptseg.evaluation.command",
    "predict": "paddle_adaptseg.deploy.runners",
    "train": "paddle_adaptseg.lab.notebook",
    "show_data": "paddle_adaptseg.lab.notebook",
    "show_run": "paddle_adaptseg.lab.notebook",
    "show_predictions": "paddle_adaptseg.lab.notebook",
    "show_report": "paddle_adaptseg.lab.notebook",
    "find_places": "paddle_adaptseg.lab.aistudio",
    "check_room": "paddle_adaptseg.lab.aistudio",
}
__all__ = [*_LAZY, "__version__"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str):
    """Load a public name on first use, so that `--help` needs no Paddle."""
    if name not in _LAZY:
        raise AttributeError(f"module 'paddle_adaptseg' has no attribute '{name}'")
    if _LAZY[name] not in ("paddle_adaptseg.config.loading", "paddle_adaptseg.config.conversion"):
        runtime.import_paddle()
    return getattr(importlib.import_module(_LAZY[name]), name)

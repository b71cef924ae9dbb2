"""Unsupervised domain adaptation for semantic segmentation on PaddlePaddle.

Importing the package sets CPU thread variables (they must stand before Paddle is imported) and does nothing else;
the names a notebook needs are loaded when first used.
"""

from __future__ import annotations

import importlib

from paddle_adaptseg import runtime
from paddle_adaptseg.version import __version__

runtime.set_cpu_threads()

_LAZY = {
    "load_config": "paddle_adaptseg.configfile",
    "override": "paddle_adaptseg.configfile",
    "register": "paddle_adaptseg.registry",
    "fit": "paddle_adaptseg.engine",
    "evaluate": "paddle_adaptseg.evaluation.measure",
    "evaluate_request": "paddle_adaptseg.evaluation.command",
    "predict": "paddle_adaptseg.deploy",
    "train": "paddle_adaptseg.notebook",
    "show_data": "paddle_adaptseg.notebook",
    "show_run": "paddle_adaptseg.notebook",
    "show_predictions": "paddle_adaptseg.notebook",
    "show_report": "paddle_adaptseg.notebook",
    "find_places": "paddle_adaptseg.aistudio",
    "check_room": "paddle_adaptseg.aistudio",
}
__all__ = [*_LAZY, "__version__"]


def __getattr__(name: str):
    """Load a public name on first use, so that `--help` needs no Paddle."""
    if name not in _LAZY:
        raise AttributeError(f"module 'paddle_adaptseg' has no attribute '{name}'")
    if _LAZY[name] not in ("paddle_adaptseg.configfile", "paddle_adaptseg.registry"):
        runtime.import_paddle()
    return getattr(importlib.import_module(_LAZY[name]), name)

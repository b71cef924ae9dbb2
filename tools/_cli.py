"""What every script here does: find the package beside it, and run one of its commands."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddle_adaptseg.__main__ import exit_with, run  # noqa: E402

__all__ = ["exit_with", "run"]

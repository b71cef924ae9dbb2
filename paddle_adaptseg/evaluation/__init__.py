"""The evaluation command: what is asked for (request), answered (command), and added for a report (extras)."""

from __future__ import annotations

from paddle_adaptseg.evaluation.command import evaluate_request
from paddle_adaptseg.evaluation.request import Request

__all__ = ["Request", "evaluate_request"]

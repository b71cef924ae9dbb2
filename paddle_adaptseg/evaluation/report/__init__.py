"""What was found, for people: tables (CSV, XLSX), charts (PNG) and one self-contained HTML page."""

from __future__ import annotations

from paddle_adaptseg.evaluation.report.findings import Findings, Shown, Trajectory
from paddle_adaptseg.evaluation.report.page import write_report
from paddle_adaptseg.evaluation.report.sheets import write_tables

__all__ = ["Findings", "Shown", "Trajectory", "write_report", "write_tables"]

"""The table of a run's checkpoints as CSV and XLSX, in the shape of the Paddle port's sheet: iterations, then mIoU."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.evaluation.report.charts import run_curve
from paddle_adaptseg.evaluation.report.findings import Trajectory
from paddle_adaptseg.evaluation.selection import CRITERIA

TITLES: Mapping[str, str] = {
    "step": "iterations",
    "miou": "mIoU",
    "low": "interval low",
    "high": "interval high",
    "pixel_accuracy": "pixel accuracy",
    "source_miou": "source mIoU",
    "entropy": "target entropy",
    "stability": "prediction stability",
    "share_agreement": "class-share agreement",
}
SHARES = ("entropy", "stability", "share_agreement")  # these stay in 0..1, all others are per cent


def title_of(column: str) -> str:
    """What a column is called."""
    return TITLES.get(column, column.replace("_", " ", 1))


def rounded(column: str, value: float) -> float | int | None:
    """A cell: whole steps, two decimals for per cent, four for shares; nothing for what was not measured."""
    if column == "step":
        return int(value)
    return None if math.isnan(value) else round(value, digits_of(column))


def digits_of(column: str) -> int:
    """Decimals of a column."""
    return 4 if column in SHARES else 2


def write_tables(run: Trajectory, folder: Path, name: str) -> list[Path]:
    """`iterations.csv`, `iterations.xlsx` and `curve.png` of a run."""
    outputs = {"iterations.csv": csv_of(run.rows), "iterations.xlsx": xlsx_of(run), "curve.png": run_curve(run, name)}
    for file, data in outputs.items():
        write_atomically(folder / file, lambda handle, data=data: handle.write(data))
    return [folder / file for file in outputs]


def csv_of(rows: Sequence[Mapping[str, float]]) -> bytes:
    """The rows as CSV; a cell that was not measured is empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([title_of(column) for column in rows[0]])
    writer.writerows([[rounded(column, value) for column, value in row.items()] for row in rows])
    return text.getvalue().encode()


def xlsx_of(run: Trajectory) -> bytes:
    """The rows as a workbook with a chart, and a second sheet with the headline scores and the criteria's picks."""
    from xlsxwriter import Workbook

    data = io.BytesIO()
    with Workbook(data, {"in_memory": True, "strings_to_formulas": False}) as book:
        bold = book.add_format({"bold": True})
        sheet = book.add_worksheet("iterations")
        sheet.freeze_panes(1, 2)
        sheet.set_column(0, len(run.rows[0]), 12)
        for column, name in enumerate(run.rows[0]):
            sheet.write_string(0, column, title_of(name), bold)
            for line, row in enumerate(run.rows, 1):
                value = rounded(name, row[name])
                if value is not None:
                    sheet.write_number(line, column, value)
        chart, last = book.add_chart({"type": "scatter", "subtype": "straight_with_markers"}), len(run.rows)
        chart.add_series(
            {"name": "mIoU", "categories": ["iterations", 1, 0, last, 0], "values": ["iterations", 1, 1, last, 1]}
        )
        chart.set_x_axis({"name": "iterations"})
        summary = book.add_worksheet("summary")
        summary.set_column(0, 0, 34)
        for line, cells in enumerate(summary_rows(run)):
            for column, cell in enumerate(cells):
                summary.write(line, column, cell, bold if line == 0 else None)
        summary.insert_chart(0, 6, chart)
    return data.getvalue()


def summary_rows(run: Trajectory) -> list[tuple]:
    """Headline scores and picks as rows: what, step, mIoU, cost against the best."""
    head = run.headline
    rows = [
        ("rule", "iterations", "mIoU", "cost against the best"),
        ("last", head.last_step, round(head.last, 2), round(head.best - head.last, 2)),
        ("best (chosen on target labels)", head.best_step, round(head.best, 2), 0.0),
        (f"mean of the last {head.tail}", "", round(head.tail_mean, 2), round(head.best - head.tail_mean, 2)),
    ]
    named = [pick for pick in run.picks if pick.criterion in CRITERIA and pick.criterion != "last"]
    return rows + [(pick.criterion, pick.step, round(pick.miou, 2), round(pick.cost, 2)) for pick in named]

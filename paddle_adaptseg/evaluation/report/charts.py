"""Charts as PNG bytes, with matplotlib and no global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from paddle_adaptseg.evaluation.metrics import BINS, calibration_error
from paddle_adaptseg.evaluation.report.findings import DomainScores, Trajectory
from paddle_adaptseg.evaluation.report.published import Published

FEW = 1e-3  # of all pixels: a smaller bin says nothing and is not drawn
OURS, OTHER, MARK, GREY = "#2f6690", "#e08e45", "#c1292e", "#9aa5b1"


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def png_of(figure) -> bytes:
    """A matplotlib figure as a PNG file's bytes."""
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def run_curve(run: Trajectory, title: str) -> bytes:
    """mIoU over iterations with its interval; the best checkpoint and the mean of the last ones are marked."""
    figure, axes = _figure(6.4, 3.8)
    steps, head = [row["step"] for row in run.rows], run.headline
    axes.fill_between(steps, [r["low"] for r in run.rows], [r["high"] for r in run.rows], color=OURS, alpha=0.15, lw=0)
    axes.plot(
        steps, [r["miou"] for r in run.rows], "o-", color=OURS, markersize=4, label="target mIoU (95 % over images)"
    )
    source = [r["source_miou"] for r in run.rows]
    if np.isfinite(source).any():
        axes.plot(steps, source, "s--", color=OTHER, markersize=3, label="source mIoU")
    axes.plot(head.best_step, head.best, "*", color=MARK, markersize=12, label="best (chosen on target labels)")
    tail = steps[-head.tail :]
    axes.plot([tail[0], tail[-1]], [head.tail_mean] * 2, color="black", lw=1.5, label=f"mean of the last {head.tail}")
    axes.set_xlabel("iterations")
    axes.set_ylabel("mIoU, %")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="y", color="#e5e7eb")
    axes.legend(fontsize=8, frameon=False)
    return png_of(figure)


def class_bars(
    names: Sequence[str], iou: np.ndarray, other: np.ndarray | None, domain: str, called: str = "baseline"
) -> bytes:
    """IoU of every class, beside another network's where there is one; published ones are hatched."""
    figure, axes = _figure(6.4, 0.8 + 0.28 * len(names))
    places = np.arange(len(names))[::-1]
    both, style = other is not None, {"color": GREY}
    if "published" in called:
        style = {"color": "white", "edgecolor": GREY, "hatch": "///"}
    axes.barh(
        places + (0.2 if both else 0), 100 * np.nan_to_num(iou), 0.4 if both else 0.7, color=OURS, label="this model"
    )
    if other is not None:
        axes.barh(places - 0.2, 100 * np.nan_to_num(other), 0.4, label=called, **style)
        axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    for place, value in zip(places, iou):
        text = "absent" if np.isnan(value) else f"{100 * value:.1f}"
        axes.text(
            0.5 if np.isnan(value) else 100 * value + 0.5, place + (0.2 if both else 0), text, va="center", fontsize=7
        )
    axes.set_yticks(places, names)
    axes.set_xlim(0, 105)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(f"IoU on the {domain}, %")
    return png_of(figure)


def published_bars(own: Mapping[str, float], numbers: Sequence[Published], classes: int) -> bytes:
    """Mean IoU of this evaluation beside the published means of the same setting, which are hatched."""
    figure, axes = _figure(6.4, 0.9 + 0.3 * (len(own) + len(numbers)))
    rows = [(name, value, False) for name, value in own.items()]
    rows += [(f"{n.method} (published)", n.miou, True) for n in numbers]
    for place, (_, value, theirs) in enumerate(reversed(rows)):
        axes.barh(place, value, 0.7, color="white" if theirs else OURS, edgecolor=GREY, hatch="///" if theirs else None)
        axes.text(value + 0.5, place, f"{value:.1f}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)], fontsize=8)
    axes.set_xlabel(f"mIoU over {classes} classes, %")
    return png_of(figure)


def confusion_figure(counts: np.ndarray, names: Sequence[str]) -> bytes:
    """Rows: ground truth, columns: prediction, each row in per cent of its pixels."""
    total = counts.sum(1, keepdims=True)
    share = np.divide(100 * counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    size = 2.2 + 0.34 * len(names)
    figure, axes = _figure(size, size * 0.92)
    axes.imshow(np.ma.masked_invalid(share), cmap="Blues", vmin=0, vmax=100)
    for row, line in enumerate(share):
        for column, value in enumerate(line):
            if value >= 1:
                colour = "white" if value > 55 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("ground truth (an empty row: absent)")
    return png_of(figure)


def reliability_figure(domains: Mapping[str, DomainScores]) -> bytes:
    """How often predictions of each confidence are right; on the diagonal they are as right as they are sure."""
    figure, axes = _figure(5, 4.2)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, label="perfectly calibrated")
    for (name, scores), colour in zip(domains.items(), (OURS, OTHER)):
        pixels, confidence, right = scores.reliability
        used = pixels >= max(1, FEW * pixels.sum())
        place = confidence[used] / pixels[used]
        label = f"{name}: ECE {100 * calibration_error(scores.reliability):.1f} %"
        axes.plot(place, right[used] / pixels[used], "o-", color=colour, markersize=4, label=label)
        axes.bar((np.arange(BINS) + 0.5) / BINS, 0.25 * pixels / pixels.sum(), 0.9 / BINS, color=colour, alpha=0.2)
    axes.set_xlabel("confidence (bars: share of pixels)")
    axes.set_ylabel("share that is right")
    axes.legend(fontsize=8, frameon=False)
    return png_of(figure)

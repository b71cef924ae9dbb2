"""The report: one HTML page and its figures as PNG files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.core.labels import LabelSpace
from paddle_adaptseg.evaluation.metrics import boundary_iou, calibration_error, mean_present
from paddle_adaptseg.evaluation.report import charts, html
from paddle_adaptseg.evaluation.report.findings import DomainScores, Findings, Shown, Trajectory
from paddle_adaptseg.evaluation.report.published import Published, published
from paddle_adaptseg.evaluation.report.sheets import digits_of, rounded, summary_rows, title_of
from paddle_adaptseg.evaluation.selection import CRITERIA
from paddle_adaptseg.evaluation.visual import png_bytes

Figures = dict[str, bytes]
_FEW = ("step", "miou", "low", "high", "source_miou", "entropy", "stability", "share_agreement")


def write_report(findings: Findings, folder: Path) -> Path:
    """Write `index.html` and the PNGs into `folder`; returns the page."""
    figures: Figures = {}
    parts = [html.title(findings.title), _cards(findings), _summary(findings)]
    if findings.run is not None:
        parts += [_run(findings.run, figures), _selection(findings.run)]
    if len(findings.effects) > 1:
        parts.append(_effects(findings.effects))
    parts.append(_published(findings, figures))
    parts += [_domain(findings, name, scores, figures) for name, scores in findings.domains.items()]
    parts += [
        _calibration(findings, figures),
        _images(findings.images, findings.space, figures),
        _environment(findings),
    ]
    for name, data in figures.items():
        write_atomically(folder / name, lambda handle, data=data: handle.write(data))
    document = html.page(findings.title, "\n".join(parts)).encode()
    write_atomically(folder / "index.html", lambda handle: handle.write(document))
    return folder / "index.html"


def _cards(findings: Findings) -> str:
    """Key figures at a glance."""
    values = []
    for domain, scores in findings.domains.items():
        for protocol, ids in findings.sets.items():
            values.append((_percent(scores.matrix.miou(ids)), f"{domain} mIoU, {protocol}{_spread(scores, protocol)}"))
    for domain, scores in findings.baseline.items():
        protocol, ids = next(iter(findings.sets.items()))
        lift = findings.domains[domain].matrix.miou(ids) - scores.matrix.miou(ids)
        values.append((f"{100 * lift:+.1f}", f"{domain} lift over the baseline, {protocol}"))
    if findings.run is not None:
        head = findings.run.headline
        values += [
            (f"{head.best:.1f}", f"best, step {head.best_step} (chosen on target labels)"),
            (f"{head.tail_mean:.1f}", f"mean of the last {head.tail}"),
        ]
    return html.cards(values)


def _summary(findings: Findings) -> str:
    rows: list[list[html.Cell]] = []
    for name, scores in _all_domains(findings).items():
        matrix = scores.matrix
        values = [*(matrix.miou(ids) for ids in findings.sets.values()), matrix.pixel_accuracy()]
        values += [mean_present(matrix.accuracy()), matrix.frequency_weighted_iou(), mean_present(matrix.precision())]
        values += [mean_present(boundary_iou(scores.boundary)), calibration_error(scores.reliability)]
        rows.append([name, *(100 * value for value in values), scores.entropy, matrix.images])
    head = ["domain", *(f"mIoU {name}" for name in findings.sets), "pixel acc.", "class acc.", "fw IoU", "precision",
            "boundary IoU", "ECE", "entropy", "images"]  # fmt: skip
    lines = [html.text(line, small=True) for line in findings.protocol]
    return html.section(
        "Scores, %",
        html.table(head, rows),
        html.text(
            "Class means are over classes that occur in the ground truth. Entropy runs from 0 (certain) to 1.",
            small=True,
        ),
        *lines,
        html.text(f"Prediction: {findings.prediction}", small=True),
    )


def _run(run: Trajectory, figures: Figures) -> str:
    figures["curve.png"] = charts.run_curve(run, "mIoU over iterations")
    columns = [c for c in run.rows[0] if c in _FEW or c.startswith("mIoU_")]
    rows = [[_cell(column, row[column]) for column in columns] for row in run.rows]
    best = [row["step"] for row in run.rows].index(run.headline.best_step)
    return html.section(
        f"{len(run.rows)} checkpoints",
        html.figure(figures["curve.png"], "mIoU of every checkpoint; the band is its 95 % interval over images"),
        html.table([title_of(column) for column in columns], rows, [digits_of(column) for column in columns], best),
    )


def _cell(column: str, value: float) -> html.Cell:
    cell = rounded(column, value)
    return float("nan") if cell is None else cell


def _selection(run: Trajectory) -> str:
    head, *rows = summary_rows(run)
    measured = {pick.criterion for pick in run.picks}
    missing = [name for name in CRITERIA if name not in measured]
    notes = [html.text(f"{name}: {criterion.meaning}", small=True) for name, criterion in CRITERIA.items()]
    if missing:
        notes.append(html.text(f"Not measured: {', '.join(missing)} (needs --domains source,target).", small=True))
    return html.section(
        "Which checkpoint, and would we have known without target labels?",
        html.table(head, [[cell if cell != "" else float("nan") for cell in row] for row in rows]),
        html.text("Only the best needs target labels. Cost: points of mIoU that a rule loses against it.", small=True),
        *notes,
    )


def _effects(effects: Mapping[str, float]) -> str:
    plain = effects["plain"]
    rows: list[list[html.Cell]] = [[name, value, value - plain] for name, value in effects.items()]
    return html.section("What each option changes (target mIoU, %)", html.table(["prediction", "mIoU", "change"], rows))


def _published(findings: Findings, figures: Figures) -> str:
    parts = []
    target = findings.domains.get("target")
    for protocol, ids in findings.sets.items():
        if target is None:
            break
        matrix = target.matrix
        numbers, reason = published(findings.config, len(ids), matrix.images, findings.training_size)
        if not numbers:
            parts.append(html.text(f"{protocol}: no published number to compare with, because {reason}."))
            continue
        own = {"this model": 100 * matrix.miou(ids)}
        if "target" in findings.baseline:
            own["baseline"] = 100 * findings.baseline["target"].matrix.miou(ids)
        name = f"published_{len(ids)}.png"
        figures[name] = charts.published_bars(own, numbers, len(ids))
        rows: list[list[html.Cell]] = [[n.method, n.miou, own["this model"] - n.miou, n.source] for n in numbers]
        parts += [
            html.figure(figures[name], f"{protocol}: hatched bars are published means, not measured here"),
            html.table(["published", "mIoU", "this model minus it", "where"], rows),
            *_published_classes(findings, numbers, figures),
        ]
    return html.section("Against published numbers of the same setting", *parts)


def _published_classes(findings: Findings, numbers: Sequence[Published], figures: Figures) -> list[str]:
    """Bars of every class beside each published number that lists its classes."""
    parts, names = [], findings.space.names
    for place, number in enumerate(n for n in numbers if len(n.classes) == len(names)):
        key, theirs = f"published_classes_{place}.png", np.array(number.classes) / 100
        iou = findings.domains["target"].matrix.iou()
        figures[key] = charts.class_bars(names, iou, theirs, "target", f"{number.method} (published)")
        parts.append(html.figure(figures[key], f"By class beside {number.method} ({number.source}), not measured here"))
    return parts or [html.text("No class's IoU was published for this setting, only means.", small=True)]


def _domain(findings: Findings, name: str, scores: DomainScores, figures: Figures) -> str:
    matrix, names = scores.matrix, findings.space.names
    base = findings.baseline.get(name)
    figures[f"classes_{name}.png"] = charts.class_bars(names, matrix.iou(), base.matrix.iou() if base else None, name)
    figures[f"confusion_{name}.png"] = charts.confusion_figure(matrix.counts, names)
    columns = {
        "IoU": matrix.iou(), "accuracy": matrix.accuracy(), "precision": matrix.precision(),
        "boundary IoU": boundary_iou(scores.boundary),
        "share of ground truth": matrix.counts.sum(1) / max(1, matrix.counts.sum()),
        "share of prediction": matrix.counts.sum(0) / max(1, matrix.counts.sum()),
    }  # fmt: skip
    if base is not None:
        columns["lift"] = matrix.iou() - base.matrix.iou()
    rows: list[list[html.Cell]] = [
        [c, *(float(100 * column[i]) for column in columns.values())] for i, c in enumerate(names)
    ]
    return html.section(
        f"Classes on the {name}, %",
        html.table(["class", *columns], rows),
        html.figure(figures[f"classes_{name}.png"], f"IoU by class ({name})"),
        html.figure(
            figures[f"confusion_{name}.png"], f"Confusion matrix ({name}): rows are the ground truth, in %", True
        ),
    )


def _calibration(findings: Findings, figures: Figures) -> str:
    figures["reliability.png"] = charts.reliability_figure(findings.domains)
    return html.section(
        "Calibration",
        html.figure(figures["reliability.png"], "Below the diagonal the network is surer than it is right"),
    )


def _images(images: Sequence[Shown], space: LabelSpace, figures: Figures) -> str:
    if not images:
        return ""
    parts = []
    for index, shown in enumerate(images):
        pngs = [png_bytes(array) for array in shown.pictures.values()]
        figures[f"image_{index}.png"] = png_bytes(np.hstack(list(shown.pictures.values())))
        parts.append(html.image_row(pngs, list(shown.pictures), shown.caption))
    classes = sorted({index for shown in images for index in shown.classes})
    legend = html.legend([(space.names[index], space.colours[index]) for index in classes])
    note = html.text("In an error map wrong pixels are red; pixels that no class counts for are black.", small=True)
    return html.section("Best, median and worst target images", legend, *parts, note)


def _environment(findings: Findings) -> str:
    seconds = {name: scores.seconds / max(1, scores.matrix.images) for name, scores in findings.domains.items()}
    speed = ", ".join(f"{name} {value:.2f} s an image" for name, value in seconds.items())
    lines = [*(f"weights: {w}" for w in findings.weights), findings.environment, f"with reading and scoring: {speed}"]
    if findings.baseline_name:
        lines.append(f"baseline: {findings.baseline_name}")
    return html.section("Weights and environment", *(html.text(line, small=True) for line in lines))


def _all_domains(findings: Findings) -> dict[str, DomainScores]:
    return {**findings.domains, **{f"baseline, {name}": scores for name, scores in findings.baseline.items()}}


def _spread(scores: DomainScores, protocol: str) -> str:
    low, high = scores.intervals.get(protocol, (float("nan"),) * 2)
    return "" if np.isnan(low) else f" (95 % of resampled image sets: {100 * low:.1f} to {100 * high:.1f})"


def _percent(value: float) -> str:
    return "absent" if np.isnan(value) else f"{100 * value:.1f}"

"""Findings as lines of text."""

from __future__ import annotations

from paddle_adaptseg.evaluation.metrics import boundary_iou, calibration_error, iou_table, mean_present
from paddle_adaptseg.evaluation.report.findings import DomainScores, Findings, Trajectory
from paddle_adaptseg.evaluation.report.sheets import summary_rows


def score_lines(found: Findings) -> list[str]:
    """The originals' table for every domain, then what else was scored."""
    lines, primary = [], next(iter(found.sets))
    for (domain, scores), protocol in zip(found.domains.items(), found.protocol):
        if len(found.domains) > 1:
            lines.append(f"{domain}:")
        lines += [iou_table(found.space.names, scores.matrix, found.sets), _other_scores(scores, primary)]
        if domain in found.baseline:
            ids = found.sets[primary]
            before, after = (100 * d.matrix.miou(ids) for d in (found.baseline[domain], scores))
            change = f"{after - before:+.2f} ({before:.2f} to {after:.2f}, {primary})"
            lines.append(f"lift over {found.baseline_name}: {change}")
        lines.append(protocol)
    return [*lines, f"weights: {', '.join(found.weights)}; prediction: {found.prediction}"]


def _other_scores(scores: DomainScores, primary: str) -> str:
    matrix = scores.matrix
    low, high = (100 * x for x in scores.intervals[primary])
    return (
        f"mIoU in 95 % of resampled image sets: {low:.2f} to {high:.2f}; pixel accuracy "
        f"{100 * matrix.pixel_accuracy():.2f}, frequency-weighted IoU {100 * matrix.frequency_weighted_iou():.2f}, "
        f"boundary IoU {100 * mean_present(boundary_iou(scores.boundary)):.2f}, class accuracy "
        f"{100 * mean_present(matrix.accuracy()):.2f}, precision {100 * mean_present(matrix.precision()):.2f}, "
        f"calibration error {100 * calibration_error(scores.reliability):.2f}"
    )


def rule_lines(run: Trajectory) -> list[str]:
    """Last, best, mean of the last ones and every criterion's pick, aligned."""
    lines = [f"{'rule':<32} {'step':>10} {'mIoU':>7} {'cost':>7}"]
    for name, step, miou, cost in summary_rows(run)[1:]:
        lines.append(f"{name:<32} {step!s:>10} {miou:7.2f} {cost:7.2f}")
    return lines

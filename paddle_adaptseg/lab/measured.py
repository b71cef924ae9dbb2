"""The page of what self-training reaches on the toy pair, from one file of measured scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SCORES = Path(__file__).resolve().parents[2] / "docs" / "toy_self_training.json"


def measured_page(path: Path = SCORES) -> str:
    """A Markdown page with a table for each group of trainings."""
    data = json.loads(path.read_text(encoding="utf-8"))
    parts = [f"# {data['title']}\n\nWritten by `make pages` from [{path.name}]({path.name}). {data['note']}\n"]
    for group in data["groups"]:
        parts.append(f"## {group['title']}\n{group['note']}\n\n{group_table(group)}\n")
    return "\n".join(parts)


def group_table(group: Mapping[str, Any]) -> str:
    """The rows of a group with their scores by seed, the mean, and the difference from the row `against`."""
    seeds, against = group["seeds"], group["against"]
    rows = {row["name"]: row for row in group["rows"]}
    titles = ["training", "steps", *(f"seed {seed}" for seed in seeds)]
    titles += ["mean"][: len(seeds) > 1] + [f"against {against}"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for name, row in rows.items():
        scores, base = row["scores"], rows[against]["scores"]
        cells = [name, row["steps"], *(f"{score:.2f}" for score in scores)]
        cells += [f"{np.mean(scores):.2f}"][: len(seeds) > 1] + ["" if name == against else differences(scores, base)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def differences(scores: Sequence[float], base: Sequence[float]) -> str:
    """By how much scores differ from others of the same seeds: on average, and for each seed."""
    apart = [a - b for a, b in zip(scores, base)]
    if len(apart) == 1:
        return f"{apart[0]:+.2f}"
    return f"{np.mean(apart):+.2f} ({' '.join(f'{x:+.2f}' for x in apart)})"

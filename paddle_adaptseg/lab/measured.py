"""The page of what self-training reaches on the toy pair, from one file of measured scores."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.lab.tables import markdown_table

SCORES = Path(__file__).resolve().parents[2] / "docs" / "measured.json"
MARK = re.compile(r"(<!-- (\S+) -->)(.*?)(<!-- / -->)", re.S)  # <!-- demo.adapted.mean -->43.39<!-- / -->
DEMO = {
    "source only": "source_only",
    "AdaptSegNet, multi level": "adapted",
    "AdaptSegNet, then self-training": "self_training",
    "AdaptSegNet, then more adversarial training": "again",
    "AdaptSegNet in one run of 1350 steps": "adapted_1350",
    "AdaptSegNet in one run of 1800 steps": "adapted_1800",
    "AdaptSegNet of 1350 steps, then self-training": "self_training_1800",
}


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
    lines = []
    for name, row in rows.items():
        scores, base = row["scores"], rows[against]["scores"]
        cells = [name, row["steps"], *(f"{score:.2f}" for score in scores)]
        cells += [f"{np.mean(scores):.2f}"][: len(seeds) > 1] + ["" if name == against else differences(scores, base)]
        lines.append(cells)
    return markdown_table(titles, lines)


def differences(scores: Sequence[float], base: Sequence[float]) -> str:
    """By how much scores differ from others of the same seeds: on average, and for each seed."""
    apart = [a - b for a, b in zip(scores, base)]
    if len(apart) == 1:
        return f"{apart[0]:+.2f}"
    return f"{np.mean(apart):+.2f} ({' '.join(f'{x:+.2f}' for x in apart)})"


def filled(text: str, path: Path = SCORES) -> str:
    """A page's text with the measured value between each pair of marks."""
    known = values(json.loads(path.read_text(encoding="utf-8")))
    return MARK.sub(lambda mark: mark[1] + lookup(known, mark[2], "measured value") + mark[4], text)


def values(data: Mapping[str, Any]) -> dict[str, str]:
    """What pages may show, by name: single numbers, and tables with empty lines around them."""
    scores = {DEMO[row["name"]]: row["scores"] for row in data["groups"][0]["rows"] if row["name"] in DEMO}
    found = {"demo.table": f"\n\n{demo_table(scores, data['groups'][0]['seeds'])}\n\n",
             "methods.table": f"\n\n{methods_table(data['methods'])}\n\n"}  # fmt: skip
    for name, by_seed in scores.items():
        found[f"demo.{name}.mean"] = f"{np.mean(by_seed):.2f}"
        found.update({f"demo.{name}.{seed}": f"{x:.2f}" for seed, x in zip(data["groups"][0]["seeds"], by_seed)})
    for row in data["methods"]:
        found.update({f"methods.{row['name']}.{key}": f"{row[key]:.1f}" for key in ("mean", "min", "max")})
    for group in ("memory", "visualdl"):
        found.update({f"{group}.{key}": f"{x:.1f}" for key, x in data[group].items() if key != "note"})
    return found


def demo_table(scores: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> str:
    """Scores of the demo by seed, and their lifts over source-only."""
    titles = ["seed", "source-only", "AdaptSegNet multi", "lift", "then self-training", "lift"]
    columns = [list(scores[name]) for name in ("source_only", "adapted", "self_training")]
    rows = [*zip(*columns), tuple(float(np.mean(column)) for column in columns)]
    lines = []
    for name, (base, *others) in zip([*seeds, "mean"], rows):
        lines.append([name, f"{base:.2f}", *(text for x in others for text in (f"{x:.2f}", f"{x - base:+.2f}"))])
    return markdown_table(titles, lines)


def methods_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Every method of the comparison over seeds, best first."""
    lines = []
    for row in rows:
        lifts = " ".join(f"{x:+.1f}" for x in row["lifts"])
        lift = "" if row["lift"] is None else f"{row['lift']:+.1f}"
        scores = (f"{row[key]:.1f}" for key in ("mean", "min", "max"))
        lines.append([row["name"], *scores, lift, lifts, row["seconds"]])
    return markdown_table(["method", "mean", "min", "max", "lift", "lift by seed", "seconds"], lines)

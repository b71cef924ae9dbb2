"""Writes the table of worst deviations into tests/parity/README.md: every figure is replayed here (`make parity`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parent / "parity" / "README.md"
MARK = re.compile(r"(<!-- deviations -->\n\n)(.*?)(\n\n<!-- /deviations -->)", re.S)
SPECIAL = ("lr", "logged", "no_gradient", "fd_cells", "ps_weighted_pixels", "ps_weight")  # no losses


def relative(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-3)


def losses_apart(ours: Iterable[Mapping[str, Any]], theirs: Iterable[Mapping[str, Any]]) -> float:
    """The largest relative difference of a loss in any step; losses below 0.001 count as parts of 0.001."""
    return max(
        relative(own[name], value)
        for own, step in zip(ours, theirs)
        for name, value in step.items()
        if name not in SPECIAL and isinstance(value, float) and not name.endswith("ps_labels")
    )


def changes_apart(own: Mapping[str, np.ndarray], figures: Mapping[str, list[float]], floor: float, but=()) -> float:
    """The largest relative difference of the l2 norm of a tensor's change."""
    return max(
        relative(float(np.linalg.norm(own[name])), norm)
        for name, (_, norm) in figures.items()
        if name in own and norm > floor and name not in but and "running_" not in name
    )


def trajectories() -> Iterator[tuple[str, str]]:
    """Name and row of every training of test_parity.py."""
    from parity_runner import CHANGE_FLOOR, configuration, files_of, run_case

    for path in files_of("trajectory"):
        case = json.loads(path.read_text())
        readings, change = run_case(case, configuration(case["config"]))
        losses, moved = losses_apart(readings, case["steps"]), changes_apart(change, case["change"], CHANGE_FLOOR)
        yield f"{path.parent.name}/{path.stem}", f"training, {len(case['steps'])} steps | {losses:.0e} | {moved:.0e} |"


def self_training() -> Iterator[tuple[str, str]]:
    """The same of test_parity_self_training.py; tensors of which only parts are compared there are left out."""
    from parity_self_training import TOLERANCE, files
    from parity_vfm_uda import replay_of

    from paddle_adaptseg.core import runtime

    for path in files("trajectory"):
        case = json.loads(path.read_text())
        but = {
            *case["noise"],
            *(n for key in ("change_v_half", "change_qv") for t in case.get(key, {}).values() for n in t),
        }
        with runtime.fresh_names():
            replay = replay_of(case)
            losses = losses_apart(list(replay.run()), case["steps"])
            networks = replay.networks().items()
            moved = max(
                changes_apart(replay.change(net), case["change"][part], TOLERANCE.floor, but) for part, net in networks
            )
        yield f"{path.parent.name}/{path.stem}", f"training, {len(case['steps'])} steps | {losses:.0e} | {moved:.0e} |"


def networks() -> Iterator[tuple[str, str]]:
    """Name and row of every network of test_parity.py."""
    from test_parity import FORWARD_CASES, network_deviation

    for path, key in FORWARD_CASES:
        yield f"{path.parent.name}/{path.stem}", f"`{key}`, outputs | {network_deviation(path, key):.0e} | |"


def main() -> None:
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    lines = [f"Measured on {runtime.environment()}, float32.", "", "| figure | what | losses or outputs | changes |"]
    lines.append("|---|---|---|---|")
    for name, row in [*trajectories(), *networks(), *self_training()]:
        lines.append(f"| `{name}` | {row}")
        print(lines[-1], flush=True)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARK.sub(lambda mark: mark[1] + "\n".join(lines) + mark[3], text), encoding="utf-8")


if __name__ == "__main__":
    main()

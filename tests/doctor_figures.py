"""Writes the figures that the doctor replays from those of the original programs: `python tests/doctor_figures.py`.

One case for each family of methods, with our configuration and our tensors' names, so that replaying needs to know
nothing of the original programs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import parity_runner as runner  # noqa: E402
import parity_self_training as self_training  # noqa: E402

from paddle_adaptseg.config.loading import to_plain  # noqa: E402
from paddle_adaptseg.lab.doctor.figures import FIGURES  # noqa: E402
from paddle_adaptseg.weights.names import rename  # noqa: E402

CASES = {
    "source only": "parity/source_only.json",
    "AdaptSegNet": "parity/adaptseg_multi.json",
    "MaxSquare": "parity/maxsquare.json",
    "CLAN": "parity/clan_gta5.json",
    "self-training": "parity_selftraining/dacs_r1111.json",
}
OURS = {"seg": "seg_main", "mix": "mix_main"}  # losses of self-training
LEAST = 1e-4  # smaller changes are not shipped
DIGITS = 8


def plain(case: dict) -> dict:
    """A case of the other methods."""
    c, config = case["config"], runner.configuration(case["config"])
    tensors = {runner.our_name(n, config): [n, *change(v, n)] for n, v in case["change"].items()}
    inputs = {"source": c["source"], "target": c["target"]}
    return entry(case, config, tensors, [chosen(step) for step in case["steps"]], inputs)


def with_teacher(case: dict) -> dict:
    """A case of self-training."""
    c, config = case["config"], self_training.configuration(case["config"])
    student, kind = case["change"]["student"], config.model.name
    tensors = {f"segmenter.{rename(n, kind)}": [f"G.{n}", *change(student[n], n)] for n in case["tensors"]}
    steps = [{OURS[name]: round(step[name], DIGITS) for name in OURS} for step in case["steps"]]
    inputs = {"size": c["size"], "cell": c["label_cell"], "pasted": [given["classes"] for given in case["given"]]}
    return entry(case, config, tensors, steps, inputs)


def chosen(step: dict) -> dict:
    return {name: round(value, DIGITS) for name, value in step.items() if name != "weight_map_mean"}


def change(pair: list, name: str) -> list:
    """Norm of a tensor's change in all steps; 0: not compared."""
    return [0.0 if "running_" in name or pair[1] < LEAST else float(f"{pair[1]:.6g}")]


def entry(case: dict, config, tensors: dict, steps: list, inputs: dict) -> dict:
    c, tree = case["config"], to_plain(config)
    own = {key: tree[key] for key in ("model", "method", "optim", "schedule")}
    return {"config": own, "salt": c["salt"], "classes": c["classes"], "images": c["n"], "inputs": inputs,
            "tensors": tensors, "steps": steps}  # fmt: skip


def figures() -> str:
    """The file's text."""
    cases = {}
    for name, path in CASES.items():
        case = json.loads((ROOT / "tests" / path).read_text())
        cases[name] = with_teacher(case) if "given" in case else plain(case)
    lines = [f"{json.dumps(name)}: {json.dumps(case, separators=(',', ':'))}" for name, case in cases.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    FIGURES.write_text(figures())
    print(f"{FIGURES}: {FIGURES.stat().st_size / 1000:.0f} kB")

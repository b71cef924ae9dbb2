"""Train every combination of the given values; results as CSV, Markdown, a figure and VisualDL HParams. Resumable."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import add_override, parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument(
        "--set", action="append", required=True, metavar="KEY=A,B,C", help="values of a key; can be repeated for a grid"
    )
    parser.add_argument("--output", help="folder of all runs and results; default: checkpoint/sweep/<configuration>")
    parser.add_argument(
        "--parallel",
        type=int,
        default=0,
        help="trainings at the same time; default: one for each GPU, else for each core",
    )
    add_override(parser)
    args = parse(parser)
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.data.toy import ensure_toy
    from paddle_adaptseg.lab.sweep import parse_axis, run_sweep, sweep_trials, write_sweep

    config = Path(args.config)
    folder = Path(args.output or f"checkpoint/sweep/{config.parent.name}_{config.stem}")
    trials = sweep_trials(args.config, [parse_axis(text) for text in args.set], folder, args.override)
    ensure_toy(trials[0].job.config.data.target.root)
    print(f"{len(trials)} trainings in {folder}; the same command resumes an interrupted sweep", flush=True)
    settings = run_sweep(trials, args.parallel)
    seeds = len(settings[0].scores)
    paths = write_sweep(trials, settings, folder, f"{config.parent.name}/{config.stem}, {seeds} seed{'s'[: seeds > 1]}")
    print((folder / "table.md").read_text(encoding="utf-8"))
    print("written: " + ", ".join(map(str, paths)))
    return 0

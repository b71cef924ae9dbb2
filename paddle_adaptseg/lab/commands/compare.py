"""Train several configurations on the same pair over several seeds and write one table and chart. Resumable."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import add_override, numbers, parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+", help="YAML files; the table has a row for each")
    parser.add_argument("--seeds", default="0,1,2", type=numbers, help="seeds, comma-separated")
    parser.add_argument("--output", default="checkpoint/compare", help="folder of all runs and results")
    parser.add_argument(
        "--baseline",
        help="configuration over which the lift (gain in mIoU) is computed; default: source_only, if given",
    )
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
    from paddle_adaptseg.config.conversion import lookup
    from paddle_adaptseg.data.toy import ensure_toy
    from paddle_adaptseg.lab.compare import run_study, study_jobs, write_study

    folder, seeds = Path(args.output), args.seeds
    jobs = study_jobs(args.configs, seeds, folder, args.override)
    for by_seed in jobs.values():
        ensure_toy(by_seed[0].config.data.target.root)
    if args.baseline:
        lookup(jobs, args.baseline, "baseline")
    baseline = args.baseline or ("source_only" if "source_only" in jobs else None)
    rows = run_study(jobs, baseline, args.parallel)
    paths = write_study(rows, folder, f"{len(seeds)} seeds, {len(rows)} methods")
    print(paths[1].read_text(encoding="utf-8"))
    print("written: " + ", ".join(map(str, paths)))
    return 0

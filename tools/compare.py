#!/usr/bin/env python3
"""Train several configurations on the same pair over several seeds and write one table and chart. Resumable."""

from __future__ import annotations

import argparse
from pathlib import Path

from _cli import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+", help="YAML files; their names are the table's rows")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--output", default="checkpoint/compare", help="folder of all runs and results")
    parser.add_argument("--baseline", default="source_only", help="the row over which lift is counted")
    parser.add_argument("--parallel", type=int, default=0, help="trainings at once; default: a core each")
    parser.add_argument("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    from paddle_adaptseg import runtime

    runtime.import_paddle()
    from paddle_adaptseg.data.toy import ensure_toy
    from paddle_adaptseg.study import run_study, study_jobs, write_study

    folder, seeds = Path(args.output), [int(s) for s in args.seeds.split(",")]
    jobs = study_jobs(args.configs, seeds, folder, args.override)
    ensure_toy(next(iter(jobs.values()))[0].config.data.source.root)
    rows = run_study(jobs, args.baseline if args.baseline in jobs else None, args.parallel or runtime.cpu_count())
    paths = write_study(rows, folder, f"{len(seeds)} seeds, {len(rows)} methods")
    print(paths[1].read_text(encoding="utf-8"))
    print("written: " + ", ".join(map(str, paths)))
    return 0


if __name__ == "__main__":
    run(main)

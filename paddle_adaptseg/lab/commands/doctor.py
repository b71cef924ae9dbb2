"""Check in at most three minutes whether this machine trains right, and how fast; exit code 1 names what failed."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", default="checkpoint/doctor", help="folder of doctor.json and doctor.md, on the disk of your runs"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu or gpu:N")
    parser.add_argument(
        "--seconds", type=float, default=180.0, help="time for all checks; those at the end are left out"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="CHECK", help="names of checks, as the page lists them"
    )
    args = parse(parser)
    from paddle_adaptseg.core import runtime

    runtime.set_cpu_threads()
    runtime.import_paddle()
    from paddle_adaptseg.lab.doctor.report import examine

    report = examine(Path(args.output), args.device, args.seconds, args.only)
    print(report.text())
    print("written: " + ", ".join(map(str, report.write(Path(args.output)))) + " (paste doctor.md into an issue)")
    return 1 if report.failed else 0

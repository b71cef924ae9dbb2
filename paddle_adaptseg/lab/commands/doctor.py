"""Check in at most three minutes whether this machine trains correctly, and how fast. Exit code 1 if a check failed."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output",
        default="checkpoint/doctor",
        help="folder for doctor.json and doctor.md, on the disk that your runs use",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu or gpu:N")
    parser.add_argument(
        "--seconds", type=float, default=180.0, help="time for all checks; those that do not fit are skipped"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="CHECK", help="run only these checks (names: docs/hardware.md)"
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

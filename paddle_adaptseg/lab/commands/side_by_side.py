"""Export a distilled network and its teacher, and compare parameters, files and speed on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import folder_for, parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", metavar="RUN", help="the folder of a distillation's run, or a weights file")
    parser.add_argument("--teacher", help="another teacher: a run's folder or a weights file")
    parser.add_argument("--output", help="folder for the programs; default: RUN/exported")
    parser.add_argument("--formats", default="paddle,onnx", help="of paddle,onnx")
    parser.add_argument("--images", type=int, default=10, help="how often each is timed")
    args = parse(parser)
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.deploy.side_by_side import side_by_side

    folder = Path(args.output) if args.output else folder_for(args.student, "exported")
    for what, teacher, student in side_by_side(
        args.student, folder, args.formats.split(","), max(1, args.images), args.teacher
    ):
        print(f"{what:<76}  {teacher:>14}  {student}", flush=True)
    print(f"programs: {folder}")
    return 0

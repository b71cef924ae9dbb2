"""Export a distilled network and its teacher, and compare parameters, files and speed on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import folder_for, parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", metavar="RUN", help="folder of a distillation run, or its weights file")
    parser.add_argument("--teacher", help="a run's folder or a weights file; default: the teacher of the run")
    parser.add_argument("--output", help="folder for the exported networks; default: RUN/exported")
    parser.add_argument("--formats", default="paddle,onnx", help="formats to export, comma-separated")
    parser.add_argument("--images", type=int, default=10, help="number of timed predictions of each network")
    args = parse(parser)
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    runtime.keep_freed_memory()
    from paddle_adaptseg.deploy.side_by_side import side_by_side

    folder = Path(args.output) if args.output else folder_for(args.student, "exported")
    for what, teacher, student in side_by_side(
        args.student, folder, args.formats.split(","), max(1, args.images), args.teacher
    ):
        print(f"{what:<76}  {teacher:>14}  {student}", flush=True)
    print(f"programs: {folder}")
    return 0

"""Suggest which target images to label next: a list for data.target_labelled.list, and a contact sheet."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import add_override, folder_for, parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="RUN", help="a run's folder, or a weights file")
    parser.add_argument("--count", type=int, default=20, help="number of images to suggest")
    parser.add_argument("--output", help="folder for labels.txt and sheet.png; default: RUN/suggested")
    parser.add_argument("--limit", type=int, help="consider at most this many images, evenly spread; default: all")
    add_override(parser)
    args = parse(parser)
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    runtime.keep_freed_memory()
    from paddle_adaptseg.lab.suggest import suggest

    folder = Path(args.output) if args.output else folder_for(args.model, "suggested")
    for number, each in enumerate(suggest(args.model, args.count, folder, args.override, args.limit), 1):
        print(f"{number:3d}  {each.name}  entropy {each.entropy:.3f}, distance {each.distance:.3f}")
    print(f"contact sheet: {folder / 'sheet.png'}")
    print(f"when they are labelled: -o data.target_labelled.list={folder / 'labels.txt'}")
    return 0

"""Write a commented configuration for your own images, from flags or by asking; `train` then trains it."""

from __future__ import annotations

import sys

from paddle_adaptseg.lab.commands.adapt import parser_of, request_of
from paddle_adaptseg.lab.commands.arguments import parse

QUESTIONS = {
    "source_images": "folder of the labelled images",
    "source_labels": "folder of their labels",
    "target": "folder of the images without labels",
    "classes": "YAML file of the classes, or cityscapes (empty: write a draft)",
    "weights": "start weights (empty: none)",
}


def main() -> int:
    parser = parser_of(__doc__)
    args = parse(parser)
    if sys.stdin.isatty():
        for name, question in QUESTIONS.items():
            if not getattr(args, name):
                setattr(args, name, input(f"{question}: ").strip())
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.lab.adapt import write_project

    path, lines = write_project(request_of(parser, args))
    print("\n".join([*lines, f"written: {path}"]))
    print(f"train it: {runtime.program('paddle-adaptseg')} train --config {path}")
    return 0

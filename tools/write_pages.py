#!/usr/bin/env python3
"""Write the pages of docs/ that are generated from tables; a test says when they are out of date."""

from __future__ import annotations

import argparse
from pathlib import Path

from _cli import exit_with


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.lab.measured import measured_page
    from paddle_adaptseg.lab.reference import configuration_page
    from paddle_adaptseg.weights.zoo import zoo_page

    docs = Path(__file__).resolve().parent.parent / "docs"
    pages = {"model_zoo.md": zoo_page, "configuration.md": configuration_page, "toy_self_training.md": measured_page}
    for name, text in ((name, write()) for name, write in pages.items()):
        (docs / name).write_text(text, encoding="utf-8")
        print(docs / name)
    return 0


if __name__ == "__main__":
    exit_with(main)

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
    from paddle_adaptseg.lab.api import api_page
    from paddle_adaptseg.lab.badges import badges
    from paddle_adaptseg.lab.measured import filled, measured_page
    from paddle_adaptseg.lab.reference import configuration_page
    from paddle_adaptseg.weights.zoo import zoo_page

    root = Path(__file__).resolve().parent.parent
    pages = {"model_zoo.md": zoo_page, "configuration.md": configuration_page, "toy_self_training.md": measured_page}
    pages["api.md"] = api_page
    for name, text in ((name, write()) for name, write in pages.items()):
        (root / "docs" / name).write_text(text, encoding="utf-8")
        print(root / "docs" / name)
    for name, text in badges(root).items():
        (root / "docs/images" / name).write_text(text, encoding="utf-8")
    for page in [*root.glob("*.md"), *(root / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(page)
    return 0


if __name__ == "__main__":
    exit_with(main)

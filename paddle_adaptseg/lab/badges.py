"""The badges of the README: small images that are written here, so that a page loads nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

COLOUR = "#2c6fbb"
LETTER = 7  # pixels of a letter, on average


def badges(root: Path) -> Mapping[str, str]:
    """SVG images by file name; versions are those that the project's own files ask for."""
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    paddle = (root / "requirements-cpu.txt").read_text(encoding="utf-8")
    setup = (root / "tools/setup_env.sh").read_text(encoding="utf-8")
    licence = re.findall(r'^license = "(.*)"', project, re.M)[0]
    oldest = re.findall(r'^requires-python = ">=(.*)"', project, re.M)[0]
    newest = max(int(minor) for minor in re.findall(r"python3\.(\d+)", setup))
    least, above = re.findall(r"^paddlepaddle>=(\d+\.\d+)[.\d]*,<3\.(\d+)", paddle, re.M)[0]
    return {
        "badge_licence.svg": badge("licence", licence),
        "badge_python.svg": badge("Python", f"{oldest} to 3.{newest}"),
        "badge_paddle.svg": badge("Paddle", f"{least} to 3.{int(above) - 1}"),
    }


def badge(name: str, value: str) -> str:
    """One badge: a name on grey, a value on blue."""
    left, right = (LETTER * len(text) + 12 for text in (name, value))
    text = '<text x="{}" y="14" text-anchor="middle">{}</text>'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img"',
        f'  aria-label="{name}: {value}">',
        f'<rect width="{left}" height="20" fill="#555"/><rect x="{left}" width="{right}" height="20" fill="{COLOUR}"/>',
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">',
        text.format(left / 2, name), text.format(left + right / 2, value), "</g></svg>", "",
    ])  # fmt: skip

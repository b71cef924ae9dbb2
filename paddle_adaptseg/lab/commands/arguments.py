"""What several commands share: integers with commas, `-o KEY=VALUE`, and where results go."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


def numbers(text: str) -> list[int]:
    """Integers with commas between them, for argparse."""
    return [int(part) for part in text.split(",")]


def add_override(parser: argparse.ArgumentParser) -> None:
    """Add `-o KEY=VALUE [KEY=VALUE ...]`."""
    text = "override keys of the configuration, e.g. -o data.workers=0 run.seed=1"
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE", help=text)


def folder_for(model: str, name: str) -> Path:
    """Where what belongs to a model is written: inside a run's folder, or beside a weights file."""
    path = Path(model)
    if not path.exists():  # RUN@latest, FILE@teacher
        path = path.with_name(path.name.rpartition("@")[0] or path.name)
    return (path.with_suffix("") if path.is_file() else path) / name


def parse(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; what follows `-o` and holds no '=' is the next argument. `--help` names every default."""
    for action in parser._actions:
        if action.type is int and action.metavar is None:
            action.metavar = "N"
        named = isinstance(action.default, (str, int, float)) and action.default not in ("", 0, argparse.SUPPRESS)
        if named and "default" not in (action.help or ""):
            action.help = f"{action.help} (default: {action.default})".removeprefix("None ")
    return parser.parse_args(list(_one_each(sys.argv[1:] if words is None else words)))


def _one_each(words: Sequence[str]) -> Iterator[str]:
    """The words with `-o a=1 b=2` written as `-o a=1 -o b=2`."""
    flag, given = "", 0
    for word in words:
        if word in ("-o", "--override"):
            flag, given = word, 0
        elif flag and given and ("=" not in word or word.startswith("-")):
            flag = ""
        elif flag:
            given += 1
            if given > 1:
                yield flag
        yield word

"""Data sets that are lists of files, as PaddleSeg's are: each line names an image and its label, relative to the root.

Such a data set has no patterns: a row of the catalog, or a user's YAML file, without `images`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional

from paddle_adaptseg.config.schema import Domain
from paddle_adaptseg.core.errors import DataError, suggest
from paddle_adaptseg.data.files import Ref, is_archive, members

SEPARATORS = ("\t", ",", None)  # None: any white space
REMARK = "  # "  # what follows it in a line is for people, as in the lists of data.quarantine


def read_pairs(domain: Domain, title: str) -> list[tuple[str, str]]:
    """Image and label ("" where the line has none) of every line of a domain's list."""
    if not domain.list:
        raise DataError(f"{title} has no patterns: 'list' must name a file whose lines name an image and its label")
    for key, rules in (("only", domain.only), ("without", domain.without)):
        if rules:
            raise DataError(f"'{key}' chooses by fields of a pattern ({suggest(next(iter(rules)), ())}): use 'exclude'")
    return [_pair(line, domain.list) for line in read_list(domain.list)]


def read_list(path: str) -> list[str]:
    """The lines of a text file without remarks and empty ones."""
    if Path(path).exists() and not Path(path).is_file():
        raise DataError(f"cannot read list '{path}': it is no regular file")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # Windows' editors begin a file with a mark
    except UnicodeDecodeError:
        raise DataError(f"list '{path}' is not a text file") from None
    except OSError as error:
        raise DataError(f"cannot read list '{path}': {error.strerror}") from None
    lines = (line.partition(REMARK)[0] for line in text.splitlines())
    return [line for line in lines if line.strip()]


def _pair(line: str, path: str) -> tuple[str, str]:
    splits = [[word.strip() for word in line.split(separator)] for separator in SEPARATORS]
    words = next((split for split in splits if len(split) == 2), splits[-1])
    if len(words) > 2 or not words[0]:
        raise DataError(f"line '{line.strip()}' of '{path}' must name an image and its label, apart by a space, comma "
                        "or tab")  # fmt: skip
    return words[0], words[1] if len(words) == 2 else ""


def finder(stores: Sequence[str]) -> Callable[[str], Optional[Ref]]:
    """From a name to the file that it means, in folders and archives; inside an archive it may lie below others."""
    inside = {store: _tails(store) for store in stores if is_archive(store)}

    def find(name: str) -> Optional[Ref]:
        for store in stores:
            if store in inside:
                if name in inside[store]:
                    return Ref(store, inside[store][name])
            elif (Path(store) / name).is_file():
                return Ref(store, name)
        return None

    return find


def _tails(store: str) -> dict[str, str]:
    """The members of an archive by the ends of their paths; of several with one end the shortest path counts."""
    found: dict[str, str] = {}
    for member in sorted(members(store), key=len, reverse=True):
        parts = member.split("/")
        found.update({"/".join(parts[start:]): member for start in range(len(parts))})
    return found

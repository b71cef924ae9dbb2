"""Data sets as data: one row each says where images and labels lie and what the raw ids mean.

Patterns are relative to the root; `{split}` is filled in, other fields match one path part. Pairs are made by deriving
the label's path from the image's, never by listing two folders and hoping that they line up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from paddle_adaptseg.config import Domain
from paddle_adaptseg.errors import DataError, shorten, suggest
from paddle_adaptseg.labels import CITYSCAPES_IDS
from paddle_adaptseg.registry import lookup


@dataclass(frozen=True)
class DatasetSpec:
    """A row of the catalog."""

    title: str
    image: str
    label: str
    splits: tuple[str, ...]
    raw_ids: Mapping[int, str]
    home: str


DATASETS: Mapping[str, DatasetSpec] = {
    "gta5": DatasetSpec(
        title="GTA5 (Playing for Data)",
        image="images/{name}.png",
        label="labels/{name}.png",
        splits=("all",),
        raw_ids=CITYSCAPES_IDS,
        home="https://download.visinf.tu-darmstadt.de/data/from_games/",
    ),
    "cityscapes": DatasetSpec(
        title="Cityscapes",
        image="leftImg8bit/{split}/{city}/{name}_leftImg8bit.png",
        label="gtFine/{split}/{city}/{name}_gtFine_labelIds.png",
        splits=("train", "val", "test"),
        raw_ids=CITYSCAPES_IDS,
        home="https://www.cityscapes-dataset.com/downloads/",
    ),
}


@dataclass(frozen=True)
class Item:
    """One image and, when the domain is read with labels, its label file."""

    image: Path
    label: Optional[Path]


def list_items(domain: Domain, labelled: bool) -> list[Item]:
    """All items of a domain in the order of their names; anything absent is an error that shows the expected layout."""
    spec = lookup(DATASETS, domain.dataset, "data set")
    if domain.split not in spec.splits:
        raise DataError(f"{spec.title} has no split '{domain.split}': {suggest(domain.split, spec.splits)}")
    root = Path(domain.root)
    image, label = (p.replace("{split}", domain.split) for p in (spec.image, spec.label))
    expected = f"expected {root / image}" + (f" and {root / label}" if labelled else "")
    if not root.is_dir():
        raise DataError(f"data folder '{root}' for {spec.title} does not exist; {expected} (from {spec.home})")
    pattern = re.compile(_FIELD.sub(lambda m: f"(?P<{m.group(1)}>[^/]+)", re.escape(image)))
    items, missing = [], []
    for path in sorted(root.glob(re.sub(r"\{\w+\}", "*", image))):
        found = pattern.fullmatch(path.relative_to(root).as_posix())
        if not found:
            continue
        partner = root / label.format(**found.groupdict()) if labelled else None
        if partner is not None and not partner.is_file():
            missing.append(str(partner))
        items.append(Item(path, partner))
    if not items:
        raise DataError(f"no images of {spec.title} ({domain.split}) in '{root}'; {expected} (from {spec.home})")
    if missing:
        raise DataError(f"{len(missing)} of {len(items)} images of {spec.title} have no label: {shorten(missing, 3)}")
    return items


_FIELD = re.compile(r"\\\{(\w+)\\\}")  # an escaped {field}

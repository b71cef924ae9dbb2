"""From a domain of the configuration to its (image, label) pairs. What is absent fails here, not at step 90000.

Pairs are made by what the patterns' fields matched, never by listing two folders and hoping that they line up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from paddle_adaptseg.config import Domain
from paddle_adaptseg.data.catalog import DatasetSpec, LabelSource, dataset_spec
from paddle_adaptseg.data.stores import Fields, Ref, expand, fields_of, fill, find, select
from paddle_adaptseg.errors import DataError, shorten, suggest


@dataclass(frozen=True)
class Item:
    """One image and, when the domain is read with labels, its label."""

    image: Ref
    label: Optional[Ref]


@dataclass(frozen=True)
class Listing:
    """All pairs of a domain in the order of their names, images without a label, and how labels are read."""

    spec: DatasetSpec
    items: tuple[Item, ...]
    unpaired: tuple[str, ...]
    labels: Optional[LabelSource]


def list_items(domain: Domain, labelled: bool) -> Listing:
    """The pairs of a domain; anything absent is an error that shows the expected layout."""
    listing = survey(domain, labelled)
    if listing.unpaired:
        raise DataError(
            f"{len(listing.unpaired)} of {len(listing.items) + len(listing.unpaired)} images of {listing.spec.title} "
            f"have no label: {shorten(listing.unpaired, 3)}"
        )
    return listing


def survey(domain: Domain, labelled: bool) -> Listing:
    """The pairs of a domain and what is unpaired; only a domain without any image is an error."""
    spec = dataset_spec(domain.dataset)
    if domain.split not in spec.splits:
        raise DataError(f"{spec.title} has no split '{domain.split}': {suggest(domain.split, spec.splits)}")
    expected = _expected(spec, domain, labelled)
    try:
        stores = expand(domain.root)
    except DataError as error:
        raise DataError(f"{error} (for {spec.title}); {expected}") from None
    images = _first([(p, find(stores, fill(p, {"split": domain.split}))) for p in spec.images])[1]
    images = _filtered(_numbered(images, spec, domain), domain)
    if not images:
        raise DataError(f"no images of {spec.title} ({domain.split}) in '{domain.root}'; {expected}")
    if not labelled:
        return Listing(spec, tuple(Item(ref, None) for ref in images.values()), (), None)
    source, labels = _first([(s, find(stores, fill(s.pattern, {"split": domain.split}))) for s in spec.labels])
    wanted = fields_of(source.pattern)
    pairs = [(ref, labels.get(select(fields, wanted))) for fields, ref in images.items()]
    unpaired = tuple(str(image) for image, label in pairs if label is None)
    return Listing(spec, tuple(Item(i, la) for i, la in pairs if la is not None), unpaired, source)


def _first(found: list[tuple]) -> tuple:
    """The first alternative that matched anything, else the first."""
    if not found:
        raise DataError("this data set has no labels")
    return next((pair for pair in found if pair[1]), found[0])


def _numbered(images: dict[Fields, Ref], spec: DatasetSpec, domain: Domain) -> dict[Fields, Ref]:
    """For a split by formula: exactly its numbers, in order."""
    if domain.split not in spec.numbered:
        return images
    first, last = spec.numbered[domain.split]
    keys = [(("name", f"{number:05d}"),) for number in range(first, last + 1)]
    missing = [f"{key[0][1]}.png" for key in keys if key not in images]
    if missing:
        raise DataError(f"{len(missing)} of {len(keys)} images of {spec.title} are missing: {shorten(missing, 5)}")
    return {key: images[key] for key in keys}


def _filtered(images: dict[Fields, Ref], domain: Domain) -> dict[Fields, Ref]:
    """Apply the domain's filters by field, its list and its exclusions."""
    for keep, rules in ((True, domain.only), (False, domain.without)):
        for name, values in rules.items():
            known = {dict(fields).get(name) for fields in images}
            absent = [v for v in values if v not in known]
            if absent:
                raise DataError(f"no image has {name} '{absent[0]}': {suggest(absent[0], filter(None, known))}")
            images = {f: r for f, r in images.items() if (dict(f).get(name) in values) == keep}
    ordered = dict(sorted(images.items(), key=lambda pair: pair[1].name))
    if domain.list:
        ordered = _by_lines(ordered, domain.list, domain.root)
    if domain.exclude:
        bad = set(_by_lines(ordered, domain.exclude, domain.root))
        ordered = {f: r for f, r in ordered.items() if f not in bad}
    return ordered


def _by_lines(images: dict[Fields, Ref], path: str, root: object) -> dict[Fields, Ref]:
    """The images that a list file names, in its order. A line is the end of a path, with or without its ending."""
    try:
        lines = [line.split()[0] for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"cannot read list '{path}': {error.strerror}") from None
    by_tail: dict[str, Fields] = {}
    for fields, ref in images.items():
        for tail in _tails(ref.name):
            by_tail.setdefault(tail, fields)
    missing = [line for line in lines if line.strip("/") not in by_tail]
    if missing:
        raise DataError(f"{len(missing)} lines of '{path}' name no image in '{root}': {shorten(missing, 5)}")
    return {by_tail[line.strip("/")]: images[by_tail[line.strip("/")]] for line in lines}


def _tails(name: str) -> Iterable[str]:
    parts = name.split("/")
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        yield tail
        yield tail.rsplit(".", 1)[0]


def _expected(spec: DatasetSpec, domain: Domain, labelled: bool) -> str:
    root = str(domain.root)
    image = f"{root}/{fill(spec.images[0], {'split': domain.split})}"
    label = f" and {root}/{fill(spec.labels[0].pattern, {'split': domain.split})}" if labelled and spec.labels else ""
    return f"expected {image}{label}" + (f" (from {spec.home})" if spec.home else "")

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
    """All pairs of a domain in the order of their names, what is wrong with the rest, and how labels are read."""

    spec: DatasetSpec
    items: tuple[Item, ...]
    problems: tuple[str, ...]  # a line for each image without a label, and for each missing number of a formula
    labels: Optional[LabelSource]
    alone: tuple[str, ...] = ()  # labels without an image


def list_items(domain: Domain, labelled: bool) -> Listing:
    """The pairs of a domain; anything absent is an error that shows the expected layout."""
    listing = survey(domain, labelled)
    if listing.problems:
        count = f"{len(listing.problems)} files of {listing.spec.title} ({len(listing.items)} are there)"
        raise DataError(f"{count} are missing: {shorten(listing.problems, 3)}")
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
    images = _filtered(images, domain)
    images, missing = _numbered(images, spec, domain)
    if not images:
        raise DataError(f"no images of {spec.title} ({domain.split}) in '{domain.root}'; {expected}")
    if not labelled:
        return Listing(spec, tuple(Item(ref, None) for ref in images.values()), missing, None)
    source, labels = _first([(s, find(stores, fill(s.pattern, {"split": domain.split}))) for s in spec.labels])
    wanted = fields_of(source.pattern)
    pairs = [(ref, labels.get(select(fields, wanted))) for fields, ref in images.items()]
    unpaired = tuple(f"{image} has no label" for image, label in pairs if label is None)
    used = {label for _, label in pairs}
    chosen = bool(domain.list or domain.exclude or domain.only or domain.without or missing)
    alone = () if chosen else tuple(f"{ref} has no image" for ref in labels.values() if ref not in used)
    whole = tuple(Item(image, label) for image, label in pairs if label is not None)
    return Listing(spec, whole, missing + unpaired, source, alone)


def _first(found: list[tuple]) -> tuple:
    """The first alternative that matched anything, else the first."""
    if not found:
        raise DataError("this data set has no labels")
    return next((pair for pair in found if pair[1]), found[0])


def _numbered(
    images: dict[Fields, Ref], spec: DatasetSpec, domain: Domain
) -> tuple[dict[Fields, Ref], tuple[str, ...]]:
    """For a split by formula: its numbers in order, and those that are missing and not excluded."""
    if domain.split not in spec.numbered:
        return images, ()
    first, last = spec.numbered[domain.split]
    excluded = set(_lines(domain.exclude)) if domain.exclude else set()
    names = [f"{number:05d}" for number in range(first, last + 1)]
    found = {name: images.get((("name", name),)) for name in names}
    missing = [n for n, ref in found.items() if ref is None and not excluded & {n, f"{n}.png", f"images/{n}.png"}]
    return {(("name", n),): ref for n, ref in found.items() if ref}, tuple(f"{n}.png is missing" for n in missing)


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
        by_tail = _by_tail(ordered)
        bad = {by_tail.get(line) for line in _lines(domain.exclude)}  # known bad files need not be there
        ordered = {f: r for f, r in ordered.items() if f not in bad}
    return ordered


def _by_lines(images: dict[Fields, Ref], path: str, root: object) -> dict[Fields, Ref]:
    """The images that a list file names, in its order. A line is the end of a path, with or without its ending."""
    by_tail = _by_tail(images)
    lines = _lines(path)
    missing = [line for line in lines if line not in by_tail]
    if missing:
        raise DataError(f"{len(missing)} lines of '{path}' name no image in '{root}': {shorten(missing, 5)}")
    return {by_tail[line]: images[by_tail[line]] for line in lines}


def _by_tail(images: dict[Fields, Ref]) -> dict[str, Fields]:
    return {tail: fields for fields, ref in reversed(images.items()) for tail in _tails(ref.name)}


def _lines(path: str) -> list[str]:
    """The first word of every line of a list file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"list '{path}' is not a text file") from None
    except OSError as error:
        raise DataError(f"cannot read list '{path}': {error.strerror}") from None
    return [line.split()[0].strip("/") for line in text.splitlines() if line.strip()]


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

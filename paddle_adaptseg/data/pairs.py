"""From a domain of the configuration to its (image, label) pairs. What is absent fails here, not at step 90000.

Pairs are made by what the patterns' fields matched, never by listing two folders and hoping that they line up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from paddle_adaptseg.config.schema import Domain
from paddle_adaptseg.core.errors import DataError, shorten, suggest
from paddle_adaptseg.data.catalog import DatasetSpec, LabelSource, dataset_spec
from paddle_adaptseg.data.files import Fields, Ref, expand, fields_of, fill, find, select, unread_archives

CONVERTED = "_labelTrainIds.png"  # DAFormer and its successors write such copies beside the labels of GTA5 and SYNTHIA


@dataclass(frozen=True)
class Item:
    """One image and, when the domain is read with labels, its label and which of the spec's label sources it is of."""

    image: Ref
    label: Optional[Ref]
    source: int = 0


@dataclass(frozen=True)
class Listing:
    """All pairs of a domain in the order of their names, and what is wrong with the rest."""

    spec: DatasetSpec
    items: tuple[Item, ...]
    problems: tuple[str, ...]  # a line for each image without a label, and for each missing number of a formula
    labelled: bool
    alone: tuple[str, ...] = ()  # labels without an image
    notes: tuple[str, ...] = ()  # what is there and is not used

    def sources(self) -> dict[int, LabelSource]:
        """The label sources that occur, by their number in the spec."""
        return {n: self.spec.labels[n] for n in sorted({item.source for item in self.items})} if self.labelled else {}


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
    if not spec.images:
        return _listed(spec, domain, labelled, stores)
    images: dict[Fields, Ref] = {}
    for pattern in reversed(spec.images):  # where two patterns name an item, the first one counts
        images.update(find(stores, fill(pattern, {"split": domain.split})))
    images = _filtered(images, domain)
    images, missing = _numbered(images, spec, domain)
    if not images:
        unread = unread_archives(stores)
        hint = f"; '{unread[0]}' cannot be read as it is: unpack it" if unread else ""
        raise DataError(f"no images of {spec.title} ({domain.split}) in '{domain.root}'{hint}; {expected}")
    if not labelled:
        return Listing(spec, tuple(Item(ref, None) for ref in images.values()), missing, False)
    if not spec.labels:
        raise DataError(f"{spec.title} has no labels")
    return _paired(spec, domain, stores, images, missing)


def _listed(spec: DatasetSpec, domain: Domain, labelled: bool, stores: list[str]) -> Listing:
    """The pairs that a list names, in its order."""
    from paddle_adaptseg.data.lists import finder, read_pairs  # most data sets have patterns

    file, items, problems, bad = finder(stores), [], [], {*_lines(domain.exclude)}
    for image, label in read_pairs(domain, spec.title):
        found = file(image), file(label) if label and labelled else None
        if bad & {image, label, found[0] and found[0].name}:
            continue
        if found[0] is None:
            problems.append(f"'{image}' is not in '{domain.root}'")
        elif labelled and found[1] is None:
            problems.append(f"'{label}' is not in '{domain.root}'" if label else f"{found[0]} has no label in the list")
        else:
            items.append(Item(found[0], found[1]))
    if not items:
        first = f": {problems[0]}" if problems else ""
        raise DataError(f"'{domain.list}' names no images of {spec.title} that can be used{first}")
    return Listing(spec, tuple(items), tuple(problems), labelled)


def _paired(
    spec: DatasetSpec, domain: Domain, stores: list[str], images: dict[Fields, Ref], missing: tuple[str, ...]
) -> Listing:
    """Images with their labels. All label sources are listed; the first one that has an image's label counts."""
    found = [find(stores, fill(source.pattern, {"split": domain.split})) for source in spec.labels]
    wanted = [fields_of(source.pattern) for source in spec.labels]
    items, unpaired = [], []
    used: set[Ref] = set()
    for fields, image in images.items():
        labels = [labels.get(select(fields, names)) for labels, names in zip(found, wanted)]
        used.update(label for label in labels if label is not None)
        number = next((n for n, label in enumerate(labels) if label is not None), None)
        if number is None:
            unpaired.append(f"{image} has no label")
        else:
            items.append(Item(image, labels[number], number))
    chosen = bool(domain.list or domain.exclude or domain.only or domain.without or missing)
    rest = [] if chosen else list(dict.fromkeys(r for labels in found for r in labels.values() if r not in used))
    converted = [ref for ref in rest if ref.name.endswith(CONVERTED)]
    alone = tuple(f"{ref} has no image" for ref in rest if not ref.name.endswith(CONVERTED))
    notes = (f"{len(converted)} files *{CONVERTED} of other programs are passed over",) if converted else ()
    return Listing(spec, tuple(items), (*missing, *unpaired), True, alone, notes)


def _numbered(
    images: dict[Fields, Ref], spec: DatasetSpec, domain: Domain
) -> tuple[dict[Fields, Ref], tuple[str, ...]]:
    """For a split by formula: its numbers in order, and those that are missing and not excluded."""
    if domain.split not in spec.numbered:
        return images, ()
    first, last = spec.numbered[domain.split]
    excluded = {_first_word(line) for line in _lines(domain.exclude)}
    names = [f"{number:05d}" for number in range(first, last + 1)]
    found = {name: images.get((("name", name),)) for name in names}
    missing = [
        n for n, ref in found.items() if ref is None and not excluded & {n, f"{n}.png", f"images/{n}.png", str(int(n))}
    ]
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
        ordered = _by_lines(ordered, domain)
    if domain.exclude:
        by_tail = _by_tail(ordered, domain.split)
        bad = {_named(line, by_tail) for line in _lines(domain.exclude)}  # known bad files need not be there
        ordered = {f: r for f, r in ordered.items() if f not in bad}
    return ordered


def _by_lines(images: dict[Fields, Ref], domain: Domain) -> dict[Fields, Ref]:
    """The images that a list file names, in its order."""
    by_tail = _by_tail(images, domain.split)
    named = {line: _named(line, by_tail) for line in _lines(domain.list)}
    missing = [_first_word(line) for line, fields in named.items() if fields is None]
    if missing:
        where = f"{len(missing)} lines of '{domain.list}' name no image in '{domain.root}'"
        raise DataError(f"{where}: {shorten(missing, 5)}")
    return {fields: images[fields] for fields in named.values() if fields is not None}


def _by_tail(images: dict[Fields, Ref], split: str) -> dict[str, Fields]:
    """What a line of a list may say for each image: the end of its path, with or without its ending; or, as the lists
    of MaxSquare do, its number without zeros (`1`) or its name after the split (`train_aachen_000000_000019`)."""
    found: dict[str, Fields] = {}
    for fields in reversed(images):
        name = dict(fields).get("name", "")
        found.update(dict.fromkeys((name.lstrip("0") or "0",) if name.isdigit() else (f"{split}_{name}",), fields))
    for fields, ref in reversed(images.items()):
        found.update(dict.fromkeys(_tails(ref.name), fields))
    return found


def _lines(path: str) -> list[str]:
    """The lines of a list file, if there is one."""
    from paddle_adaptseg.data.lists import read_list

    return [line.strip() for line in read_list(path)] if path else []


def _named(line: str, by_tail: dict[str, Fields]) -> Optional[Fields]:
    """The image that a line names: all of it, or its first word where a label follows."""
    return by_tail.get(line.strip("/"), by_tail.get(_first_word(line)))


def _first_word(line: str) -> str:
    return line.split()[0].strip("/")


def _tails(name: str) -> Iterable[str]:
    parts = name.split("/")
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        yield tail
        yield tail.rsplit(".", 1)[0]


def _expected(spec: DatasetSpec, domain: Domain, labelled: bool) -> str:
    root = str(domain.root)
    if not spec.images:
        return f"expected the files that '{domain.list}' names"
    image = f"{root}/{fill(spec.images[0], {'split': domain.split})}"
    label = f" and {root}/{fill(spec.labels[0].pattern, {'split': domain.split})}" if labelled and spec.labels else ""
    origin = f" (from {spec.home})" if spec.home else ""
    if Path(root).parent.name.startswith("toy"):
        origin = " (the generated toy pair: make it with tools/make_toy.py)"
    return f"expected {image}{label}{origin}"

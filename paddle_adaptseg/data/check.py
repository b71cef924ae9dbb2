"""Looks at every file of a domain once, or at some, and lists what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

import numpy as np
from PIL import Image

from paddle_adaptseg.config.schema import Config, Domain
from paddle_adaptseg.core.errors import DataError, shorten
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.core.labels import LabelSpace
from paddle_adaptseg.core.progress import progress
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.augment import resize_label
from paddle_adaptseg.data.decode import LABELS, decode_rgb
from paddle_adaptseg.data.pairs import Item, Listing, survey
from paddle_adaptseg.data.reading import spread

SHEET, CELL = 12, (320, 160)  # images on a contact sheet, and the size of each


@dataclass
class Report:
    """What a domain holds and what is wrong with it."""

    images: int = 0
    read: int = 0  # pairs that were checked
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is unusual and can be trained on
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # by train id


def check_config(config: Config, sheets: str | Path, limit: Optional[int] = None, workers: int = 2) -> int:
    """Check source, target and validation of a configuration, print what was found, and count the problems."""
    data = config.data
    domains = {name: (source, True) for name, source in data.all_sources().items()}
    domains.update(target=(data.target, False), validation=(data.validation, True))
    return check_domains(domains, label_space(config), Path(sheets), limit, workers)


def check_domains(
    domains: Mapping[str, tuple[Domain, bool]], space: LabelSpace, sheets: Path, limit: Optional[int], workers: int,
    echo: Callable[[str], object] = print,
) -> int:  # fmt: skip
    """Check domains (each with or without labels), write their contact sheets, and count the problems."""
    bad = 0
    for name, (domain, labelled) in domains.items():
        report = check_domain(domain, space, labelled, workers, limit)
        echo(f"{name}: {domain.dataset} ({domain.split}) in {domain.root}")
        echo("\n".join(describe(report, space)))
        if report.images:
            contact_sheet(domain, space, labelled, sheets / f"{name}.png")
            echo(f"contact sheet: {sheets / f'{name}.png'}")
        bad += len(report.problems)
    return bad


def check_domain(
    domain: Domain, space: LabelSpace, labelled: bool, workers: int = 2, limit: Optional[int] = None
) -> Report:
    """Look for every pair of a domain and read all of them, or `limit` that are spread evenly over it."""
    report = Report()
    try:
        listing = survey(domain, labelled)
    except DataError as error:
        report.problems.append(str(error))
        return report
    report.images = len(listing.items) + len(listing.problems)
    report.problems += [*listing.problems, *listing.alone]
    report.notes += listing.notes
    chosen = [listing.items[index] for index in spread(len(listing.items), limit)]
    report.read = len(chosen)
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda item: _check_pair(item, listing, space), chosen)
        title, total = f"check {listing.spec.title}", len(chosen)
        for problems, notes, size, pixels in progress(results, title, total):
            report.problems += problems
            report.notes += notes
            if size is not None:
                report.sizes[size] = report.sizes.get(size, 0) + 1
            report.pixels += pixels
    if report.pixels.sum() and not report.pixels[: len(space)].any():
        report.problems.append("no pixel of any label is of a class of the network: are these the right label files?")
    return report


def _check_pair(
    item: Item, listing: Listing, space: LabelSpace
) -> tuple[list[str], list[str], Optional[tuple[int, int]], np.ndarray]:
    """Problems of one pair, notes on it, the image's size, and its pixels by train id."""
    problems, notes, pixels, size = [], list[str](), np.zeros(256, np.int64), None
    try:
        size = decode_rgb(item.image).shape[1::-1]
    except DataError as error:
        problems.append(f"{item.image}: {error}")
    if item.label is None:
        return problems, notes, size, pixels
    source = listing.spec.labels[item.source]
    try:
        ids = LABELS[source.decode](item.label)
    except DataError as error:
        return [*problems, f"{item.label}: {error}"], notes, size, pixels
    counts = np.bincount(ids.ravel(), minlength=256)
    unknown = [i for i in np.flatnonzero(counts) if i not in source.ids and i not in source.ignored]
    if unknown:
        problems.append(f"{item.label}: unknown ids {shorten(map(str, unknown))}")
    if size is not None and ids.shape[1::-1] != size:
        stored = f"{ids.shape[1]}x{ids.shape[0]}, but its image is {size[0]}x{size[1]}"
        notes.append(f"{item.label}: is {stored}; training resizes both")
    np.add.at(pixels, space.lut(source.ids), counts)
    return problems, notes, size, pixels


def describe(report: Report, space: LabelSpace) -> Iterator[str]:
    """Lines for a person."""
    sizes = ", ".join(f"{w}x{h} ({n})" for (w, h), n in sorted(report.sizes.items(), key=lambda pair: -pair[1])[:5])
    some = f", {report.read} of them read" if report.read < report.images else ""
    yield f"{report.images} images{some}; sizes: {sizes or 'none'}"
    total = report.pixels.sum()
    if total:
        for name, count in zip(space.names, report.pixels):
            yield f"  {name:<12}{100 * count / total:7.3f} % of pixels" + ("" if count else "  (never)")
        yield f"  {'ignored':<12}{100 * report.pixels[255] / total:7.3f} %"
    yield from (f"NOTE {note}" for note in report.notes)
    yield from (f"BAD {problem}" for problem in report.problems)
    yield f"{len(report.problems)} problems"


def contact_sheet(domain: Domain, space: LabelSpace, labelled: bool, path: Path) -> None:
    """Images spread over the domain, each beside itself with its label laid over it."""
    listing = survey(domain, labelled)
    chosen = sorted({*np.linspace(0, len(listing.items) - 1, SHEET).astype(int)}) if listing.items else []
    cells = [cell for index in chosen if (cell := _cell(listing.items[index], listing, space)) is not None]
    if not cells:
        return
    while len(cells) % 2:
        cells.append(np.full_like(cells[0], 255))
    sheet = np.vstack([np.hstack(cells[i : i + 2]) for i in range(0, len(cells), 2)])
    write_atomically(path, lambda handle: Image.fromarray(sheet).save(handle, "PNG"))


def _cell(item: Item, listing: Listing, space: LabelSpace) -> Optional[np.ndarray]:
    try:
        image = decode_rgb(item.image, CELL)
        if item.label is None:
            return image
        source = listing.spec.labels[item.source]
        ids = resize_label(LABELS[source.decode](item.label), CELL)
    except DataError:
        return None  # it stands in the report
    colours = space.palette()[space.lut(source.ids)[ids]]
    return np.hstack([image, (0.4 * image + 0.6 * colours).astype(np.uint8)])

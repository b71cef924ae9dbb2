"""The few target images whose labels may be used: which they are, and that none of them is scored.

They are the images of a list or a folder, or so many of data.target as are asked for, chosen by a seed: of two counts
the smaller choice is part of the larger one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from paddle_adaptseg.config.schema import Data, Domain, TargetLabelled
from paddle_adaptseg.core.errors import ConfigError, DataError
from paddle_adaptseg.data.files import Ref
from paddle_adaptseg.data.pairs import Item, Listing, list_items, survey

_CHOICE = 20  # a random stream beside those of the data


def labelled_domain(data: Data) -> Domain:
    """data.target as it is read with labels."""
    chosen = data.target_labelled
    assert chosen is not None
    root = data.target.root if chosen.root is None else chosen.root
    if not chosen.list:
        return dataclasses.replace(data.target, root=root)
    return dataclasses.replace(data.target, root=root, list=chosen.list, exclude="", only={}, without={})


def labelled_listing(data: Data) -> Listing:
    """The labelled target images, in the order of their names or of the list."""
    chosen, domain = data.target_labelled, labelled_domain(data)
    assert chosen is not None
    listing = list_items(domain, True) if chosen.list else survey(domain, True)
    if not listing.items:
        raise DataError(f"data.target_labelled: no image of {listing.spec.title} in '{domain.root}' has a label")
    return dataclasses.replace(listing, items=choose(listing.items, chosen), problems=())


def choose(items: tuple[Item, ...], chosen: TargetLabelled) -> tuple[Item, ...]:
    """So many of the items as are asked for, in their order."""
    count = chosen.count or (max(1, round(chosen.share * len(items))) if chosen.share else len(items))
    if count > len(items):
        raise ConfigError(f"data.target_labelled.count={count}, but only {len(items)} target images have a label")
    order = np.random.default_rng([chosen.seed, _CHOICE]).permutation(len(items))
    return tuple(items[index] for index in sorted(order[:count]))


def check_leaks(data: Data, validation: Iterable[Item]) -> Listing:
    """The labelled target images; one that is also scored is an error.

    Two files are one image where they are the same file, or have one name and the same bytes.
    """
    try:
        listing = labelled_listing(data)
    except DataError as error:
        raise DataError(f"{error}; it is read to make sure that nothing of data.target_labelled is scored") from None
    scored: dict[str, list[Ref]] = {}
    for item in validation:
        scored.setdefault(_name(item.image), []).append(item.image)
    for item in listing.items:
        for other in scored.get(_name(item.image), ()):
            if _place(item.image) == _place(other) or item.image.read() == other.read():
                raise DataError(
                    f"'{item.image}' is among data.target_labelled and data.validation: a score on images that were "
                    "trained with labels means nothing; leave it out of one of them (data.validation.exclude)"
                )
    return listing


def _name(ref: Ref) -> str:
    return ref.name.rsplit("/", 1)[-1]


def _place(ref: Ref) -> tuple[Path, str]:
    store = Path(ref.store).resolve()
    return (store, ref.name) if store.is_file() else ((store / ref.name).resolve(), "")

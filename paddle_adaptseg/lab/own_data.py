"""From folders of a user's own images and labels to a data set: pairs, classes and a size, guessed and checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from paddle_adaptseg.config.yamltree import parse_tree, read_text, write_tree
from paddle_adaptseg.core.errors import DataError, shorten
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.core.labels import CITYSCAPES_19, CITYSCAPES_IDS, CITYSCAPES_TRAIN_IDS
from paddle_adaptseg.data.decode import SUFFIXES, decode_ids
from paddle_adaptseg.data.files import Ref
from paddle_adaptseg.data.lists import read_list

LOOKED_AT = 20  # labels whose ids are listed where no classes are named
KNOWN: Mapping[str, Mapping[int, str]] = {"cityscapes": CITYSCAPES_IDS, "cityscapes_train_ids": CITYSCAPES_TRAIN_IDS}


def images_below(folder: Path) -> list[Path]:
    """All image files below a folder, by name; a text file lists them instead."""
    if folder.is_file():
        found = [folder.parent / line.strip() for line in read_list(str(folder))]
    elif folder.is_dir():
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    else:
        raise DataError(f"'{folder}' is neither a folder of images nor a text file that lists them")
    if not found:
        raise DataError(f"'{folder}' holds no images ({', '.join(SUFFIXES)})")
    return found


def pairs_of(images: Sequence[Path], labels: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Images with their labels, by what their names share once the ending that all of them have is taken off."""
    by_key = _by_key(labels, "would be labels of one image")
    pairs = [(image, by_key[key]) for key, image in _by_key(images, "would have one label").items() if key in by_key]
    if not pairs:
        example = f"'{images[0].name}' and '{labels[0].name}'"
        raise DataError(f"no image and label have a name in common (such as {example}): rename them, or list them")
    return pairs


def _by_key(paths: Sequence[Path], wrong: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path, key in zip(paths, _keys(paths)):
        if key in found:
            raise DataError(f"'{found[key]}' and '{path}' {wrong}: give files names of their own, or list them")
        found[key] = path
    return found


def _keys(paths: Sequence[Path]) -> list[str]:
    """File names without the words that stand at the start or at the end of all of them."""
    stems = [path.stem for path in paths]
    if len(stems) == 1:
        return [re.sub(r"_(leftImg8bit|gtFine_labelIds|gtFine_labelTrainIds|label|mask|rgb_anon)$", "", stems[0])]
    end = os.path.commonprefix([stem[::-1] for stem in stems])[::-1]
    tail = re.search(r"[_\-.][A-Za-z][^/]*$", end)
    start = os.path.commonprefix(stems)
    head = re.match(r"^[A-Za-z]+[_\-.]", start)
    return [stem[head.end() if head else 0 : len(stem) - len(tail[0] if tail else "")] for stem in stems]


def class_table(classes: str, labels: Sequence[Path], draft: Path) -> list[dict]:
    """The classes of a YAML file, or of a name in KNOWN. Without either a draft is written for the user to complete."""
    if classes in KNOWN:
        colours = dict(zip(CITYSCAPES_19.names, CITYSCAPES_19.colours))
        return [{"name": name, "ids": [raw], "colour": list(colours[name])} for raw, name in KNOWN[classes].items()]
    if classes:
        table = parse_tree(read_text(Path(classes)), classes).get("classes")
        if not isinstance(table, list) or not all(
            isinstance(r, dict) and isinstance(r.get("ids"), list) for r in table
        ):
            raise DataError(f"'{classes}' has no list 'classes' of {{name, ids, colour}}: see docs/datasets.md")
        return table
    ids = sorted(
        {int(i) for path in labels[:LOOKED_AT] for i in np.unique(decode_ids(Ref(str(path.parent), path.name)))}
    )
    named = [{"name": f"class_{i}", "ids": [i], "colour": _colour(i)} for i in ids if i != 255]
    text = write_tree({"classes": named}).encode()
    if not draft.is_file():  # the user may have completed it
        write_atomically(draft, lambda handle: handle.write(text))
    raise DataError(
        f"what do the ids {shorten(map(str, ids), 40)} of the labels mean? Name them in '{draft}', which was written "
        "for you, and give it as --classes (labels of Cityscapes: --classes cityscapes)"
    )


def _colour(index: int) -> list[int]:
    return [int(value) for value in np.random.default_rng(index).integers(40, 230, 3)]


def ignored_ids(table: Sequence[Mapping]) -> list[int]:
    """Every id that is no class."""
    known = {raw for row in table for raw in row.get("ids", ())}
    return [raw for raw in range(256) if raw not in known]


def working_size(images: Sequence[Path], pixels: int) -> tuple[int, int]:
    """Width and height, multiples of 32, of about so many pixels in the shape of most of the images."""
    shapes = [_size(path) for path in images[:: max(1, len(images) // 25)]]
    ratio = float(np.median([width / height for width, height in shapes]))
    limit = float(np.median([width * height for width, height in shapes]))
    height = (min(pixels, limit) / ratio) ** 0.5
    return max(32, round(height * ratio / 32) * 32), max(32, round(height / 32) * 32)


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # Pillow's readers raise many kinds for damaged files
        raise DataError(f"cannot read '{path}': {error}") from None


def write_list(path: Path, rows: Sequence[Sequence[Path]]) -> None:
    """A list of files for `data.<domain>.list`: an image, a tab, which allows spaces in names, and its label if any."""
    text = "".join("\t".join([*(str(part.resolve()) for part in row), ""][:2]) + "\n" for row in rows).encode()
    write_atomically(path, lambda handle: handle.write(text))

"""Data sets as data: one row each says where images and labels lie and what the raw ids mean.

Patterns are relative to the root; `{split}` is filled in, other fields match one path part. A user's own YAML file is
a row like these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from paddle_adaptseg.config.conversion import convert, lookup
from paddle_adaptseg.config.yamltree import parse_tree, read_text
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.labels import (
    CITYSCAPES_19,
    CITYSCAPES_IDS,
    CITYSCAPES_TRAIN_IDS,
    SYNTHIA_IDS,
    LabelSpace,
    spelled,
)


@dataclass(frozen=True)
class LabelSource:
    """Where labels lie, how they are decoded (a row of decode.LABELS) and what their ids mean."""

    pattern: str
    ids: Mapping[int, str]
    decode: str = "ids"
    ignored: frozenset[int] = frozenset({255})  # ids that may occur and are no class


@dataclass(frozen=True)
class DatasetSpec:
    """A row of the catalog. Image patterns are united, and so are label sources: the first that has an item counts."""

    title: str
    images: tuple[str, ...]
    labels: tuple[LabelSource, ...]
    splits: tuple[str, ...]
    home: str = ""
    classes: LabelSpace = CITYSCAPES_19
    numbered: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # split -> first and last number


_VOID = frozenset(range(35)) | {255}  # Cityscapes' ids up to 34; 255 is its licence plate, -1


def _raw_ids(pattern: str) -> LabelSource:
    return LabelSource(pattern, CITYSCAPES_IDS, ignored=_VOID)


def _either(pattern: str) -> tuple[LabelSource, ...]:
    """Labels as raw ids, or as train ids where only those are there."""
    train = LabelSource(pattern.replace("KIND", "labelTrainIds"), CITYSCAPES_TRAIN_IDS)
    return _raw_ids(pattern.replace("KIND", "labelIds")), train


_FINE = _either("gtFine/{split}/{city}/{name}_gtFine_KIND.png")
_RGB_ANON = "{name}_rgb_anon.png"

DATASETS: dict[str, DatasetSpec] = {
    "gta5": DatasetSpec(
        title="GTA5 (Playing for Data)",
        images=("images/{name}.png",),
        labels=(_raw_ids("labels/{name}.png"),),
        splits=("all", "official"),
        numbered={"official": (1, 24966)},
        home="https://download.visinf.tu-darmstadt.de/data/from_games/",
    ),
    "synthia": DatasetSpec(
        title="SYNTHIA-RAND-CITYSCAPES",
        images=("RGB/{name}.png",),
        labels=(LabelSource("GT/LABELS/{name}.png", SYNTHIA_IDS, "red16", frozenset({0, 13, 14, 22})),),
        splits=("all",),
        home="https://synthia-dataset.net/downloads/",
    ),
    "synscapes": DatasetSpec(
        title="Synscapes",
        images=("img/rgb/{name}.png", "img/rgb-2k/{name}.png"),
        labels=(_raw_ids("img/class/{name}.png"),),
        splits=("all",),
        home="https://synscapes.on.liu.se/",
    ),
    "cityscapes": DatasetSpec(
        title="Cityscapes",
        images=("leftImg8bit/{split}/{city}/{name}_leftImg8bit.png",),
        labels=_FINE,
        splits=("train", "val", "test"),
        home="https://www.cityscapes-dataset.com/downloads/",
    ),
    "foggy_cityscapes": DatasetSpec(
        title="Foggy Cityscapes (beta 0.02)",
        images=("leftImg8bit_foggy/{split}/{city}/{name}_leftImg8bit_foggy_beta_0.02.png",),
        labels=_FINE,
        splits=("train", "val", "test"),
        home="https://www.cityscapes-dataset.com/downloads/",
    ),
    "foggy_cityscapes_dbf": DatasetSpec(
        title="Foggy Cityscapes-DBF (beta 0.02)",
        images=("leftImg8bit_foggyDBF/{split}/{city}/{name}_leftImg8bit_foggy_beta_0.02.png",),
        labels=_FINE,
        splits=("train", "val"),
        home="https://www.cityscapes-dataset.com/downloads/",
    ),
    "crosscity": DatasetSpec(
        title="Cross-City (NTHU: Rome, Rio, Tokyo, Taipei)",
        images=("{city}/Images/{split}/{name}.png", "{city}/Images/{split}/{name}.jpg"),
        labels=(_raw_ids("{city}/Labels/{split}/{name}_eval.png"),),
        splits=("Train", "Test"),
        home="https://yihsinchen.github.io/segmentation_adaptation/",
    ),
    "acdc": DatasetSpec(
        title="ACDC",
        images=("rgb_anon/{condition}/{split}/{sequence}/" + _RGB_ANON,),
        labels=_either("gt/{condition}/{split}/{sequence}/{name}_gt_KIND.png"),
        splits=("train", "val", "test"),
        home="https://acdc.vision.ee.ethz.ch/download",
    ),
    "dark_zurich": DatasetSpec(
        title="Dark Zurich",
        images=("rgb_anon/{split}/{condition}/{sequence}/" + _RGB_ANON,),
        labels=_either("gt/{split}/{condition}/{sequence}/{name}_gt_KIND.png"),
        splits=("train", "val", "test"),
        home="https://www.trace.ethz.ch/publications/2019/GCMA_UIoU/",
    ),
    "paddleseg": DatasetSpec(  # images and labels stand in a list: lists.py
        title="a PaddleSeg list (train ids of Cityscapes)",
        images=(),
        labels=(LabelSource("", CITYSCAPES_TRAIN_IDS),),
        splits=("all",),
        home="https://github.com/PaddlePaddle/PaddleSeg",
    ),
    "bdd100k": DatasetSpec(
        title="BDD100K (10k, semantic segmentation)",
        images=("images/10k/{split}/{name}.jpg", "seg/images/{split}/{name}.jpg"),
        labels=(
            LabelSource("labels/sem_seg/masks/{split}/{name}.png", CITYSCAPES_TRAIN_IDS),
            LabelSource("seg/labels/{split}/{name}_train_id.png", CITYSCAPES_TRAIN_IDS),
        ),
        splits=("train", "val", "test"),
        home="https://doc.bdd100k.com/",
    ),
}


def dataset_spec(name: str) -> DatasetSpec:
    """A row of the catalog, or the user's own from a YAML file."""
    return own_dataset(Path(name)) if name.endswith((".yml", ".yaml")) else lookup(DATASETS, name, "data set")


@dataclass(frozen=True)
class OwnClass:
    """A class in a user's YAML file."""

    name: str
    ids: tuple[int, ...]
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class OwnDataset:
    """A user's YAML file: folders as patterns, splits, and classes with their ids and colours.

    Without patterns the images and labels are those that a domain's `list` names.
    """

    classes: tuple[OwnClass, ...]
    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("all",)
    title: str = ""
    decode: str = "ids"
    ignored: tuple[int, ...] = (255,)  # ids that may occur and are no class


def own_dataset(path: Path) -> DatasetSpec:
    """Read a user's data set; what is wrong in it is named."""
    if not path.is_file():
        raise ConfigError(f"data set file '{path}' does not exist")
    try:
        own = convert(parse_tree(read_text(path), str(path)), OwnDataset, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    names = spelled(c.name for c in own.classes)
    ids = {raw: name for c, name in zip(own.classes, names) for raw in c.ids}
    if len(set(names)) < len(names) or len(ids) < sum(len(c.ids) for c in own.classes):
        raise ConfigError(f"{path}: 'classes' must have distinct names and ids")
    if not own.splits or (own.labels and not own.images):
        raise ConfigError(f"{path}: 'splits', and 'images' beside 'labels', must not be empty")
    if not own.classes or not all(0 <= raw < 256 for raw in ids):
        raise ConfigError(f"{path}: 'classes' must not be empty, and ids must lie in 0..255")
    labels = tuple(
        LabelSource(pattern, ids, own.decode, frozenset(own.ignored))
        for pattern in own.labels or ([] if own.images else [""])
    )
    space = LabelSpace(names, tuple(c.colour for c in own.classes))
    return DatasetSpec(own.title or path.stem, own.images, labels, own.splits, str(path), space)

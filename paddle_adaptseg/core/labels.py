"""Class names, colours and raw-id tables: what the numbers in label files mean.

Raw ids of a data set map to class names; a LabelSpace maps names to the indices a network predicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from paddle_adaptseg.core.errors import ConfigError, suggest

IGNORE = 255
SPELLINGS = {"motocycle": "motorcycle"}  # how the original programs spell a class, and what it is called


@dataclass(frozen=True)
class LabelSpace:
    """An ordered set of classes with their colours."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", spelled(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, names: Iterable[str]) -> LabelSpace:
        """The classes called `names`, in that order."""
        names = spelled(names)
        for name in names:
            if name not in self.names:
                raise ConfigError(f"unknown class '{name}': {suggest(name, self.names)}")
        return LabelSpace(names, tuple(self.colours[self.names.index(n)] for n in names))

    def lut(self, raw_ids: Mapping[int, str]) -> np.ndarray:
        """A vector [256] uint8 with the class index of every raw id, IGNORE for all others."""
        table = np.full(256, IGNORE, np.uint8)
        for raw, name in raw_ids.items():
            if name in self.names:
                table[raw] = self.names.index(name)
        return table

    def palette(self) -> np.ndarray:
        """RGB colours [256, 3] uint8 of the class indices; IGNORE and unused indices are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colours
        return table


def spelled(names: Iterable[str]) -> tuple[str, ...]:
    """Class names as they are shown."""
    return tuple(SPELLINGS.get(name, name) for name in names)


# Name ("light" and "sign" as in the papers' tables), Cityscapes raw id, Cityscapes colour.
_CITYSCAPES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("light", 19, (250, 170, 30)),
    ("sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)

CITYSCAPES_19 = LabelSpace(tuple(n for n, _, _ in _CITYSCAPES), tuple(c for _, _, c in _CITYSCAPES))
CITYSCAPES_IDS: Mapping[int, str] = {raw: name for name, raw, _ in _CITYSCAPES}

CITYSCAPES_TRAIN_IDS: Mapping[int, str] = dict(enumerate(CITYSCAPES_19.names))

# Terrain (16), truck (18) and train (20) are listed by SYNTHIA, but "not present".
SYNTHIA_IDS: Mapping[int, str] = {
    1: "sky", 2: "building", 3: "road", 4: "sidewalk", 5: "fence", 6: "vegetation", 7: "pole", 8: "car", 9: "sign",
    10: "person", 11: "bicycle", 12: "motorcycle", 15: "light", 16: "terrain", 17: "rider", 18: "truck", 19: "bus",
    20: "train", 21: "wall",
}  # fmt: skip

_NOT_IN_SYNTHIA = ("terrain", "truck", "train")
_NOT_IN_13 = (*_NOT_IN_SYNTHIA, "wall", "fence", "pole")
SYNTHIA_16 = CITYSCAPES_19.subset(n for n in CITYSCAPES_19.names if n not in _NOT_IN_SYNTHIA)
SYNTHIA_13 = CITYSCAPES_19.subset(n for n in CITYSCAPES_19.names if n not in _NOT_IN_13)

LABEL_SPACES: Mapping[str, LabelSpace] = {
    "cityscapes_19": CITYSCAPES_19,
    "synthia_16": SYNTHIA_16,
    "synthia_13": SYNTHIA_13,
    "crosscity_13": SYNTHIA_13,  # the same thirteen classes
}

"""Where things are on AI Studio (and elsewhere): mounted data sets, the folder that is kept, and what runs short.

AI Studio mounts each data set as `~/data/dataN`, mostly as zip archives, and restores that folder when it is reset;
`~/work` is kept. Archives are identified by their contents, since N and their names do not identify them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.data.catalog import DATASETS
from paddle_adaptseg.data.files import expand, fill, find

# Data sets that are looked for, and how long the numbers are that name their images: `images/{name}.png` alone would
# take any folder of images for GTA5.
SOUGHT: Mapping[str, int] = {"gta5": 5, "synthia": 7, "cityscapes": 0}
DEPTH = 3  # folders below a mounted one in which a data set may begin
SHM = Path("/dev/shm")
GB = 2**30
UNPACK: Mapping[str, str] = {".rar": "unrar x {0} {1}/", ".7z": "7z x {0} -o{1}"}
TAR = "tar -xf {0} -C {1}"

Given = Union[str, Path, list, tuple]


@dataclass(frozen=True)
class Found:
    """One data set: the folders and archives that hold it, and how many images and labels they list."""

    roots: tuple[str, ...]
    images: int
    labels: int

    def line(self) -> str:
        """What is there, for a person."""
        return f"{self.images} images, {self.labels} labels in {' + '.join(self.roots)}"


@dataclass(frozen=True)
class Places:
    """Where data and results are; `overrides` puts it into a configuration."""

    home: Path
    work: Path
    found: Mapping[str, Found]
    unusable: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()  # files that may hold initial weights

    def roots(self, dataset: str) -> tuple[str, ...]:
        """The folders and archives of a data set."""
        lookup(SOUGHT, dataset, "data set")
        if dataset not in self.found:
            hint = "; ".join(self.unusable) or f"name it yourself: find_places({dataset}='/path/to/its.zip')"
            raise DataError(f"{DATASETS[dataset].title} was not found below '{self.home / 'data'}': {hint}")
        return self.found[dataset].roots

    def overrides(self, source: str, target: str, run: str) -> list[str]:
        """Overrides of a configuration: where its domains lie, and a run's folder in what is kept."""
        roots = {"source": source, "target": target, "validation": target}
        lines = [f"data.{domain}.root={json.dumps(self.roots(name))}" for domain, name in roots.items()]
        return [*lines, f"run.output={json.dumps(str(self.work / 'checkpoint' / run))}"]

    def lines(self) -> list[str]:
        """What was found, for a person."""
        rows = []
        for name in SOUGHT:
            found = self.found.get(name)
            rows.append(f"{name}: {found.line() if found else 'not found'}")
        rows += [f"weights: {path}" for path in self.weights]
        return [*rows, *(f"not usable: {line}" for line in self.unusable), f"results: {self.work / 'checkpoint'}"]

    def __repr__(self) -> str:
        return "\n".join(self.lines())


def find_places(home: Union[str, Path, None] = None, work: Union[str, Path, None] = None, **given: Given) -> Places:
    """Look into what is mounted below `home` (default: yours). `gta5=...` and so on name roots instead."""
    home = Path(home or Path.home())
    if work is None:
        work = home / "work" if (home / "work").is_dir() else Path()
    for name in given:
        lookup(SOUGHT, name, "data set")
    stores = _stores(home / "data")
    rows = {n: _chosen(n, given[n]) if n in given else _search(n, stores) for n in SOUGHT}
    found = {name: row for name, row in rows.items() if row is not None}
    return Places(home, Path(work), found, tuple(_tars(home / "data")), tuple(_weights(home)))


def check_room(places: Optional[Places] = None, hours: float = 0.0, quota_gb: float = 0.0) -> list[str]:
    """Lines on what runs short in a session: shared memory, disk, time. `quota_gb` is what your account may keep."""
    places = places or find_places()
    return [_shared_memory(), _disk(places.work, quota_gb), _session(hours)]


def _chosen(name: str, roots: Given) -> Found:
    paths = tuple(str(root) for root in (roots if isinstance(roots, (list, tuple)) else [roots]))
    found = _search(name, expand(paths))
    return Found(paths, found.images if found else 0, found.labels if found else 0)


def _stores(data: Path) -> list[str]:
    """Every archive below the mounted folders, and every folder in which a data set may begin."""
    if not data.is_dir():
        return []
    folders, level = [data], [data]
    for _ in range(DEPTH):
        level = sorted(child for folder in level for child in _folders(folder))
        folders += level
    archives = [str(path) for folder in folders for path in sorted(folder.glob("*.zip"))]
    return [*archives, *map(str, folders)]


def _folders(folder: Path) -> list[Path]:
    """Folders in a folder, unless it is one of very many images."""
    children = []
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count > 1000:
                return []
            if entry.is_dir():
                children.append(Path(entry.path))
    return children


def _search(name: str, stores: list[str]) -> Optional[Found]:
    """The stores that hold images or labels of a data set."""
    held = {store: (_count(name, store, "images"), _count(name, store, "labels")) for store in stores}
    held = {store: counts for store, counts in held.items() if any(counts)}
    if not any(images for images, _ in held.values()):
        return None
    # Images and labels of the same name are needed together: of several copies the first that has both is taken.
    whole = next((store for store, (images, labels) in held.items() if images and labels >= images), None)
    if whole is not None:
        held = {whole: held[whole]}
    images, labels = (sum(counts[i] for counts in held.values()) for i in (0, 1))
    return Found(tuple(held), images, labels)


def _count(name: str, store: str, part: str) -> int:
    """How many images or labels of a data set one folder or archive lists, over all splits."""
    spec = DATASETS[name]
    patterns = spec.images if part == "images" else tuple(source.pattern for source in spec.labels)
    try:
        return max(sum(_matches(store, filled, SOUGHT[name]) for filled in _filled(p, spec.splits)) for p in patterns)
    except DataError:
        return 0  # not an archive, whatever its name says


def _filled(pattern: str, splits: Iterable[str]) -> set[str]:
    return {fill(pattern, {"split": split}) for split in splits}


def _matches(store: str, pattern: str, digits: int) -> int:
    names = [dict(fields)["name"] for fields in find([store], pattern)]
    return sum(not digits or (len(name) == digits and name.isdigit()) for name in names)


def _weights(home: Path) -> list[str]:
    """Files in the mounted folders that may hold weights."""
    return sorted(str(p) for ending in ("pth", "pt", "pdparams") for p in (home / "data").glob(f"data*/*.{ending}"))


def _tars(data: Path) -> list[str]:
    """Archives that must be unpacked first: a tar has no listing, so a file is found by reading all before it."""
    endings = ("*.tar", "*.tar.gz", "*.tgz", "*.rar", "*.7z")
    found = sorted(path for ending in endings for path in data.glob(f"data*/{ending}"))
    return [
        f"{path} ({path.stat().st_size / GB:.1f} GB) has no listing to read files by; "
        f"unpack it at the start of a session: {UNPACK.get(path.suffix, TAR).format(path, path.parent)}"
        for path in found
    ]


def _shared_memory() -> str:
    if not SHM.is_dir():
        return "shared memory: none; loader workers pass batches through pipes"
    usage = shutil.disk_usage(SHM)
    return (
        f"shared memory: {usage.free / GB:.2f} of {usage.total / GB:.2f} GB free in {SHM}; where batches do not fit, "
        "loader workers pass them through pipes"
    )


def _disk(work: Path, quota_gb: float) -> str:
    free = shutil.disk_usage(work).free / GB
    if not quota_gb:
        return f"disk: {free:.1f} GB free where results go ('{work}'); an account's quota may be less (quota_gb)"
    used = sum(path.stat().st_size for path in work.rglob("*") if path.is_file() and not path.is_symlink()) / GB
    return f"disk: {min(free, quota_gb - used):.1f} GB left in '{work}' ({used:.1f} of {quota_gb:g} GB used)"


def _session(hours: float) -> str:
    if not hours:
        return "session: no limit set; with hours=... training saves and stops in time (run.max_hours)"
    return f"session: training saves and stops after {hours:g} hours (run.max_hours={hours:g}); the same cell resumes"

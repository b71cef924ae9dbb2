"""Prepared copies at training size: images and labels as train ids, made once, used when the recipe is the same.

A recipe is everything that a copy depends on; its digest names the folder, so a changed recipe finds no cache and the
originals are read until it is prepared again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Optional

import cv2
import numpy as np
from tqdm import tqdm

from paddle_adaptseg.data.stores import is_archive
from paddle_adaptseg.errors import DataError
from paddle_adaptseg.files import write_atomically, writing
from paddle_adaptseg.registry import lookup

if TYPE_CHECKING:
    from paddle_adaptseg.data.dataset import DomainFiles

VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Format:
    """A way to store an array losslessly."""

    ending: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]


def _png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _unpng(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def _raw(array: np.ndarray) -> bytes:
    return np.array([array.ndim, *array.shape], np.int32).tobytes() + array.tobytes()


def _unraw(data: bytes) -> np.ndarray:
    dimensions = int(np.frombuffer(data, np.int32, 1)[0])
    shape = np.frombuffer(data, np.int32, dimensions, 4)
    return np.frombuffer(data, np.uint8, offset=4 * (dimensions + 1)).reshape(shape)


# Channel order does not matter to a lossless copy: arrays come back as they went in.
FORMATS: Mapping[str, Format] = {"png": Format("png", _png, _unpng), "raw": Format("raw", _raw, _unraw)}


class Cache:
    """A prepared folder."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.format = folder, FORMATS[kind]

    @classmethod
    def find(cls, root: str, files: DomainFiles) -> Optional[Cache]:
        """The cache of these files at this size, if it is there and whole; a damaged one is an error."""
        if not Path(root).is_dir():
            return None
        folder = Path(root) / digest(files)
        manifest = folder / MANIFEST
        if not manifest.is_file():
            return None
        record = json.loads(manifest.read_text(encoding="utf-8"))
        cache = cls(folder, record["format"])
        found = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
        damaged = [name for name, size in record["files"].items() if found.get(name) != size]
        if damaged:
            raise DataError(
                f"cache '{folder}' is damaged ('{damaged[0]}' is missing or cut): delete it or prepare again"
            )
        return cache

    def image(self, index: int) -> np.ndarray:
        return self._array("image", index)

    def label(self, index: int) -> np.ndarray:
        return self._array("label", index)

    def _array(self, part: str, index: int) -> np.ndarray:
        path = self.folder / file_name(part, index, self.format)
        try:
            array = self.format.decode(path.read_bytes())
        except OSError as error:
            raise DataError(f"cannot read '{path}': {error.strerror}") from None
        except (ValueError, IndexError, cv2.error):
            array = None
        if array is None:
            raise DataError(f"prepared copy '{path}' is damaged: delete its folder, or prepare again")
        return array


def file_name(part: str, index: int, kind: Format) -> str:
    return f"{index:06d}_{part}.{kind.ending}"


def digest(files: DomainFiles) -> str:
    """A name for everything that the copies depend on: sources with their sizes and times, size, id table."""
    recipe = hashlib.sha256(f"{VERSION} {files.size}".encode())
    recipe.update(b"" if files.lut is None else files.lut.tobytes())
    stamps: dict[str, str] = {}
    for item in files.items:
        for ref in (item.image, item.label):
            if ref is not None:
                path = ref.store if is_archive(ref.store) else os.path.join(ref.store, ref.name)  # noqa: PTH118
                if path not in stamps:
                    status = os.stat(path)  # noqa: PTH116 (a hundred thousand files: Path objects cost seconds)
                    stamps[path] = f"{status.st_size} {status.st_mtime_ns}"
                recipe.update(f"{ref.name} {stamps[path]}\n".encode())
    return recipe.hexdigest()[:20]


def is_prepared(files: DomainFiles, root: Path, kind: str) -> bool:
    """Whether a whole cache of these files in this format is there."""
    try:
        cache = Cache.find(str(root), files)
    except DataError:
        return False
    return cache is not None and cache.format is FORMATS.get(kind)


def prepare(files: DomainFiles, root: Path, kind: str, workers: int) -> tuple[Path, int]:
    """Write the cache of a domain; returns its folder and size in bytes. Nothing is there until all of it is."""
    store = lookup(FORMATS, kind, "cache format")
    final = root / digest(files)
    partial = root / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)

    def one(index: int) -> dict[str, int]:
        if files.lut is None:
            arrays = {"image": files.image(index)}
        else:
            arrays = dict(zip(("image", "label"), files.pair(index, files.size, files.size)))
        sizes = {}
        for part, array in arrays.items():
            data = store.encode(np.ascontiguousarray(array))
            path = partial / file_name(part, index, store)
            with writing(path):
                path.write_bytes(data)
            sizes[file_name(part, index, store)] = len(data)
        return sizes

    written: dict[str, int] = {}
    with ThreadPoolExecutor(workers) as pool:  # decoding and encoding release the interpreter
        for sizes in tqdm(pool.map(one, range(len(files))), f"prepare {files.title}", len(files), unit="image"):
            written.update(sizes)
    record = {"version": VERSION, "format": kind, "size": list(files.size), "files": written}
    write_atomically(partial / MANIFEST, lambda handle: handle.write(json.dumps(record).encode()))
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)
    return final, sum(written.values())

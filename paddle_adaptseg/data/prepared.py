"""Prepared copies at training size: images and labels as train ids, made once, used when the recipe is the same.

A recipe is everything that a copy depends on; its digest names the folder, so a changed recipe finds no cache and the
originals are read until it is prepared again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Optional

import cv2
import numpy as np

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.core.files import write_atomically, writing
from paddle_adaptseg.core.progress import progress
from paddle_adaptseg.data.files import is_archive
from paddle_adaptseg.data.windows import WHOLE, Cutter, Reading, Window

if TYPE_CHECKING:
    from paddle_adaptseg.data.dataset import DomainFiles

VERSION = 1
MANIFEST = "manifest.json"
ABANDONED = 3600.0  # seconds without a new file after which nobody works on a folder any more


@dataclass(frozen=True)
class Format:
    """A way to store an array losslessly, and to read windows of it from a file."""

    ending: str
    encode: Callable[[np.ndarray], bytes]
    open: Callable[[Path], Cutter]


def _png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _open_png(path: Path) -> Cutter:
    whole = np.asarray(cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED))
    if not whole.ndim:
        raise ValueError("not an image")
    return whole.__getitem__


def _raw(array: np.ndarray) -> bytes:
    return np.array([array.ndim, *array.shape], np.int32).tobytes() + array.tobytes()


def _open_raw(path: Path) -> Cutter:
    """Only a window's rows are read. They are not mapped into memory, where a file that another program cuts would
    end the process."""
    header = np.fromfile(path, np.int32, 4)
    begins, shape = 4 * (header[0] + 1), header[1 : header[0] + 1].astype(np.int64)

    def cut(window: Window) -> np.ndarray:
        first, last, _ = window[0].indices(int(shape[0]))
        row = int(shape[1:].prod())
        rows = np.fromfile(path, np.uint8, (last - first) * row, offset=int(begins) + first * row)
        return rows.reshape([last - first, *shape[1:]])[:, window[1]]

    return cut


# Channel order does not matter to a lossless copy: arrays come back as they went in.
FORMATS: Mapping[str, Format] = {"png": Format("png", _png, _open_png), "raw": Format("raw", _raw, _open_raw)}


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
        try:
            record = json.loads(manifest.read_text(encoding="utf-8"))
            cache = cls(folder, record["format"])
            found = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
            damaged = [name for name, size in record["files"].items() if found.get(name) != size]
        except FileNotFoundError:
            return None  # just now replaced by another process that prepares the same
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged = [MANIFEST]
        if damaged:
            raise DataError(
                f"cache '{folder}' is damaged ('{damaged[0]}' is missing or cut): delete it or prepare again"
            )
        return cache

    def image(self, index: int) -> np.ndarray:
        return self._cutter("image", index)(WHOLE)

    def label(self, index: int) -> np.ndarray:
        return self._cutter("label", index)(WHOLE)

    def reading(self, index: int, labelled: bool) -> Reading:
        """An item of which any windows are cut."""
        return Reading(self._cutter("image", index), self._cutter("label", index) if labelled else None)

    def _cutter(self, part: str, index: int) -> Cutter:
        """What cuts windows of a copy; a PNG is decoded once for all of them."""
        path = self.folder / file_name(part, index, self.format)
        opened: list[Cutter] = []

        def cut(window: Window) -> np.ndarray:
            try:
                opened[:] = opened or [self.format.open(path)]
                return opened[0](window)
            except OSError as error:
                raise DataError(f"cannot read '{path}': {error.strerror}") from None
            except (ValueError, IndexError, MemoryError, cv2.error):
                raise DataError(f"prepared copy '{path}' is damaged: delete its folder, or prepare again") from None

        return cut


def file_name(part: str, index: int, kind: Format) -> str:
    return f"{index:06d}_{part}.{kind.ending}"


def digest(files: DomainFiles) -> str:
    """A name for everything that the copies depend on: sources with their sizes and times, size, id table."""
    recipe = hashlib.sha256(f"{VERSION} {files.size}".encode())
    for number, reader in files.readers.items():
        recipe.update(b"" if len(files.readers) == 1 else bytes([number]))
        recipe.update(reader.lut.tobytes())
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
    partial = _own_folder(root, final.name)
    try:
        written: dict[str, int] = {}
        with ThreadPoolExecutor(workers) as pool:  # decoding and encoding release the interpreter
            sizes = pool.map(lambda index: _store(files, index, store, partial), range(len(files)))
            for each in progress(sizes, f"prepare {files.title}", len(files)):
                written.update(each)
        record = {"version": VERSION, "format": kind, "size": list(files.size), "files": written}
        write_atomically(partial / MANIFEST, lambda handle: handle.write(json.dumps(record).encode()))
        if not is_prepared(files, root, kind):  # another process may have prepared the same meanwhile
            publish(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final, sum(written.values())


def _store(files: DomainFiles, index: int, store: Format, folder: Path) -> dict[str, int]:
    """Write the copies of one item; returns their names and sizes."""
    if not files.labelled:
        arrays = {"image": files.image(index)}
    else:
        image, label, _ = files.pair(index, files.size)
        arrays = {"image": image, "label": label}
    sizes = {}
    for part, array in arrays.items():
        data = store.encode(np.ascontiguousarray(array))
        path = folder / file_name(part, index, store)
        with writing(path):
            path.write_bytes(data)
        sizes[path.name] = len(data)
    return sizes


def _own_folder(root: Path, name: str) -> Path:
    """A new folder that no other process writes to. What killed preparations of the same copies left is deleted."""
    for old in root.glob(f".{name}.*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > ABANDONED:
                shutil.rmtree(old, ignore_errors=True)
    folder = root / f".{name}.{uuid.uuid4().hex}.partial"
    with writing(folder):
        folder.mkdir(parents=True)
    return folder


def publish(partial: Path, final: Path) -> None:
    """Move a folder into place; of several processes that do so at once the last one wins."""
    aside = partial.with_suffix(".old.partial")
    while True:
        with contextlib.suppress(FileNotFoundError):
            final.rename(aside)
        try:
            partial.rename(final)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)

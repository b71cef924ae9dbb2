"""PyTorch checkpoints without PyTorch: the zip format since 1.6, and the stacked pickles of all weights of 2018."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np

from paddle_adaptseg.errors import CheckpointError
from paddle_adaptseg.weights.unpickle import PLAIN, load_one

_MAGIC = 0x1950A86A20F9469CFC6C
MAX_BYTES = 8 * 2**30  # of all members together; R101 DeepLab has 0.2 GB

_TYPES = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": "<u2", "Long": "<i8", "Int": "<i4", "Short": "<i2",
    "Char": "<i1", "Byte": "<u1", "Bool": "?",
}  # fmt: skip


@dataclass
class Storage:
    """Numbers that tensors are views of; legacy files bring them after the tensors."""

    kind: str
    numel: int
    data: Optional[np.ndarray] = None


@dataclass(frozen=True)
class TensorView:
    """A tensor as the pickle describes it, before its storage is read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The numbers, after checking that the view stays inside its storage."""
        numbers = (self.offset, *self.shape, *self.stride)
        if any(not isinstance(n, int) or n < 0 for n in numbers) or len(self.shape) != len(self.stride):
            raise CheckpointError(f"a tensor has the impossible shape {self.shape} with stride {self.stride}")
        data = self.storage.data
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride))
        if data is None or (0 not in self.shape and last >= len(data)):
            raise CheckpointError(f"a tensor of shape {self.shape} reaches beyond its data")
        if 0 in self.shape:
            return np.zeros(self.shape, data.dtype)
        if int(np.prod(self.shape, dtype=object)) > len(data):
            raise CheckpointError(f"a tensor of shape {self.shape} is larger than its data")
        strides = [s * data.itemsize for s in self.stride]
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides, writeable=False)
        if self.storage.kind == "BFloat16":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return np.array(view)


def _rebuild(storage: Storage, offset: int, shape: tuple, stride: tuple, *_: Any) -> TensorView:
    if not isinstance(storage, Storage):
        raise CheckpointError("a tensor has no storage")
    return TensorView(storage, offset, tuple(shape), tuple(stride))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


@dataclass(frozen=True)
class _StorageType:
    kind: str


NAMES = {
    **PLAIN,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
    **{("torch", f"{kind}Storage"): _StorageType(kind) for kind in _TYPES},
}


@dataclass
class _Storages:
    """Storages by key, made when a pickle first refers to them."""

    by_key: dict[str, Storage] = field(default_factory=dict)

    def __call__(self, reference: Any) -> Storage:
        ok = isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"
        if not ok or not isinstance(reference[1], _StorageType) or not isinstance(reference[4], int):
            raise CheckpointError("it refers to something that is no tensor data")
        if len(reference) > 5 and reference[5] is not None:
            raise CheckpointError("it shares storages in a way that only files before PyTorch 0.4 do")
        return self.by_key.setdefault(str(reference[2]), Storage(reference[1].kind, reference[4]))


def is_torch_zip(path: Path) -> bool:
    """Whether a file is an archive with PyTorch's members."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def read_zip(path: Path) -> Any:
    """The object of a zip checkpoint, tensors as TensorView."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        total = sum(info.file_size for info in members.values())
        if total > MAX_BYTES or total > 100 * path.stat().st_size + 2**20:
            raise CheckpointError(f"it would unpack to {total / 2**20:.0f} MB, more than its size allows")
        root = next(name for name in members if name.endswith("/data.pkl"))[: -len("data.pkl")]
        storages = _Storages()
        content = load_one(io.BytesIO(archive.read(root + "data.pkl")), NAMES, storages)
        if root + "byteorder" in members and archive.read(root + "byteorder") != b"little":
            raise CheckpointError("it was written on a big-endian machine")
        for key, storage in storages.by_key.items():
            if f"{root}data/{key}" not in members:
                raise CheckpointError(f"its data '{key}' is missing")
            storage.data = _numbers(archive.read(f"{root}data/{key}"), storage)
    return content


def is_torch_legacy(head: bytes) -> bool:
    """Whether a file starts with the magic number of stacked pickles."""
    return _MAGIC.to_bytes(10, "little") in head[:32]


def read_legacy(path: Path) -> Any:
    """The object of a stacked-pickle checkpoint, tensors as TensorView."""
    with path.open("rb") as file:
        if load_one(file) != _MAGIC or load_one(file) != 1001:
            raise CheckpointError("it is not PyTorch's format of 2018")
        load_one(file)  # sizes of C types on the machine that wrote it
        storages = _Storages()
        content = load_one(file, NAMES, storages)
        for key in load_one(file):
            storage = storages.by_key.get(str(key))
            if storage is None:
                raise CheckpointError(f"it brings data '{key}' that nothing refers to")
            if int.from_bytes(file.read(8), "little") != storage.numel:
                raise CheckpointError(f"its data '{key}' has another length than its description")
            storage.data = _numbers(file.read(storage.numel * np.dtype(_TYPES[storage.kind]).itemsize), storage)
    return content


def _numbers(data: bytes, storage: Storage) -> np.ndarray:
    dtype = np.dtype(_TYPES[storage.kind])
    if storage.numel < 0 or len(data) < storage.numel * dtype.itemsize:
        raise CheckpointError("it ends before its data does (an interrupted download?)")
    return np.frombuffer(data, dtype, storage.numel)

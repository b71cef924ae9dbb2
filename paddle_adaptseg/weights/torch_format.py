"""PyTorch checkpoints without PyTorch: the zip format since 1.6, and the stacked pickles of all weights of 2018."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Optional

import numpy as np

from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.weights.limits import CUT, SLACK, Budget, Metered, brief
from paddle_adaptseg.weights.numpy_format import MAX_COUNT, PLAIN, as_tuple, count
from paddle_adaptseg.weights.unpickle import Callee, load_one

_MAGIC = 0x1950A86A20F9469CFC6C
_DIRECTORY = 4 * 2**20  # bytes of a zip's list of members, about 60 a tensor

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

    @property
    def size(self) -> int:
        """Its bytes in the file."""
        return self.numel * np.dtype(_TYPES[self.kind]).itemsize

    def fill(self, data: bytes, budget: Budget) -> None:
        """Take the numbers from bytes; bfloat16 becomes float32."""
        if len(data) < self.size:
            raise CheckpointError(CUT)
        self.data = np.frombuffer(data, _TYPES[self.kind], self.numel)
        if self.kind == "BFloat16":
            budget.take(2 * self.size)
            wide = self.data.astype(np.uint32)
            self.data = np.left_shift(wide, 16, out=wide).view(np.float32)


@dataclass(frozen=True)
class TensorView:
    """A tensor as the pickle describes it, before its storage is read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The numbers, without a copy, after checking that the view stays inside its storage."""
        data = self.storage.data
        size = 0 if data is None else len(data)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride))
        if data is None or count(self.shape) > size or (count(self.shape) and last >= size):
            raise CheckpointError(f"a tensor of shape {self.shape} reaches beyond its data")
        if not count(self.shape):
            return np.zeros(self.shape, data.dtype)
        strides = [s * data.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides, writeable=False)


def _rebuild(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> TensorView:
    shape, stride = as_tuple(shape), as_tuple(stride)
    if not isinstance(storage, Storage):
        raise CheckpointError("a tensor has no storage")
    count(shape), count(stride)  # both are short tuples of plain numbers
    if type(offset) is not int or not 0 <= offset <= MAX_COUNT or len(shape) != len(stride):
        raise CheckpointError(f"a tensor has the impossible shape {shape} with stride {stride}")
    return TensorView(storage, offset, shape, stride)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


@dataclass(frozen=True)
class _StorageType:
    kind: str


NAMES: Mapping[tuple[str, str], Any] = {
    **PLAIN,
    ("torch._utils", "_rebuild_tensor"): Callee(_rebuild),
    ("torch._utils", "_rebuild_tensor_v2"): Callee(_rebuild),
    ("torch._utils", "_rebuild_parameter"): Callee(_parameter),
    ("torch", "Size"): Callee(as_tuple),
    **{("torch", f"{kind}Storage"): _StorageType(kind) for kind in _TYPES},
}


@dataclass
class _Storages:
    """Storages by key, made when a pickle first refers to them."""

    by_key: dict[str, Storage] = field(default_factory=dict)

    def __call__(self, reference: Any) -> Storage:
        ok = isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"
        if not ok or not isinstance(reference[1], _StorageType) or not isinstance(reference[2], (str, int)):
            raise CheckpointError("it refers to something that is no tensor data")
        if len(reference) > 5 and reference[5] is not None:
            raise CheckpointError("it shares storages in a way that only files before PyTorch 0.4 do")
        count((reference[4],))
        return self.by_key.setdefault(str(reference[2]), Storage(reference[1].kind, reference[4]))


def is_zip(head: bytes) -> bool:
    """Whether a file starts as a zip archive."""
    return head.startswith(b"PK\x03\x04")


def read_zip(file: BinaryIO, budget: Budget, size: int) -> Any:
    """The object of a zip checkpoint, tensors as TensorView."""
    metered = Metered(file, _DIRECTORY, "its list of members is longer than any checkpoint's")
    try:
        archive = zipfile.ZipFile(metered)  # type: ignore[arg-type]  # reads, seeks and tells
    except zipfile.BadZipFile:
        raise CheckpointError("it is a zip archive whose end is missing (an interrupted download or copy?)") from None
    metered.allowed, metered.complaint = size + SLACK, "its members overlap"
    names = archive.namelist()
    root = next((name[: -len("data.pkl")] for name in names if name.endswith("/data.pkl")), None)
    if root is None:
        some = ", ".join(map(brief, names[:3])) or "nothing"
        raise CheckpointError(f"it is a zip archive without PyTorch's data.pkl (it holds {some}); unpack it first")
    content, storages = _pickle_of(archive, root, budget)
    if f"{root}byteorder" in archive.NameToInfo and _member(archive, f"{root}byteorder", budget) != b"little":
        raise CheckpointError("it was written on a big-endian machine")
    for key, storage in storages.by_key.items():
        storage.fill(_member(archive, f"{root}data/{key}", budget), budget)
    return content


def _pickle_of(archive: zipfile.ZipFile, root: str, budget: Budget) -> tuple[Any, _Storages]:
    data, storages = _member(archive, f"{root}data.pkl", budget), _Storages()
    return load_one(Metered(io.BytesIO(data), len(data)), NAMES, budget, storages), storages


def _member(archive: zipfile.ZipFile, name: str, budget: Budget) -> bytes:
    """A member's bytes. PyTorch stores them as they are; deflated ones are unpacked as far as they say."""
    info = archive.NameToInfo.get(name)
    if info is None:
        raise CheckpointError(f"its data '{brief(name)}' is missing")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError("its members are compressed in a way that PyTorch never does")
    if info.compress_type == zipfile.ZIP_DEFLATED:
        budget.take(info.file_size)
    with archive.open(info) as member:
        data = member.read(info.file_size)
    if len(data) != info.file_size:
        raise CheckpointError(CUT)
    return data


def is_legacy(head: bytes) -> bool:
    """Whether a file starts with the magic number of stacked pickles."""
    return _MAGIC.to_bytes(10, "little") in head[:32]


def read_legacy(file: BinaryIO, budget: Budget, size: int) -> Any:
    """The object of a stacked-pickle checkpoint, tensors as TensorView."""
    source, storages = Metered(file, size), _Storages()
    if load_one(source, PLAIN, budget) != _MAGIC or load_one(source, PLAIN, budget) != 1001:
        raise CheckpointError("it is not PyTorch's format of 2018")
    load_one(source, PLAIN, budget)  # sizes of C types on the machine that wrote it
    content = load_one(source, NAMES, budget, storages)
    for key in as_tuple(load_one(source, PLAIN, budget)):
        storage = storages.by_key.get(key) if isinstance(key, str) else None
        if storage is None:
            raise CheckpointError(f"it brings data '{brief(key)}' that nothing refers to")
        if int.from_bytes(source.read(8), "little") != storage.numel:
            raise CheckpointError(f"its data '{brief(key)}' has another length than its description")
        storage.fill(source.read(storage.size), budget)
    return content

"""Unpickling that cannot run code: a file gets plain containers, text, numbers and arrays, and nothing else.

Names in a pickle are looked up in a table of ours and never imported. Opcodes are scanned before anything is built,
because a few bytes can also ask for gigabytes.
"""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any, BinaryIO, Callable, Optional

import numpy as np

from paddle_adaptseg.errors import CheckpointError

MAX_OPCODES = 5_000_000
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
_NUMERIC = "biufc?"


def _array_type(text: Any, align: bool = False, copy: bool = False) -> np.dtype:
    dtype = np.dtype(text, False, True)  # a copy: a pickle may go on to set its state
    if dtype.kind not in _NUMERIC or dtype.hasobject or dtype.itemsize > 16:
        raise CheckpointError(f"it holds arrays of type '{dtype}', which are no weights")
    return dtype


def _reconstruct(subtype: Any, shape: Any, dtype: Any) -> np.ndarray:
    return np.ndarray.__new__(np.ndarray, (0,), "b")  # its state follows; the shape asked for here is not trusted


def _frombuffer(buffer: Any, dtype: np.dtype, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype, 1)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise CheckpointError(f"it uses the text encoding '{encoding}'")
    return text.encode(encoding)


def _numpy_names() -> dict[tuple[str, str], Any]:
    names: dict[tuple[str, str], Any] = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): _array_type}
    for module in ("numpy.core", "numpy._core"):
        names[f"{module}.multiarray", "_reconstruct"] = _reconstruct
        names[f"{module}.multiarray", "scalar"] = _scalar
        names[f"{module}.numeric", "_frombuffer"] = _frombuffer
    return names


PLAIN: Mapping[tuple[str, str], Any] = {
    **_numpy_names(),
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
    ("builtins", "tuple"): tuple,  # Paddle stores a tensor as (name, array)
    ("__builtin__", "tuple"): tuple,
}


class _Unpickler(pickle.Unpickler):
    """Finds names in a table and storages through a callback."""

    def __init__(self, file: BinaryIO, names: Mapping, storage: Optional[Callable]) -> None:
        super().__init__(file, encoding="latin1")  # files of 2018 were written by Python 2
        self.names, self.storage = names, storage

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.names[module, name]
        except KeyError:
            raise CheckpointError(f"it wants to use '{module}.{name}', which weights never need") from None

    def persistent_load(self, reference: Any) -> Any:
        if self.storage is None:
            raise CheckpointError("it refers to data outside itself")
        return self.storage(reference)


def load_one(file: BinaryIO, names: Mapping = PLAIN, storage: Optional[Callable] = None) -> Any:
    """The next pickle of a file. Raises CheckpointError, or whatever a broken pickle raises."""
    start = file.tell()
    scan(file)
    end = file.tell()
    file.seek(start)
    return _Unpickler(io.BytesIO(file.read(end - start)), names, storage).load()


def scan(file: BinaryIO) -> None:
    """Read through one pickle's opcodes and refuse what only an attack needs."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > MAX_OPCODES:
            raise CheckpointError(f"it has more than {MAX_OPCODES} instructions")
        if opcode.name in _MEMO and isinstance(argument, int) and argument > count:
            raise CheckpointError(f"it asks for memo {argument} after {count} instructions")
        if opcode.name in ("EXT1", "EXT2", "EXT4", "INST", "OBJ"):
            raise CheckpointError(f"it uses the instruction {opcode.name}, which weights never need")

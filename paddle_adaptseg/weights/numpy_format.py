"""NumPy's arrays and types as pickles describe them, and the other names that weights need (Paddle's and ours)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.weights.limits import Budget, brief
from paddle_adaptseg.weights.unpickle import Callee, Record, insert

_NUMERIC = re.compile(r"[<>|=]?(\?|b1|[iu][1248]|f[248]|c8|c16)")
MAX_DIMENSIONS = 32
MAX_COUNT = 2**40


class Type(Record):
    """A numeric type; its state says the order of bytes."""

    def __init__(self, text: Any, align: Any = False, copy: Any = True) -> None:
        text = text.decode("latin1") if isinstance(text, bytes) else text
        if not isinstance(text, str) or not _NUMERIC.fullmatch(text):
            kind = "object" if text in ("O", "O4", "O8") else brief(text)
            raise CheckpointError(f"it holds arrays of type '{kind}', which are no weights")
        self.dtype = np.dtype(text)

    def build(self, state: Any, budget: Budget) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise CheckpointError("it describes a type of numbers in a way that weights never need")
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")
        elif state[1] not in ("<", "|", "="):
            raise CheckpointError("it describes numbers whose order of bytes is unknown")


class Array(Record):
    """An array that is described after it is made."""

    def __init__(self, *_: Any) -> None:  # the shape asked for here says nothing
        self.array: Optional[np.ndarray] = None

    def build(self, state: Any, budget: Budget) -> None:
        if not isinstance(state, tuple) or len(state) < 4:
            raise CheckpointError("it describes an array in a way that weights never need")
        shape, kind, fortran, data = state[-4:]
        if isinstance(data, str):
            data = data.encode("latin1")
            budget.take(len(data))
        self.array = _numbers(data, kind, shape, bool(fortran))


def _numbers(data: Any, kind: Any, shape: Any, fortran: bool) -> np.ndarray:
    if not isinstance(kind, Type) or not isinstance(data, (bytes, bytearray)):
        raise CheckpointError("it holds an array of objects, which are no weights")
    if count(shape) * kind.dtype.itemsize != len(data):
        raise CheckpointError("an array's shape and its data have different sizes")
    return np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")


def count(shape: Any) -> int:
    """How many numbers a shape holds; anything but a short tuple of plain lengths is an error."""
    fine = isinstance(shape, tuple) and len(shape) <= MAX_DIMENSIONS
    if not fine or not all(type(n) is int and 0 <= n <= MAX_COUNT for n in shape):
        raise CheckpointError("an array has an impossible shape")
    total = 1
    for n in shape:
        total *= n
    return total


def _frombuffer(data: Any, kind: Any, shape: Any, order: Any) -> Array:
    made = Array()
    made.array = _numbers(data, kind, shape, order == "F")
    return made


def _scalar(kind: Any, data: Any) -> Any:
    data = data.encode("latin1") if isinstance(data, str) else data
    return _numbers(data, kind, (), False)[()]


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise CheckpointError(f"it uses the text encoding '{brief(encoding)}'")
    return text.encode(encoding)


def _ordered(pairs: Any = ()) -> dict:
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise CheckpointError("it makes a mapping of something that is no pairs")
    return insert({}, [item for pair in pairs for item in pair])


def as_tuple(values: Any = ()) -> tuple:
    """A tuple of a list's values."""
    if not isinstance(values, (list, tuple)):
        raise CheckpointError(f"it makes a tuple of a {type(values).__name__}")
    return tuple(values)


def _no_bytes() -> bytes:
    """How old protocols say that an array has no data."""
    return b""


_BUILTINS = ("builtins", "__builtin__")
PLAIN: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Array,  # only an argument of _reconstruct
    ("numpy", "dtype"): Callee(Type),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Callee(Array) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): Callee(_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): Callee(_frombuffer) for core in ("core", "_core")},
    ("collections", "OrderedDict"): Callee(_ordered),
    ("_codecs", "encode"): Callee(_encode),
    **{(module, "tuple"): Callee(as_tuple) for module in _BUILTINS},  # Paddle stores a tensor as (name, array)
    **{(module, "bytes"): Callee(_no_bytes) for module in _BUILTINS},
}

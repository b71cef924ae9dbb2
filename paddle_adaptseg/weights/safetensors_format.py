"""The safetensors format: 8 bytes with the length of a header, the header in JSON, and the numbers of all tensors.

The header says of each tensor its type, its shape and which bytes are its own; all of it is checked before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.weights.limits import Budget, Metered, brief
from paddle_adaptseg.weights.numpy_format import count

MAX_HEADER = 16 * 2**20  # about 150 bytes a tensor
_TYPES: Mapping[str, str] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U8": "<u1", "BOOL": "?",
}  # fmt: skip


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a header and the header's brace; its first byte is no pickle's then."""
    return head[8:9] == b"{" and head[7:8] == b"\0" and int.from_bytes(head[:8], "little") >= 2


def read_safetensors(file: BinaryIO, budget: Budget, size: int) -> dict[str, np.ndarray]:
    """Named arrays; bfloat16 becomes float32."""
    metered = Metered(file, size)
    length = int.from_bytes(metered.read(8), "little")
    if length > MAX_HEADER:
        raise CheckpointError(f"its header claims {length} bytes, more than any network needs")
    header = _header(metered.read(length), budget)
    budget.take(metered.allowed)
    data = metered.read()
    return {name: _tensor(name, entry, data, budget) for name, entry in header.items() if name != "__metadata__"}


def _header(text: bytes, budget: Budget) -> dict[str, Any]:
    budget.take(8 * len(text))
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_twins)
    except (ValueError, RecursionError):
        raise CheckpointError("its header is no JSON") from None
    if not isinstance(header, dict):
        raise CheckpointError("its header is no mapping")
    return header


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CheckpointError("its header names something twice")
    return found


def _tensor(name: str, entry: Any, data: bytes, budget: Budget) -> np.ndarray:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"its header describes '{brief(name)}' in an unknown way")
    kind, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise CheckpointError(f"'{brief(name)}' has numbers of an unknown type ({brief(kind)})")
    numbers = count(tuple(shape) if isinstance(shape, list) else None)
    dtype = np.dtype(_TYPES[kind])
    if not isinstance(place, list) or len(place) != 2 or not all(type(n) is int for n in place):
        raise CheckpointError(f"its header does not say where '{brief(name)}' is")
    start, end = place
    if not 0 <= start <= end <= len(data) or end - start != numbers * dtype.itemsize:
        raise CheckpointError(f"the numbers of '{brief(name)}' are not where its header says")
    budget.step(40)
    array = np.frombuffer(data, dtype, numbers, start)
    if kind == "BF16":
        budget.take(4 * numbers)
        wide = array.astype(np.uint32)
        array = np.left_shift(wide, 16, out=wide).view(np.float32)
    return array.reshape(shape)

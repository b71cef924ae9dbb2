"""Any weights file to named arrays: the format is told by its bytes, never by its ending."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddle_adaptseg.errors import CheckpointError, shorten
from paddle_adaptseg.weights.torch_format import TensorView, is_torch_legacy, is_torch_zip, read_legacy, read_zip
from paddle_adaptseg.weights.unpickle import load_one

RECORD = "@paddle_adaptseg"  # the key of the configuration text in our own files
ORIGIN = "@origin"  # the key of a JSON text that says where the tensors came from
_PADDLE_NAMES = "StructuredToParameterName@@"
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
PREFIXES = ("module.", "model.")
MAX_FILE = 8 * 2**30


class Weights(NamedTuple):
    """What a weights file holds."""

    arrays: dict[str, np.ndarray]
    config: str = ""  # our configuration as text
    origin: Mapping[str, Any] = {}  # where the tensors came from, in our own files


def read_weights(path: Path) -> Weights:
    """Arrays, and what our own files say beside them. Nothing in a file can be run."""
    try:
        return _named_arrays(_content(path))
    except OSError as error:
        raise CheckpointError(f"cannot read weights '{path}': {error.strerror or error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"'{path}' is not plain weights: {error}") from None
    except Exception as error:  # a hostile or broken file can raise anything at all
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"'{path}' is not a readable weights file ({reason})") from None


def _content(path: Path) -> Any:
    if path.stat().st_size > MAX_FILE:
        raise CheckpointError(f"it is larger than {MAX_FILE // 2**30} GB")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise CheckpointError("it is empty")
    if is_torch_legacy(head):
        return read_legacy(path)
    if is_torch_zip(path):
        return read_zip(path)
    return load_one(io.BytesIO(path.read_bytes()))


def _named_arrays(content: Any) -> Weights:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"it holds a {type(content).__name__}, not named weights")
    text, origin = content.get(RECORD, ""), content.get(ORIGIN, "{}")
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    arrays, odd = {}, []
    for name, value in content.items():
        if name in (RECORD, ORIGIN, _PADDLE_NAMES):
            continue
        array = _array(value)
        if array is None or not isinstance(name, str):
            odd.append(str(name))
        else:
            arrays[name] = array
    if odd or not arrays or not isinstance(text, str) or not isinstance(origin, str):
        raise CheckpointError(f"it holds more than named arrays (not an array: {shorten(odd) or 'all'})")
    return Weights(_unprefixed(arrays), text, json.loads(origin))


def _array(value: Any) -> np.ndarray | None:
    if isinstance(value, TensorView):
        return value.array()
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]  # Paddle's (name, array)
    return value if isinstance(value, np.ndarray) and not value.dtype.hasobject else None


def _unprefixed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without a prefix that all names share, as wrappers for several GPUs leave it."""
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name[len(prefix) :]: array for name, array in arrays.items()}
    return arrays

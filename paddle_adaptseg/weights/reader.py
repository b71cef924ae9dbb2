"""Any weights file to named arrays: the format is recognised by its bytes, never by its ending.

A format is a row of FORMATS: how its first bytes look, and a function that returns a mapping of names to arrays (or
what stands for them), which may lie inside another mapping. Everything after that is the same for all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional

import numpy as np

from paddle_adaptseg.core.errors import CheckpointError, shorten
from paddle_adaptseg.weights import ORIGIN, RECORD
from paddle_adaptseg.weights.limits import Budget, Metered, brief, regular_size
from paddle_adaptseg.weights.numpy_format import PLAIN, Array
from paddle_adaptseg.weights.safetensors_format import is_safetensors, read_safetensors
from paddle_adaptseg.weights.torch_format import TensorView, is_legacy, is_zip, read_legacy, read_zip
from paddle_adaptseg.weights.unpickle import load_one

_PADDLE_NAMES = "StructuredToParameterName@@"
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
PREFIXES = ("module.", "model.", "network.")
# Parts of a checkpoint of self-training, and how their names begin in those of DAFormer, HRDA, MIC and VFM-UDA.
PARTS: Mapping[str, tuple[str, ...]] = {
    "student": ("model.", "network."),
    "teacher": ("ema_model.", "network_ema."),
    "imagenet": ("imnet_model.",),
}
MAX_TENSORS = 20_000
MAX_RECORD = 2**20


class Weights(NamedTuple):
    """What a weights file holds."""

    arrays: dict[str, np.ndarray]
    config: str = ""  # our configuration as text
    origin: Mapping[str, Any] = {}  # where the tensors came from, in our own files


def split_part(path: Path) -> tuple[Path, str]:
    """FILE@teacher as the file and the part; without a part, the path and "student"."""
    name, _, part = path.name.rpartition("@")
    return (path.with_name(name), part) if name and part in PARTS and not path.exists() else (path, "student")


def read_weights(origin: Path) -> Weights:
    """Arrays, and what our own files say beside them. Nothing in a file can be run; arrays are read-only views.

    Of a checkpoint of self-training FILE@teacher and FILE@imagenet name other parts than the student.
    """
    path, part = split_part(origin)
    try:
        size = regular_size(path)
        budget = Budget(size)
        with path.open("rb") as file:
            return _named_arrays(_content(file, budget, size), budget, part)
    except OSError as error:
        raise CheckpointError(f"cannot read weights '{path}': {error.strerror or error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"'{path}' is not plain weights: {error}") from None
    except Exception as error:  # a hostile or broken file can raise anything at all
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(f"'{path}' is not a readable weights file ({reason})") from None


def _read_pickle(file: BinaryIO, budget: Budget, size: int) -> Any:
    return load_one(Metered(file, size), PLAIN, budget)


FORMATS = (
    (is_legacy, read_legacy),
    (is_zip, read_zip),
    (is_safetensors, read_safetensors),
    (lambda head: True, _read_pickle),
)


def _content(file: BinaryIO, budget: Budget, size: int) -> Any:
    head = file.read(HEAD)
    file.seek(0)
    read = next(read for matches, read in FORMATS if matches(head))
    foreign = file_kind(head) if read is _read_pickle else None
    if foreign:
        raise CheckpointError(f"it is {foreign}")
    return read(file, budget, size)


def _named_arrays(content: Any, budget: Budget, part: str) -> Weights:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"it holds a {type(content).__name__}, not named weights")
    text, origin = content.get(RECORD, ""), content.get(ORIGIN, "{}")
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if len(content) > MAX_TENSORS:
        raise CheckpointError(f"it holds {len(content)} names, more than any network has tensors")
    arrays, odd = {}, []
    for name, value in content.items():
        if name in (RECORD, ORIGIN, _PADDLE_NAMES):
            continue
        array = _array(value)
        if array is None or not isinstance(name, str):
            odd.append(brief(name))
        else:
            budget.give(array.nbytes)
            arrays[name] = array
    if odd or not arrays:
        raise CheckpointError(f"it holds more than named arrays (not an array: {shorten(odd) or 'all'})")
    return Weights(_unprefixed(_chosen(arrays, part)), *_record(text, origin))


def _record(text: Any, origin: Any) -> tuple[str, Mapping[str, Any]]:
    if not all(isinstance(part, str) and len(part) < MAX_RECORD for part in (text, origin)):
        raise CheckpointError("its configuration or origin is no text of a reasonable length")
    try:
        known = json.loads(origin)
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict):
        raise CheckpointError("its origin is no mapping")
    return text, known


def _array(value: Any) -> np.ndarray | None:
    if isinstance(value, TensorView):
        return value.array()
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]  # Paddle's (name, array)
    return value.array if isinstance(value, Array) else None


def _chosen(arrays: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """The tensors of one part of a checkpoint of self-training; all of any other file."""
    found = [key for key, prefixes in PARTS.items() if any(name.startswith(prefixes) for name in arrays)]
    if found in ([], ["student"]) and part == "student":
        return arrays
    if part not in found:
        raise CheckpointError(f"it has no part '{part}', only {shorten(found) or 'one network'} (name one: FILE@PART)")
    names = [(name, prefix) for name in arrays for prefix in PARTS[part] if name.startswith(prefix)]
    return {name[len(prefix) :]: arrays[name] for name, prefix in names}


def _unprefixed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without a prefix that all names share, as wrappers for several GPUs leave it."""
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name[len(prefix) :]: array for name, array in arrays.items()}
    return arrays


_ARCHIVE = "which must be unpacked first"
_SIGNATURES = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: run 'git lfs pull' where it came from"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", f"a gzip archive, {_ARCHIVE}"),
    (b"BZh", f"a bzip2 archive, {_ARCHIVE}"),
    (b"\xfd7zXZ\0", f"an xz archive, {_ARCHIVE}"),
    (b"\x28\xb5\x2f\xfd", f"a Zstandard archive, {_ARCHIVE}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7-Zip archive, {_ARCHIVE}"),
    (b"Rar!", f"a RAR archive, {_ARCHIVE}"),
    (b"\x89HDF", "an HDF5 file (Keras or Caffe), which is not read here"),
    (b"\x93NUMPY", "a single NumPy array, which has no names"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x7fELF", "a program"),
)
_PICKLE = b"\x80(}]c"  # a protocol number, or what the oldest pickles of a mapping start with
HEAD = 512


def file_kind(head: bytes) -> Optional[str]:
    """A description of a file that cannot be weights; None when it may be a pickle."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        return "a web page (HTML): the download brought a page, such as a login or an error, and not the file"
    if head[257:262] == b"ustar":
        return f"a tar archive, {_ARCHIVE}"
    known = next((what for signature, what in _SIGNATURES if head.startswith(signature)), None)
    if known or head[:1] in [bytes([code]) for code in _PICKLE]:
        return known
    if start and all(code >= 32 or code in b"\t\r\n" for code in start):
        return f"a text file that begins with {start[:40].decode('utf-8', 'replace')!r}"
    return f"of no known format (it begins with the bytes {head[:8].hex(' ')})"

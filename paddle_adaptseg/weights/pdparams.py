"""Deployable weights: one `.pdparams` file of plain arrays with the configuration inside.

`paddle.load` reads these files, but we do not use it: unpickling runs whatever a file says. The reader here builds
arrays, containers, text and numbers, and refuses everything else.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from paddle_adaptseg.errors import CheckpointError, shorten
from paddle_adaptseg.files import write_atomically

RECORD = "@paddle_adaptseg"  # the key of the configuration text
_PADDLE_NAMES = "StructuredToParameterName@@"


def save_weights(path: Path, arrays: Mapping[str, np.ndarray], config_text: str) -> None:
    """Write weights and configuration in one atomic step."""
    payload = pickle.dumps({**arrays, RECORD: config_text}, protocol=4)
    write_atomically(path, lambda handle: handle.write(payload))


def read_weights(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Arrays by name and the configuration text ('' when the file has none)."""
    try:
        content = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise CheckpointError(f"cannot read weights '{path}': {error.strerror}") from None
    except CheckpointError as error:
        raise CheckpointError(f"'{path}' is not plain weights: {error}") from None
    except Exception as error:  # a hostile or broken pickle can raise anything at all
        raise CheckpointError(f"'{path}' is not a readable .pdparams file ({type(error).__name__}: {error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' holds a {type(content).__name__}, not named weights")
    text = content.pop(RECORD, "")
    content.pop(_PADDLE_NAMES, None)
    odd = [str(k) for k, v in content.items() if not isinstance(v, np.ndarray) or v.dtype.hasobject]
    if odd or not content or not isinstance(text, str):
        raise CheckpointError(f"'{path}' is not a file of named weight arrays (not an array: {shorten(odd) or 'all'})")
    return content, text


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles arrays, containers, text and numbers only."""

    ALLOWED = {
        (module, name)
        for name in ("_reconstruct", "scalar", "_frombuffer")
        for module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
    } | {("numpy", "ndarray"), ("numpy", "dtype"), ("collections", "OrderedDict"), ("_codecs", "encode")}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.ALLOWED:
            raise CheckpointError(f"it wants to run '{module}.{name}', which weights never need")
        return super().find_class(module.replace("numpy._core", _NUMPY_CORE).replace("numpy.core", _NUMPY_CORE), name)


_NUMPY_CORE = "numpy._core" if int(np.__version__.split(".")[0]) >= 2 else "numpy.core"

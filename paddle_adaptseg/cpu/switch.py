"""Whether oneDNN computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import paddle
from paddle import Tensor

from paddle_adaptseg.cpu.onednn import library

_OFF: list[bool] = []  # not empty: inside without_onednn()


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    """Inside, every operation is Paddle's own: for mixed precision, whose casts it must see, and for comparisons."""
    _OFF.append(True)
    try:
        yield
    finally:
        _OFF.pop()


@paddle.jit.not_to_static
def on_cpu(*tensors: Tensor) -> bool:
    """Whether oneDNN can take these tensors now: float32 on the CPU, and no program is being traced."""
    if _OFF or not paddle.in_dynamic_mode() or library() is None:
        return False
    return all(x.place.is_cpu_place() and x.dtype == paddle.float32 for x in tensors)

"""Whether oneDNN computes now, and these tensors."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import paddle
from paddle import Tensor

from paddle_adaptseg.cpu.library import library

LOCK = threading.RLock()
SESSIONS: list[object] = []  # those inside accelerate()
_PAUSED = threading.local()


@paddle.jit.not_to_static
def on_cpu(x: Tensor, *others: Tensor) -> bool:
    """Whether oneDNN can take a map and these parameters: float32 on the CPU, and no program is being traced."""
    return x.ndim == 4 and takes_over(x, *others)


@paddle.jit.not_to_static
def takes_over(x: Tensor, *others: Tensor) -> bool:
    """The same for a tensor of any shape."""
    if not SESSIONS or not paddle.in_dynamic_mode() or library() is None or getattr(_PAUSED, "now", False):
        return False
    if x.size == 0 or wants_own_gradient(x):
        return False
    return all(t.place.is_cpu_place() and t.dtype == paddle.float32 for t in (x, *others))


def wants_own_gradient(x: Tensor) -> bool:
    """Whether a map is a leaf that wants a gradient.

    Who asks for it may differentiate it again, for a gradient penalty; a gradient of one's own does not allow that.
    """
    return x.is_leaf and not x.stop_gradient


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Inside, in this thread, everything is Paddle's own."""
    before, _PAUSED.now = getattr(_PAUSED, "now", False), True
    try:
        yield
    finally:
        _PAUSED.now = before

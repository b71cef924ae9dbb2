"""The accelerator's one door: inside accelerate(network), oneDNN computes what it recognises of a network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import paddle
from paddle import nn

from paddle_adaptseg import losses, runtime
from paddle_adaptseg.cpu.arena import arena
from paddle_adaptseg.cpu.layers import FAST, swapped
from paddle_adaptseg.cpu.library import library
from paddle_adaptseg.cpu.pixelwise import PIXELWISE
from paddle_adaptseg.cpu.switch import LOCK, SESSIONS

_PLAIN = {fast: plain for plain, fast in FAST.items()}
_USERS: dict[int, list[Any]] = {}  # by a layer's id: how many sessions it is in, and itself


@contextlib.contextmanager
def accelerate(network: nn.Layer) -> Iterator[None]:
    """Inside, oneDNN computes the network's blocks and the losses of every pixel where Paddle computes on a CPU.

    Nothing happens where run.accelerate or PADDLE_ADAPTSEG_ACCELERATE is off, on a GPU, or without oneDNN. Sessions may
    be nested and open in several threads; afterwards the network is the plain one again.
    """
    if not runtime.accelerates() or not paddle.get_device().startswith("cpu") or library() is None:
        yield
        return
    layers = list(swapped(network))
    with LOCK:
        _enter(layers)
    try:
        yield
    finally:
        with LOCK:
            _leave(layers)


def _enter(layers: list[nn.Layer]) -> None:
    if not SESSIONS:
        losses.PIXELWISE.update(PIXELWISE)
    SESSIONS.append(layers)
    for layer in layers:
        _USERS.setdefault(id(layer), [0, layer])[0] += 1
        layer.__class__ = FAST.get(type(layer), type(layer))


def _leave(layers: list[nn.Layer]) -> None:
    SESSIONS.pop()
    for layer in layers:
        users = _USERS[id(layer)]
        users[0] -= 1
        if not users[0]:
            del _USERS[id(layer)]
            layer.__class__ = _PLAIN.get(type(layer), type(layer))
    space = arena()
    if not SESSIONS:
        losses.PIXELWISE.update(losses.PLAIN)
        if space is not None:
            space.release()

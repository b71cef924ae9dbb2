"""Fast classes in the place of plain ones, and back: what accelerate() does where Paddle computes on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from paddle import nn

from paddle_adaptseg.cpu.arena import arena
from paddle_adaptseg.cpu.layers import FAST, swapped
from paddle_adaptseg.cpu.library import library
from paddle_adaptseg.cpu.pixelwise import PIXELWISE
from paddle_adaptseg.cpu.switch import LOCK, SESSIONS
from paddle_adaptseg.methods import losses

_PLAIN = {fast: plain for plain, fast in FAST.items()}
_USERS: dict[int, list[Any]] = {}  # by a layer's id: how many sessions it is in, and itself


@contextlib.contextmanager
def accelerated(network: nn.Layer) -> Iterator[None]:
    """Inside, oneDNN computes what it recognises of the network, and the losses of every pixel.

    Sessions may be nested and open in several threads; afterwards the network is the plain one again.
    """
    if library() is None:
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

"""What oneDNN computes in Paddle's stead on a CPU. accelerate(network) is the only door.

Paddle ships the library and ignores it when it runs eagerly. Networks and losses know nothing of it: accelerate() puts
fast classes in the place of plain ones and takes them away again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import paddle
from paddle import nn

from paddle_adaptseg.core import runtime


@contextlib.contextmanager
def accelerate(network: nn.Layer) -> Iterator[None]:
    """Inside, oneDNN computes the network's blocks and the losses of every pixel where Paddle computes on a CPU.

    Nothing happens where run.accelerate or PADDLE_ADAPTSEG_ACCELERATE is off, on a GPU, or without oneDNN.
    """
    if not runtime.accelerates() or not paddle.get_device().startswith("cpu"):
        yield
        return
    from paddle_adaptseg.cpu.session import accelerated  # nothing of it is needed on a GPU

    with accelerated(network):
        yield

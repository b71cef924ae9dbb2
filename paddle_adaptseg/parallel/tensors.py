"""Tensors that several processes average or take from the first one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Callable

import paddle
import paddle.distributed as dist

from paddle_adaptseg.parallel import meet, waiting, world

BUCKET = 2**23  # numbers that one reduction carries (32 MB): few messages, and the next is packed while one travels


def average(tensors: Sequence) -> Callable[[], None]:
    """Begin to average tensors in place, fused into buckets; call the result to wait until it is done."""
    if world() == 1 or not tensors:
        return lambda: None
    pending = []
    for part in _buckets(tensors):
        flat = paddle.concat([t.detach().reshape([-1]) for t in part]) / world()
        with waiting():
            pending.append((part, flat, dist.all_reduce(flat, sync_op=False)))

    def finish() -> None:
        for part, flat, task in pending:
            with waiting():
                task.wait()
            for tensor, mean in zip(part, flat.split([int(t.size) for t in part])):
                tensor.set_value(mean.reshape(tensor.shape).astype(tensor.dtype))

    return finish


def copy_from_first(tensors: Sequence) -> None:
    """Give all processes the first one's tensors."""
    if world() > 1:
        meet([])
        with waiting():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def _buckets(tensors: Sequence) -> Iterator[list]:
    """Tensors of one type, in order, up to BUCKET numbers together."""
    part: list = []
    for tensor in tensors:
        if part and (sum(int(t.size) for t in part) + int(tensor.size) > BUCKET or tensor.dtype != part[0].dtype):
            yield part
            part = []
        part.append(tensor)
    yield part

"""Softmax over the classes and what is built on it, on a CPU.

Paddle's own transposes maps [N, C, H, W] on one core for it, forty times slower than oneDNN works on them as they lie.
oneDNN's backward passes are slow for such maps; they are put together from sums and products here.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from paddle_adaptseg.cpu.arena import empty
from paddle_adaptseg.cpu.operations import per_pixel, softmax_of
from paddle_adaptseg.cpu.switch import on_cpu

TINY = 1.2e-38  # the least probability that has a logarithm in float32


def softmax(logits: Tensor) -> Tensor:
    """Softmax over axis 1."""
    return _Softmax.apply(logits) if on_cpu(logits) and logits.ndim == 4 else F.softmax(logits, axis=1)


def log_softmax(logits: Tensor) -> Tensor:
    """The logarithm of softmax over axis 1."""
    return _LogSoftmax.apply(logits) if on_cpu(logits) and logits.ndim == 4 else F.log_softmax(logits, axis=1)


def cross_entropy(logits: Tensor, label: Tensor, ignore: int) -> Tensor:
    """Mean over the pixels whose label is not `ignore`; logits [N, C, H, W], label [N, H, W]."""
    if on_cpu(logits):
        return _CrossEntropy.apply(logits, label, ignore)
    total = F.cross_entropy(logits, label.unsqueeze(1), ignore_index=ignore, axis=1, reduction="sum")
    # Paddle 2.6's own mean asks on the host whether anything is ignored, and so waits for the device.
    return total / (label != ignore).sum().astype(total.dtype).clip(min=1.0)


def _p(logits: Tensor) -> Tensor:
    """Softmax; logarithms are taken of it, because oneDNN's own logarithm of softmax is right to five digits only."""
    logits = logits if logits.is_contiguous() else logits.contiguous()
    result = empty(logits.shape)
    softmax_of(tuple(logits.shape))({"src": logits, "dst": result})
    return result


def _with_each_pixel(kind: str, x: Tensor, pixels: Tensor) -> Tensor:
    """x times, or minus, one number [N, 1, H, W] for all classes of a pixel, in the memory of `x`."""
    per_pixel(kind, tuple(x.shape))({"src": x, "other": pixels, "dst": x})
    return x


class _Softmax(PyLayer):
    @staticmethod
    def forward(ctx, logits):
        p = _p(logits)
        ctx.save_for_backward(p.detach())
        return p

    @staticmethod
    def backward(ctx, dp):
        (p,) = ctx.saved_tensor()
        total = (dp * p).sum(axis=1, keepdim=True)
        return _with_each_pixel("minus", dp.clone(), total).multiply_(p)


class _LogSoftmax(PyLayer):
    @staticmethod
    def forward(ctx, logits):
        ctx.save_for_backward(logits)
        return _p(logits).clip_(min=TINY).log_()

    @staticmethod
    def backward(ctx, dy):
        (logits,) = ctx.saved_tensor()
        return dy - _with_each_pixel("times", _p(logits), dy.sum(axis=1, keepdim=True))


class _CrossEntropy(PyLayer):
    @staticmethod
    def forward(ctx, logits, label, ignore):
        known = label != ignore
        label = (label * known.astype(label.dtype)).unsqueeze(1)
        weight = known.astype("float32").unsqueeze(1)
        weight /= weight.sum().clip(min=1.0)
        ctx.save_for_backward(logits, label, weight)
        picked = paddle.take_along_axis(_p(logits), label, axis=1).clip(min=TINY)
        return -(picked.log() * weight).sum()

    @staticmethod
    def backward(ctx, dy):
        logits, label, weight = ctx.saved_tensor()
        gradient = _p(logits).put_along_axis_(label, paddle.full_like(weight, -1.0), axis=1, reduce="add")
        return _with_each_pixel("times", gradient, weight * dy), None

"""Softmax over the classes and what is built on it.

Paddle's broadcasting is slow on a CPU where one number of a pixel meets all of its classes, and its own softmax moves
every map [N, C, H, W] on one core; oneDNN works on them as they lie. Its own logarithm of softmax is right to five
digits only and its gradients are slow, so both are put together here. Logarithms are those of sums of exp(x - max),
exact however far apart logits are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Callable

import paddle
from paddle import Tensor

from paddle_adaptseg.cpu.arena import empty
from paddle_adaptseg.cpu.gradient import Gradients, differentiable
from paddle_adaptseg.cpu.operations import per_pixel, softmax_of
from paddle_adaptseg.cpu.switch import on_cpu
from paddle_adaptseg.methods import losses


def softmax(logits: Tensor) -> Tensor:
    """Softmax over axis 1."""

    def operation(wanted: Sequence[bool], logits: Tensor) -> tuple[Tensor, Gradients]:
        y = _probabilities(logits)
        p = y.detach()

        def gradient(dp: Tensor) -> tuple[Tensor]:
            return (_with_each_pixel("minus", dp, _over_classes(dp * p)).multiply_(p),)

        return y, gradient

    return differentiable(operation, _rows(logits)) if on_cpu(logits) else losses.PLAIN["softmax"](logits)


def log_softmax(logits: Tensor) -> Tensor:
    """The logarithm of softmax over axis 1."""

    def operation(wanted: Sequence[bool], logits: Tensor) -> tuple[Tensor, Gradients]:
        below, total = _below_the_largest(logits)

        def gradient(dy: Tensor) -> tuple[Tensor]:
            return (dy - _with_each_pixel("times", _probabilities(logits), _over_classes(dy)),)

        return _with_each_pixel("minus", below, total), gradient

    return differentiable(operation, _rows(logits)) if on_cpu(logits) else losses.PLAIN["log_softmax"](logits)


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over labelled pixels; logits [N, C, H, W], label [N, H, W] with IGNORE."""

    def operation(wanted: Sequence[bool], logits: Tensor) -> tuple[Tensor, Gradients]:
        known = label != losses.IGNORE
        chosen = (label * known.astype(label.dtype)).unsqueeze(1)
        weight = known.astype("float32").unsqueeze(1)
        weight /= weight.sum().clip(min=1.0)
        below = _largest(logits) - paddle.take_along_axis(logits, chosen, axis=1)
        loss = ((below - _largest(_probabilities(logits)).log()) * weight).sum()  # 1 / p: the sum of exp(x - max)

        def gradient(dy: Tensor) -> tuple[Tensor]:
            found = _probabilities(logits)
            found.put_along_axis_(chosen, paddle.full_like(weight, -1.0), axis=1, reduce="add")
            return (_with_each_pixel("times", found, weight * dy),)

        return loss, gradient

    return differentiable(operation, _rows(logits)) if on_cpu(logits) else losses.PLAIN["cross_entropy"](logits, label)


PIXELWISE: Mapping[str, Callable[..., Tensor]] = {
    "softmax": softmax,
    "log_softmax": log_softmax,
    "cross_entropy": cross_entropy,
}


def _rows(logits: Tensor) -> Tensor:
    return logits if logits.is_contiguous() else logits.contiguous()


def _below_the_largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits less the largest of their pixel, and the logarithm of the sum of their exponentials [N, 1, H, W]."""
    below = _with_each_pixel("minus", logits, _largest(logits))
    return below, _over_classes(below.exp()).log_()


def _largest(x: Tensor) -> Tensor:
    """The maximum over axis 1 [N, 1, H, W], four times as fast as Paddle's."""
    return paddle.to_tensor(x.numpy().max(axis=1, keepdims=True))


def _over_classes(x: Tensor) -> Tensor:
    """Sums over axis 1 [N, 1, H, W]: as a product of matrices ten times as fast as Paddle's sum."""
    count, classes, height, width = x.shape
    ones = paddle.ones([count, 1, classes])
    return paddle.matmul(ones, x.reshape([count, classes, height * width])).reshape([count, 1, height, width])


def _probabilities(logits: Tensor) -> Tensor:
    result = empty(logits.shape)
    softmax_of(tuple(logits.shape))({"src": logits, "dst": result})
    return result


def _with_each_pixel(kind: str, x: Tensor, pixels: Tensor) -> Tensor:
    """x times, or minus, one number [N, 1, H, W] for all classes of a pixel."""
    result = empty(x.shape)
    per_pixel(kind, tuple(x.shape))({"src": x, "other": pixels, "dst": result})
    return result

"""Convolutions by oneDNN, alone, with the activation after them, or summed, with gradients of their own.

Paddle's own CPU convolution copies patches into a matrix on one core; oneDNN works on the image with all of them
(docs/performance.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Optional

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.cpu.arena import empty
from paddle_adaptseg.cpu.gradient import Gradients, differentiable
from paddle_adaptseg.cpu.interleaved import convolution
from paddle_adaptseg.cpu.onednn import contiguous, empty_last, lies_last
from paddle_adaptseg.cpu.operations import Geometry, add, output_shape, pair, relu_backward

LARGE = 2**25  # numbers of a batch's maps; larger ones are computed image by image


def geometry_of(conv: nn.Conv2D, shape: Sequence[int]) -> Geometry:
    """Everything that decides which operation a map of this shape needs."""
    numbers = pair(conv._stride), pair(conv._padding), pair(conv._dilation)
    kernel, groups = tuple(conv.weight.shape), conv._groups
    return (tuple(shape), kernel if groups == 1 else (groups, kernel[0] // groups, *kernel[1:]), *numbers)


def convolve(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], geometry: Geometry, slope: Optional[float] = None
) -> Tensor:
    """A convolution, of one group or depthwise. With a ReLU of this slope its result lies channels last."""

    def operation(wanted: Sequence[bool], x: Tensor, weight: Tensor, *bias: Tensor) -> tuple[Tensor, Gradients]:
        shape = output_shape(geometry)
        y = run_forward(x, weight, bias, geometry, empty(shape) if slope is None else empty_last(shape), slope)
        result = y.detach()  # y itself would keep its graph alive through what is kept for it

        def gradient(dy: Tensor) -> tuple[Optional[Tensor], ...]:
            if slope is not None:
                dy = through_relu(result, dy, empty_last(shape), slope)
            dx = gradient_of_map(x, weight, geometry, dy) if wanted[0] else None
            return (dx, *gradients_of_kernel(x, weight, geometry, dy, wanted[1:]))

        return y, gradient

    return differentiable(operation, contiguous(x), contiguous(weight), *([] if bias is None else [contiguous(bias)]))


def summed(x: Tensor, convs: Sequence[nn.Conv2D]) -> Tensor:
    """The sum of several convolutions of one map."""
    geometries = [geometry_of(conv, x.shape) for conv in convs]
    shape = output_shape(geometries[0])

    def operation(wanted: Sequence[bool], x: Tensor, *parameters: Tensor) -> tuple[Tensor, Gradients]:
        pairs = list(zip(parameters[::2], parameters[1::2]))
        total = empty_last(shape)
        for index, ((weight, bias), geometry) in enumerate(zip(pairs, geometries)):
            y = run_forward(x, weight, [bias], geometry, empty_last(shape) if index else total)
            if index:
                add(shape, relu=False)({"src": total, "other": y, "dst": total})

        def gradient(dy: Tensor) -> tuple[Optional[Tensor], ...]:
            found: list[Optional[Tensor]] = []
            dx = None
            for index, ((weight, _), geometry) in enumerate(zip(pairs, geometries)):
                found += gradients_of_kernel(x, weight, geometry, dy, wanted[1 + 2 * index : 3 + 2 * index])
                if wanted[0]:
                    dx = added(gradient_of_map(x, weight, geometry, dy, last=True), dx)
            return (dx, *found)

        return total, gradient

    return differentiable(
        operation, contiguous(x), *(contiguous(p) for conv in convs for p in (conv.weight, conv.bias))
    )


def run_forward(
    x: Tensor, weight: Tensor, bias: Sequence[Tensor], geometry: Geometry, y: Tensor, slope: Optional[float] = None
) -> Tensor:
    """The convolution, written into `y`; `bias` holds one or none.

    Large images go one by one, so that what has to be copied for oneDNN stays small.
    """
    if len(x) > 1 and x.size > LARGE:
        one = ((1, *geometry[0][1:]), *geometry[1:])
        for index in range(len(x)):
            run_forward(x[index : index + 1], weight, bias, one, y[index : index + 1], slope)
        return y
    given = {"src": x, "weights": weight.reshape(geometry[1]), "dst": y, **({"bias": bias[0]} if bias else {})}
    convolution("forward", geometry, bool(bias), slope)(given)
    return y


def joined(channels: int, maps: Iterator[Tensor]) -> Tensor:
    """Maps of one size side by side in rows; each is copied as soon as it is made."""
    y, begin = None, 0
    for x in maps:
        y = empty([len(x), channels, *x.shape[2:]]) if y is None else y
        for index in range(len(x)):
            part = x[index : index + 1].contiguous()
            ctypes.memmove(y[index : index + 1, begin:].data_ptr(), part.data_ptr(), 4 * part.size)
        begin += x.shape[1]
    assert y is not None and begin == channels
    return y


def gradient_of_map(x: Tensor, weight: Tensor, geometry: Geometry, dy: Tensor, last: bool = False) -> Tensor:
    """Gradient of the input, which lies as the input did, or channels `last`."""
    dx = empty_last(x.shape) if last or lies_last(x) else empty(x.shape)
    convolution("backward_data", geometry, False)(
        {"diff_src": dx, "weights": weight.reshape(geometry[1]), "diff_dst": dy}
    )
    return dx


def gradients_of_kernel(
    x: Tensor, weight: Tensor, geometry: Geometry, dy: Tensor, wanted: Sequence[bool]
) -> list[Optional[Tensor]]:
    """Gradients of the weight and, if `wanted` has two, of the bias; None for what is not wanted."""
    if not any(wanted):
        return [None] * len(wanted)
    found = [paddle.empty(geometry[1], dtype="float32")]
    given = {"src": x, "diff_weights": found[0], "diff_dst": dy}
    if len(wanted) > 1:
        found.append(paddle.empty(weight.shape[:1], dtype="float32"))
        given["diff_bias"] = found[1]
    convolution("backward_weights", geometry, len(wanted) > 1)(given)
    found[0] = found[0].reshape(weight.shape)
    return [tensor if want else None for tensor, want in zip(found, wanted)]


def through_relu(y: Tensor, dy: Tensor, result: Tensor, slope: float = 0.0) -> Tensor:
    """The gradient before a ReLU whose result was `y`, written into `result`, which may be `dy`."""
    relu_backward(tuple(y.shape), slope)({"dst": y, "diff_dst": dy, "diff_src": result})
    return result


def added(one: Tensor, other: Optional[Tensor]) -> Tensor:
    """one + other in the memory of `one`."""
    if other is not None:
        add(tuple(one.shape), relu=False)({"src": one, "other": other, "dst": one})
    return one

"""What transformers do to tokens: linear layers, layer norm, MLPs and attention, each with a gradient of its own.

Paddle's CPU gradients of layer norm, GELU and biases take up to twenty times as long as oneDNN's, its depthwise
convolution wants other layouts than the layers around it, and attention keeps a matrix of tokens by tokens for each
head (docs/performance.md). Here tokens stay in rows, and what can be computed again cheaply is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

import paddle
from paddle import Tensor

from paddle_adaptseg.cpu import operations
from paddle_adaptseg.cpu.arena import empty
from paddle_adaptseg.cpu.gradient import Gradients, differentiable
from paddle_adaptseg.cpu.operations import Geometry, convolution

BLOCK = 2**20  # numbers of a matrix of scores that are computed at once, so that they stay in the cache

Found = tuple[Optional[Tensor], ...]


def rows(x: Tensor) -> Tensor:
    """A tensor that lies in rows, without gaps."""
    return x if x.is_contiguous() else x.contiguous()


def flat(x: Tensor) -> Tensor:
    """Tokens [..., channels] as [tokens, channels]."""
    return rows(x).reshape([-1, x.shape[-1]])


def normalised(x: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
    """Layer norm over the last axis."""
    shape = (x.size // x.shape[-1], x.shape[-1])

    def operation(wanted: Sequence[bool], x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Gradients]:
        given = {"src": flat(x), "mean": empty(shape[:1]), "variance": empty(shape[:1]), "scale": scale, "shift": shift}
        y = empty(shape)
        operations.layer_norm(shape, epsilon)({**given, "dst": y})

        def gradient(dy: Tensor) -> Found:
            dx, d_scale, d_shift = empty(shape), paddle.empty_like(scale), paddle.empty_like(shift)
            results = {"diff_src": dx, "diff_scale": d_scale, "diff_shift": d_shift}
            operations.layer_norm_backward(shape, epsilon)({**given, "diff_dst": flat(dy), **results})
            return _chosen(wanted, dx.reshape(x.shape), d_scale, d_shift)

        return y.reshape(x.shape), gradient

    return differentiable(operation, rows(x), scale, shift)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x @ weight + bias over the last axis."""

    def operation(wanted: Sequence[bool], x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Gradients]:
        y = _product(flat(x), weight, bias)

        def gradient(dy: Tensor) -> Found:
            d_weight, d_bias = _of_weights(flat(x), flat(dy), wanted[1:])
            dx = _of_input(flat(dy), weight).reshape(x.shape) if wanted[0] else None
            return dx, d_weight, d_bias

        return y.reshape([*x.shape[:-1], weight.shape[1]]), gradient

    return differentiable(operation, rows(x), weight, bias)


def mlp(x: Tensor, first: Sequence[Tensor], second: Sequence[Tensor], between: Sequence[Tensor] = ()) -> Tensor:
    """Two linear layers (weight, bias) and a GELU between them; `between`: a depthwise convolution before the GELU.

    With a convolution tokens are [N, rows, columns, channels]. The result of the GELU is not kept.
    """

    def operation(wanted: Sequence[bool], x: Tensor, *given: Tensor) -> tuple[Tensor, Gradients]:
        (w1, b1, w2, b2), kernel = given[:4], given[4:]
        hidden = _product(flat(x), w1, b1)
        z = _depthwise(hidden, x.shape, kernel) if kernel else hidden
        y = _product(_gelu(z), w2, b2)

        def gradient(dy: Tensor) -> Found:
            dy = flat(dy)
            of_second = _of_weights(_gelu(z), dy, wanted[3:5])
            dz = _of_input(dy, w2)
            operations.gelu_backward(tuple(z.shape))({"src": z, "diff_dst": dz, "diff_src": dz})
            dh, of_kernel = _depthwise_gradients(hidden, dz, x.shape, kernel) if kernel else (dz, ())
            dx = _of_input(dh, w1).reshape(x.shape) if wanted[0] else None
            of_first = _of_weights(flat(x), dh, wanted[1:3])
            return dx, *of_first, *of_second, *_chosen(wanted[5:], *of_kernel)

        return y.reshape([*x.shape[:-1], w2.shape[1]]), gradient

    return differentiable(operation, rows(x), *first, *second, *between)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(width)) v, all [N, tokens, heads, width]; scores are computed in blocks, and again."""
    scale = q.shape[-1] ** -0.5

    def operation(wanted: Sequence[bool], q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Gradients]:
        found = []
        for one_q, one_k, one_v in _heads(q, k, v):
            parts = [paddle.matmul(_scores(part, one_k, scale), one_v) for part in _blocks(one_q, one_k)]
            found.append(paddle.concat(parts) if len(parts) > 1 else parts[0])

        def gradient(dy: Tensor) -> Found:
            of_heads = [_of_head(scale, *parts) for parts in _heads(q, k, v, dy)]
            return _chosen(wanted, *(_from_heads(parts, x.shape) for parts, x in zip(zip(*of_heads), (q, k, v))))

        return _from_heads(found, [*q.shape[:3], v.shape[3]]), gradient

    return differentiable(operation, q, k, v)


def _of_head(scale: float, q: Tensor, k: Tensor, v: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one head's queries, keys and values."""
    found, dk, dv = [], None, None
    for part, d_part in zip(_blocks(q, k), _blocks(dy, k)):
        p = _scores(part, k, scale)
        more = paddle.matmul(p, d_part, transpose_x=True)
        dv = more if dv is None else dv.add_(more)
        ds = paddle.matmul(d_part, v, transpose_y=True)
        operations.softmax_backward(tuple(p.shape))({"dst": p, "diff_dst": ds, "diff_src": ds})
        found.append(paddle.matmul(ds, k))
        more = paddle.matmul(ds, part, transpose_x=True)
        dk = more if dk is None else dk.add_(more)
    assert dk is not None and dv is not None
    dq = paddle.concat(found) if len(found) > 1 else found[0]
    return dq.scale_(scale), dk.scale_(scale), dv


def _scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Softmax of the scores of some queries [queries, keys]."""
    s = paddle.matmul(q * scale, k, transpose_y=True)
    operations.softmax_of(tuple(s.shape))({"src": s, "dst": s})
    return s


def _heads(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """[N, tokens, heads, width] as [tokens, width] of every head of every image."""
    for image in range(tensors[0].shape[0]):
        for head in range(tensors[0].shape[2]):
            yield [x[image, :, head].contiguous() for x in tensors]


def _from_heads(parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """The reverse."""
    count, tokens, heads, width = shape
    if heads == 1:
        return parts[0].reshape(shape) if count == 1 else paddle.stack(list(parts)).reshape(shape)
    images = [paddle.concat(list(parts[i * heads : (i + 1) * heads]), axis=1) for i in range(count)]
    return (images[0] if count == 1 else paddle.stack(images)).reshape([count, tokens, heads, width])


def _blocks(x: Tensor, k: Tensor) -> list[Tensor]:
    """Rows of x in parts, of which each has so many scores as stay in the cache."""
    size = max(1, BLOCK // k.shape[0])
    return [x[start : start + size] for start in range(0, x.shape[0], size)] if size < x.shape[0] else [x]


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = empty([x.shape[0], weight.shape[1]])
    given = {"src": x, "weights": weight, "bias": bias.reshape([1, -1]), "dst": y}
    operations.product(x.shape[0], *weight.shape)(given)
    return y


def _of_input(dy: Tensor, weight: Tensor) -> Tensor:
    return paddle.matmul(dy, weight, transpose_y=True)


def _of_weights(x: Tensor, dy: Tensor, wanted: Sequence[bool]) -> Found:
    """Gradients of weight and bias; sums of columns are a product, ten times as fast as Paddle's sum."""
    weight = paddle.matmul(x, dy, transpose_x=True) if wanted[0] else None
    bias = paddle.matmul(paddle.ones([1, dy.shape[0]]), dy).reshape([-1]) if wanted[1] else None
    return weight, bias


def _gelu(z: Tensor) -> Tensor:
    y = empty(z.shape)
    operations.gelu(tuple(z.shape))({"src": z, "dst": y})
    return y


def _geometry(shape: Sequence[int], kernel: Tensor) -> Geometry:
    channels, side = kernel.shape[0], kernel.shape[-1]
    padding = (side // 2, side // 2)
    return (shape[0], channels, shape[1], shape[2]), (channels, 1, 1, side, side), (1, 1), padding, (1, 1)


def _map(x: Tensor, geometry: Geometry) -> Tensor:
    """Tokens [tokens, channels] as a map [N, C, H, W] that lies channels last."""
    count, channels, height, width = geometry[0]
    return x.reshape([count, height, width, channels]).transpose([0, 3, 1, 2])


def _depthwise(x: Tensor, shape: Sequence[int], kernel: Sequence[Tensor]) -> Tensor:
    geometry, y = _geometry(shape, kernel[0]), empty(x.shape)
    given = {"src": _map(x, geometry), "weights": kernel[0].reshape(geometry[1]), "bias": kernel[1]}
    convolution("forward", geometry, True)({**given, "dst": _map(y, geometry)})
    return y


def _depthwise_gradients(
    x: Tensor, dy: Tensor, shape: Sequence[int], kernel: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Gradients of the input, and of kernel and bias."""
    geometry, dx = _geometry(shape, kernel[0]), empty(x.shape)
    weight, bias = paddle.empty(list(geometry[1])), paddle.empty_like(kernel[1])
    given = {"diff_dst": _map(dy, geometry)}
    results = {"diff_weights": weight, "diff_bias": bias}
    convolution("backward_weights", geometry, True)({"src": _map(x, geometry), **given, **results})
    weights = {"weights": kernel[0].reshape(geometry[1])}
    convolution("backward_data", geometry, False)({**weights, **given, "diff_src": _map(dx, geometry)})
    return dx, (weight.reshape(kernel[0].shape), bias)


def _chosen(wanted: Sequence[bool], *found: Tensor) -> Found:
    return tuple(tensor if want else None for want, tensor in zip(wanted, found))

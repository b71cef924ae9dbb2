"""The oneDNN operations that networks need: convolution, norms, sums, ReLU, GELU and products, forward and backward.

Each is made once for each geometry and computes on maps whose channels lie last. What goes in may lie otherwise; what
comes out lies as the tensor given for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_float, c_void_p
from functools import lru_cache
from math import prod
from typing import Callable, Optional

from paddle_adaptseg.cpu.library import Refused, dims, free_layout, layout, opened
from paddle_adaptseg.cpu.onednn import _KERNELS, Operation

# Values of the C interface (dnnl_types.h).
_TRAINING, _INFERENCE, _BACKWARD = 64, 96, 128
_DIRECT, _ADD, _RELU, _RELU_OF_RESULT, _MAX = 1, 0x1FFF0, 0x20, 0x100, 0x1FF
_SOFTMAX, _GELU = 0x30000, 0x31
_PER_PIXEL = {"times": 0x1FFF1, "minus": 0x1FFF5}
_GIVEN_STATISTICS, _SCALE_AND_SHIFT, _THEN_RELU = 1, 2 | 4, 8

GENERAL = ("x64:gemm", "gemm", "ref", "simple")  # implementations to avoid: five times slower than others

_ALL = ("src", "dst", "diff_src", "diff_dst", *_KERNELS)  # tensors whose layout may be left to the library

Pair = tuple[int, ...]
Geometry = tuple[Pair, Pair, Pair, Pair, Pair]  # shapes of source and kernel; stride, padding, dilation
Window = tuple[Pair, Pair, int, int, int]  # shapes of source and result; kernel, stride, padding


@lru_cache(maxsize=1024)
def convolution(kind: str, geometry: Geometry, bias: bool, slope: Optional[float] = None) -> Operation:
    """forward: src, weights[, bias] to dst, with a ReLU of this slope. backward_data, backward_weights: without it."""
    lib = opened()
    src, kernel, strides, padding, dilation = geometry
    shift = layout((prod(kernel[:-3]),)) if bias else None
    kernels = free_layout(kernel)
    free, wide = (free_layout(src), free_layout(output_shape(geometry))), collides(geometry)
    maps = free if wide else (layout(src, last=True), layout(output_shape(geometry), last=True))
    chosen: Sequence[str] = _ALL if wide else _KERNELS
    numbers = [dims(values) for values in (strides, [d - 1 for d in dilation], padding, padding)]
    if kind == "forward":
        described = maps[0], kernels, shift, maps[1]
        primitive = lib.make(
            "convolution_forward", lib.engine, _TRAINING, _DIRECT, *described, *numbers, after=_relu(slope)
        )
        return Operation(primitive, ["dst"], chosen=chosen)
    hint = convolution("forward", geometry, bias)
    head, tail = (lib.engine, _DIRECT), (*numbers, hint.primitive.description)
    if kind == "backward_data":
        primitive = lib.make("convolution_backward_data", *head, maps[0], kernels, maps[1], *tail)
        return Operation(primitive, ["diff_src"], hint, chosen)
    primitive = lib.make("convolution_backward_weights", *head, maps[0], kernels, shift, maps[1], *tail)
    skips = kernel[-2:] == (1, 1) and max(strides) > 1
    if not skips and not lib.name(primitive).startswith(GENERAL):
        return Operation(primitive, ["diff_weights", "diff_bias"], hint, chosen)
    # AVX2 has no kernel of its own for channels last. AVX-512's for a strided 1x1 writes past its workspace when there
    # are fewer than 16 channels (oneDNN 3.2 and 3.6), which corrupts the heap.
    primitive = lib.make("convolution_backward_weights", *head, free[0], kernels, shift, free[1], *tail)
    return Operation(primitive, ["diff_weights", "diff_bias"], hint, _ALL)


def collides(geometry: Geometry) -> bool:
    """Whether the pixels under a kernel, channels last, lie 4 KB apart, and so in the same places of the cache.

    Then the layout is left to the library: DAFormer's 3x3 kernel of 1024 channels is a fifth faster, copies included.
    """
    src, kernel, _, _, dilation = geometry
    return len(kernel) == 4 and kernel[2] > 1 and src[1] % 1024 == 0 and max(dilation) == 1


@lru_cache(maxsize=1024)
def takes(geometry: Geometry) -> bool:
    """Whether oneDNN has all three operations of a convolution at this geometry."""
    try:
        return all(convolution(kind, geometry, False) for kind in ("forward", "backward_data", "backward_weights"))
    except Refused:
        return False


def output_shape(geometry: Geometry) -> tuple[int, ...]:
    """Shape of a convolution's result; a kernel of several groups has their number first."""
    src, kernel, strides, padding, dilation = geometry
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(src[2:], kernel[-2:], strides, padding, dilation)
    ]
    return (src[0], prod(kernel[:-3]), *size)


@lru_cache(maxsize=1024)
def norm(shape: tuple[int, ...], epsilon: float, relu: bool) -> Operation:
    """src, mean, variance, scale and shift to dst, ReLU included on demand."""
    flags = _SCALE_AND_SHIFT | _GIVEN_STATISTICS | relu * _THEN_RELU
    return _norm(shape, epsilon, _INFERENCE, flags)


@lru_cache(maxsize=1024)
def moments(shape: tuple[int, ...]) -> Operation:
    """src to mean and variance of every channel; dst is overwritten. Few thousand values are summed exactly enough."""
    return _norm(shape, 0.0, _TRAINING, 0)


def _norm(shape: tuple[int, ...], epsilon: float, kind: int, flags: int) -> Operation:
    lib, maps = opened(), layout(shape, last=True)
    primitive = lib.make("batch_normalization_forward", lib.engine, kind, maps, maps, c_float(epsilon), flags)
    return Operation(primitive, ["dst"])


@lru_cache(maxsize=1024)
def norm_backward(shape: tuple[int, ...], epsilon: float, given: bool) -> Operation:
    """diff_dst, src, mean, variance, scale to diff_src (which may be diff_dst), diff_scale and diff_shift."""
    lib, maps = opened(), layout(shape, last=True)
    flags = _SCALE_AND_SHIFT | given * _GIVEN_STATISTICS
    hint = _norm(shape, epsilon, _TRAINING, flags)
    numbers = c_float(epsilon), flags, hint.primitive.description
    primitive = lib.make("batch_normalization_backward", lib.engine, _BACKWARD, maps, maps, maps, *numbers)
    return Operation(primitive, ["diff_src"], hint)


@lru_cache(maxsize=256)
def add(shape: tuple[int, ...], relu: bool) -> Operation:
    """src + other to dst, which may be one of them; ReLU included on demand."""
    lib, maps = opened(), layout(shape, last=True)
    primitive = lib.make("binary", lib.engine, _ADD, maps, maps, maps, after=_relu(0.0 if relu else None))
    return Operation(primitive, ["dst"])


@lru_cache(maxsize=256)
def relu_backward(shape: tuple[int, ...], slope: float = 0.0) -> Operation:
    """diff_dst, times the slope where dst (the ReLU's result) is not positive, to diff_src, which may be diff_dst."""
    lib, maps = opened(), layout(shape, last=True)
    numbers = c_float(slope), c_float(0)
    forward = lib.make("eltwise_forward", lib.engine, _TRAINING, _RELU_OF_RESULT, maps, maps, *numbers)
    hint = Operation(forward, ["dst"])
    primitive = lib.make(
        "eltwise_backward", lib.engine, _RELU_OF_RESULT, maps, maps, maps, *numbers, forward.description
    )
    return Operation(primitive, ["diff_src"], hint)


def _relu(slope: Optional[float]) -> Optional[Callable[[c_void_p], None]]:
    """A function that adds a (leaky) ReLU to the attributes of an operation."""

    def append(attributes: c_void_p) -> None:
        lib, steps = opened(), c_void_p()
        lib.call("post_ops_create", byref(steps))
        lib.call("post_ops_append_eltwise", steps, _RELU, c_float(slope or 0.0), c_float(0))
        lib.call("primitive_attr_set_post_ops", attributes, steps)
        lib.dll.dnnl_post_ops_destroy(steps)

    return None if slope is None else append


@lru_cache(maxsize=256)
def max_pool(window: Window) -> Operation:
    """src to dst and, in workspace, which value each was."""
    lib, maps = opened(), (layout(window[0], last=True), layout(window[1], last=True))
    primitive = lib.make("pooling_forward", lib.engine, _TRAINING, _MAX, *maps, *_window(window))
    return Operation(primitive, ["dst"])


@lru_cache(maxsize=256)
def max_pool_backward(window: Window) -> Operation:
    """diff_dst and workspace to diff_src."""
    lib, hint = opened(), max_pool(window)
    maps = layout(window[0], last=True), layout(window[1], last=True)
    primitive = lib.make("pooling_backward", lib.engine, _MAX, *maps, *_window(window), hint.primitive.description)
    return Operation(primitive, ["diff_src"], hint)


@lru_cache(maxsize=256)
def softmax_of(shape: tuple[int, ...]) -> Operation:
    """Softmax over axis 1 of src to dst, both in rows."""
    lib, maps = opened(), layout(shape)
    return Operation(lib.make("softmax_forward", lib.engine, _TRAINING, _SOFTMAX, maps, maps, 1), ["dst"], last=False)


@lru_cache(maxsize=256)
def per_pixel(kind: str, shape: tuple[int, ...]) -> Operation:
    """src times or minus other, which has one channel, to dst, all in rows; dst may be src."""
    lib, maps, pixels = opened(), layout(shape), layout((shape[0], 1, *shape[2:]))
    return Operation(lib.make("binary", lib.engine, _PER_PIXEL[kind], maps, pixels, maps), ["dst"], last=False)


@lru_cache(maxsize=256)
def softmax_backward(shape: tuple[int, ...]) -> Operation:
    """diff_dst and dst, softmax's result over axis 1, to diff_src, which may be diff_dst; all in rows."""
    lib, hint, rows = opened(), softmax_of(shape), layout(shape)
    numbers = _SOFTMAX, rows, rows, rows, 1, hint.primitive.description
    return Operation(lib.make("softmax_backward", lib.engine, *numbers), ["diff_src"], hint, last=False)


@lru_cache(maxsize=256)
def layer_norm(shape: Pair, epsilon: float) -> Operation:
    """src [tokens, channels], scale and shift to dst; mean and variance of every token."""
    lib, rows = opened(), layout(shape)
    numbers = _TRAINING, rows, rows, layout(shape[:1]), c_float(epsilon), _SCALE_AND_SHIFT
    return Operation(lib.make("layer_normalization_forward", lib.engine, *numbers), ["dst"])


@lru_cache(maxsize=256)
def layer_norm_backward(shape: Pair, epsilon: float) -> Operation:
    """diff_dst, src, mean, variance, scale and shift to diff_src (which may be diff_dst), diff_scale, diff_shift."""
    lib, hint, rows = opened(), layer_norm(shape, epsilon), layout(shape)
    numbers = _BACKWARD, rows, rows, rows, layout(shape[:1]), c_float(epsilon), _SCALE_AND_SHIFT
    primitive = lib.make("layer_normalization_backward", lib.engine, *numbers, hint.primitive.description)
    return Operation(primitive, ["diff_src"], hint)


@lru_cache(maxsize=256)
def gelu(shape: Pair) -> Operation:
    """src to dst, which may be src; in rows."""
    lib, rows = opened(), layout(shape)
    numbers = _TRAINING, _GELU, rows, rows, c_float(0), c_float(0)
    return Operation(lib.make("eltwise_forward", lib.engine, *numbers), ["dst"])


@lru_cache(maxsize=256)
def gelu_backward(shape: Pair) -> Operation:
    """diff_dst and src, GELU's input, to diff_src, which may be diff_dst; in rows."""
    lib, hint, rows = opened(), gelu(shape), layout(shape)
    numbers = _GELU, rows, rows, rows, c_float(0), c_float(0), hint.primitive.description
    return Operation(lib.make("eltwise_backward", lib.engine, *numbers), ["diff_src"], hint)


@lru_cache(maxsize=256)
def product(tokens: int, fan_in: int, fan_out: int) -> Operation:
    """src [tokens, inputs] times weights [inputs, outputs] plus bias [1, outputs] to dst."""
    lib = opened()
    parts = (tokens, fan_in), (fan_in, fan_out), (1, fan_out), (tokens, fan_out)
    return Operation(lib.make("matmul", lib.engine, *map(layout, parts)), ["dst"], chosen=())


def _window(window: Window) -> list:
    src, dst, kernel, stride, padding = window
    after = [max(0, (m - 1) * stride + kernel - n - padding) for n, m in zip(src[2:], dst[2:])]
    if any(extra >= kernel for extra in after):
        raise Refused("a window without pixels")
    both = [dims(pair(value)) for value in (stride, kernel, 0, padding)]
    return [*both, dims(after)]


def pair(value: int | Sequence[int]) -> Pair:
    """One number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else tuple(value)

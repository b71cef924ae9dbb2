"""Convolutions of each channel by itself (depthwise), dilated ones included.

oneDNN is fast where the pixels under a kernel are neighbours. Every d-th row and column of a map are a map on which
a kernel of dilation d has no gaps, so a dilated convolution is a plain one of d * d such parts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_void_p
from functools import lru_cache
from math import prod
from typing import Callable, NamedTuple, Optional

from paddle import Tensor

from paddle_adaptseg.cpu import operations
from paddle_adaptseg.cpu.library import FROM, TO, Primitive, Refused, layout, opened, strided
from paddle_adaptseg.cpu.onednn import empty_last, lies_last
from paddle_adaptseg.cpu.operations import Geometry

KINDS = ("forward", "backward_data", "backward_weights")
LEAST = 2**18  # numbers of a map; with fewer Paddle's own is as fast

Run = Callable[[Mapping[str, Tensor]], None]


def convolution(kind: str, geometry: Geometry, bias: bool, slope: Optional[float] = None) -> Run:
    """As operations.convolution, for kernels with gaps too."""
    if not has_gaps(geometry):
        return operations.convolution(kind, geometry, bias, slope)
    return Interleaved(kind, geometry, bias, slope)


def has_gaps(geometry: Geometry) -> bool:
    """Whether it is a dilated depthwise convolution."""
    return len(geometry[1]) == 5 and max(geometry[4]) > 1


@lru_cache(maxsize=1024)
def takes(geometry: Geometry) -> bool:
    """Whether oneDNN has all three operations of a convolution at this geometry; depthwise ones must be fast."""
    src, kernel, strides, padding, dilation = geometry
    if len(kernel) == 4:
        return operations.takes(geometry)
    if max(dilation) > 1:
        same = all(p == d * (k // 2) and k % 2 for p, d, k in zip(padding, dilation, kernel[-2:]))
        if strides != (1, 1) or not same:
            return False
        geometry = parts_of(geometry)
    if prod(src) < LEAST:
        return False
    try:
        found = [operations.convolution(kind, geometry, False) for kind in KINDS]
    except Refused:
        return False
    return not any(opened().name(operation.primitive).startswith(operations.GENERAL) for operation in found)


def parts_of(geometry: Geometry) -> Geometry:
    """The convolution of the parts of one image, as one batch. The smaller parts have zeros at their end."""
    src, kernel, _, _, dilation = geometry
    counts = [min(d, n) for d, n in zip(dilation, src[2:])]
    size = [-(-n // d) for d, n in zip(dilation, src[2:])]
    near = (kernel[-2] // 2, kernel[-1] // 2)
    return (prod(counts), src[1], *size), kernel, (1, 1), near, (1, 1)


class Copy(NamedTuple):
    """A copy between some lines of an image and its parts: how these lie in both, and where they begin there."""

    primitive: Primitive
    image: c_void_p
    parts: c_void_p
    begin: tuple[int, int] = (0, 0)  # bytes


class Interleaved:
    """A dilated depthwise convolution; takes tensors by name, as an Operation does."""

    def __init__(self, kind: str, geometry: Geometry, bias: bool, slope: Optional[float]) -> None:
        self.geometry, self.parts = geometry, parts_of(geometry)
        self.inner = operations.convolution(kind, self.parts, bias, slope)
        self.result = {"forward": "dst", "backward_data": "diff_src", "backward_weights": ""}[kind]

    def __call__(self, tensors: Mapping[str, Tensor]) -> None:
        maps = [name for name in tensors if name in ("src", "dst", "diff_src", "diff_dst")]
        sums = {name: tensors[name] for name in ("diff_weights", "diff_bias") if name in tensors}
        for index in range(self.geometry[0][0]):
            given = dict(tensors)
            if index:
                given.update({name: total.clone() for name, total in sums.items()})
            for name in maps:
                given[name] = empty_last(self.parts[0])
                if name != self.result:
                    self.split(tensors[name], index, given[name])
            self.inner(given)
            if self.result:
                self.join(given[self.result], tensors[self.result], index)
            for name, total in sums.items() if index else ():
                total.add_(given[name])

    def split(self, x: Tensor, index: int, parts: Tensor) -> None:
        """Copy an image to its parts."""
        dilation = self.geometry[4]
        if any(n % d for n, d in zip(x.shape[2:], dilation)):
            ctypes.memset(parts.data_ptr(), 0, 4 * parts.size)
        _run(_copies(tuple(x.shape[1:]), dilation, lies_last(x), True), x, index, parts, True)

    def join(self, parts: Tensor, x: Tensor, index: int) -> None:
        """Copy parts to their image; to one in rows by way of one with channels last, which is faster."""
        last, shape = lies_last(x), tuple(x.shape[1:])
        whole = x if last else empty_last([1, *shape])
        _run(_copies(shape, self.geometry[4], True, False), whole, index if last else 0, parts, False)
        if not last:
            _run([_to_rows((1, *shape))], x, index, whole, False)


def _run(copies: Sequence[Copy], image: Tensor, index: int, parts: Tensor, to_parts: bool) -> None:
    """Copy the image of this index to the parts, or the parts to it."""
    lib = opened()
    addresses = image.data_ptr() + 4 * index * prod(image.shape[1:]), parts.data_ptr()
    names = (FROM, TO) if to_parts else (TO, FROM)
    for copy in copies:
        places = (a + begin for a, begin in zip(addresses, copy.begin))
        memories = [lib.memory_at(*both) for both in zip((copy.image, copy.parts), places)]
        lib.run(copy.primitive, dict(zip(names, memories)))
        for memory in memories:
            lib.dll.dnnl_memory_destroy(memory)


@lru_cache(maxsize=256)
def _copies(shape: tuple[int, ...], dilation: tuple[int, ...], last: bool, to_parts: bool) -> list[Copy]:
    """The copies between an image [C, H, W], channels last or in rows, and its parts."""
    channels, height, width = shape
    down, across, between = (width * channels, channels, 1) if last else (width, 1, height * width)
    (high, wide), count = (-(-n // d) for n, d in zip(shape[1:], dilation)), min(width, dilation[1])
    part = high * wide * channels
    found = []
    for top, vertical, h in _spans(height, dilation[0]):
        for left, horizontal, w in _spans(width, dilation[1]):
            dims = (vertical, horizontal, channels, h, w)
            steps = (vertical if h == 1 else dilation[0]), (horizontal if w == 1 else dilation[1])
            image = strided(dims, (down, across, between, steps[0] * down, steps[1] * across))
            parts = strided(dims, (count * part, part, 1, wide * channels, channels))
            line, column = top // dilation[0], left // dilation[1]
            begin = 4 * (top * down + left * across), 4 * channels * (line * wide + column)
            found.append(_copy(image, parts, begin, to_parts))
    return found


def _spans(length: int, step: int) -> Iterator[tuple[int, int, int]]:
    """Where lines of an axis begin, how many parts they belong to, and how many of each: all that fill the parts, then
    the rest."""
    if length >= step:
        yield 0, step, length // step
    if length % step:
        yield length - length % step, length % step, 1


@lru_cache(maxsize=64)
def _to_rows(shape: tuple[int, ...]) -> Copy:
    return _copy(layout(shape), layout(shape, last=True), (0, 0), False)


def _copy(image: c_void_p, parts: c_void_p, begin: tuple[int, int], to_parts: bool) -> Copy:
    lib = opened()
    source, target = (image, parts) if to_parts else (parts, image)
    return Copy(lib.make("reorder", source, lib.engine, target, lib.engine), image, parts, begin)

"""The oneDNN library that Paddle ships with itself but ignores when it runs eagerly, through its C interface.

That interface has been the same through version 3; any other version is not used. What is needed of it here is one
convolution of row-major float32 arrays, forward and backward; convolution.py makes a layer of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import byref, c_int, c_int64, c_size_t, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

import paddle
from paddle import Tensor

# Values of the C interface (dnnl_types.h).
_CPU, _IN_ORDER, _FLOAT, _ANY, _TRAINING, _DIRECT = 1, 1, 3, 1, 64, 1
# role -> (query of its layout, argument number)
_ROLES: Mapping[str, tuple[int, int]] = {
    "src": (129, 1),
    "weights": (131, 33),
    "dst": (133, 17),
    "diff_src": (130, 129),
    "diff_weights": (132, 161),
    "diff_dst": (134, 145),
    "bias": (131, 41),
    "diff_bias": (132, 169),
}
_FROM, _TO = 1, 17  # arguments of a reorder

Pair = tuple[int, ...]
Geometry = tuple[Pair, Pair, Pair, Pair, Pair]  # shapes of source and kernel; stride, padding, dilation


class _Refused(Exception):
    """oneDNN said no."""


class _Argument(ctypes.Structure):
    _fields_ = (("number", c_int), ("memory", c_void_p))


class _Library:
    """The loaded library with one engine and one stream."""

    def __init__(self, path: Path) -> None:
        self.dll = ctypes.CDLL(str(path))
        self.engine, self.stream = c_void_p(), c_void_p()
        self.dll.dnnl_primitive_desc_query_md.restype = c_void_p
        self.dll.dnnl_memory_desc_get_size.restype = c_size_t
        self.call("engine_create", byref(self.engine), _CPU, c_size_t(0))
        self.call("stream_create", byref(self.stream), self.engine, _IN_ORDER)

    def call(self, name: str, *arguments: object) -> None:
        """Call `dnnl_<name>`."""
        status = getattr(self.dll, f"dnnl_{name}")(*arguments)
        if status != 0:
            raise _Refused(f"{name}: {status}")

    def layout(self, shape: Sequence[int], anyhow: bool = False) -> c_void_p:
        """A description of a float32 array: row-major, or as the library likes it."""
        result, count = c_void_p(), len(shape)
        dims = (c_int64 * 12)(*shape)
        if anyhow:
            self.call("memory_desc_create_with_tag", byref(result), count, dims, _FLOAT, _ANY)
            return result
        strides = (c_int64 * 12)()
        step = 1
        for axis in reversed(range(count)):
            strides[axis], step = step, step * shape[axis]
        self.call("memory_desc_create_with_strides", byref(result), count, dims, _FLOAT, strides)
        return result

    def primitive(self, create: str, *arguments: object) -> tuple[c_void_p, c_void_p]:
        """(description, primitive) of an operation."""
        description, primitive = c_void_p(), c_void_p()
        self.call(f"{create}_primitive_desc_create", byref(description), *arguments)
        self.call("primitive_create", byref(primitive), description)
        return description, primitive

    def memory(self, layout: c_void_p, tensor: Tensor) -> c_void_p:
        result = c_void_p()
        self.call("memory_create", byref(result), layout, self.engine, c_void_p(tensor.data_ptr()))
        return result

    def run(self, primitive: c_void_p, memories: Mapping[int, c_void_p]) -> None:
        arguments = (_Argument * len(memories))(*((number, m.value) for number, m in memories.items()))
        self.call("primitive_execute", primitive, self.stream, len(memories), arguments)


@lru_cache(maxsize=1)
def library() -> Optional[_Library]:
    """Paddle's own oneDNN of version 3, or None."""
    path = Path(paddle.__file__).parent / "libs/libdnnl.so.3"
    try:
        return _Library(path) if path.is_file() else None
    except (OSError, AttributeError, _Refused):
        return None


def _opened() -> _Library:
    lib = library()
    assert lib is not None  # convolution.py asks usable() first
    return lib


class _Operation:
    """One of a convolution's three operations at one geometry, with the copies into the layouts it wants."""

    def __init__(self, kind: str, geometry: Geometry, bias: bool) -> None:
        lib = _opened()
        src, kernel, strides, padding, dilation = geometry
        dst = output_shape(geometry)
        shapes = {"src": src, "weights": kernel, "dst": dst}
        names, forward = _KINDS[kind]
        wanted: list[Optional[c_void_p]] = [
            lib.layout(shapes[name.replace("diff_", "")], anyhow=True) for name in names
        ]
        if bias:
            wanted.insert(2, lib.layout(kernel[:1]))
        elif kind != "backward_data":
            wanted.insert(2, None)
        dilates = [d - 1 for d in dilation]
        numbers = [(c_int64 * 12)(*values) for values in (strides, dilates, padding, padding)]
        self.description: Any
        self.primitive: Any
        head: tuple
        tail: tuple
        if forward:
            head, tail = (lib.engine, forward, _DIRECT), (None,)
        else:
            self.hint = operation("forward", geometry, bias)
            head, tail = (lib.engine, _DIRECT), (self.hint.description, None)
        self.description, self.primitive = lib.primitive(f"convolution_{kind}", *head, *wanted, *numbers, *tail)
        self.plain: dict[str, Any] = {}
        self.wanted: dict[str, Any] = {}
        self.copies: dict[str, tuple[Any, int, bool]] = {}
        for name in names:
            self._role(name, shapes[name.replace("diff_", "")], output=name == names[_OUTPUT[kind]])
        if bias:
            name = "bias" if forward else "diff_bias"
            self.plain[name] = self.wanted[name] = lib.layout(kernel[:1])

    def _role(self, name: str, shape: Sequence[int], output: bool) -> None:
        lib = _opened()
        wanted = c_void_p(lib.dll.dnnl_primitive_desc_query_md(self.description, _ROLES[name][0], 0))
        plain = lib.layout(shape)
        self.plain[name], self.wanted[name] = plain, wanted
        if not lib.dll.dnnl_memory_desc_equal(plain, wanted):
            pair = (wanted, plain) if output else (plain, wanted)
            size = lib.dll.dnnl_memory_desc_get_size(wanted)
            copy = lib.primitive("reorder", pair[0], lib.engine, pair[1], lib.engine, None)[1]
            self.copies[name] = copy, size, output

    def __call__(self, tensors: Mapping[str, Tensor]) -> None:
        """Run on row-major tensors; results are written into those given."""
        lib = _opened()
        memories: dict[int, c_void_p] = {}
        after: list[tuple[c_void_p, c_void_p, c_void_p]] = []
        alive: list[Any] = []
        for name, tensor in tensors.items():
            memory = lib.memory(self.plain[name], tensor)
            alive.append(memory)
            if name in self.copies:
                copy, size, output = self.copies[name]
                buffer = paddle.empty([(size + 3) // 4], dtype="float32")
                inner = lib.memory(self.wanted[name], buffer)
                alive += [inner, buffer]
                if output:
                    after.append((copy, inner, memory))
                else:
                    lib.run(copy, {_FROM: memory, _TO: inner})
                memory = inner
            memories[_ROLES[name][1]] = memory
        lib.run(self.primitive, memories)
        for copy, inner, memory in after:
            lib.run(copy, {_FROM: inner, _TO: memory})
        lib.call("stream_wait", lib.stream)
        for memory in alive:
            if isinstance(memory, c_void_p):
                lib.dll.dnnl_memory_destroy(memory)


# kind -> (roles in the order of the C call, the kind of forward pass or 0)
_KINDS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "forward": (("src", "weights", "dst"), _TRAINING),
    "backward_data": (("diff_src", "weights", "diff_dst"), 0),
    "backward_weights": (("src", "diff_weights", "diff_dst"), 0),
}
_OUTPUT = {"forward": 2, "backward_data": 0, "backward_weights": 1}


@lru_cache(maxsize=1024)
def operation(kind: str, geometry: Geometry, bias: bool) -> _Operation:
    """The operation, made once for each geometry."""
    return _Operation(kind, geometry, bias)


@lru_cache(maxsize=1024)
def takes(geometry: Geometry) -> bool:
    """Whether oneDNN has all three operations at this geometry."""
    try:
        return all(operation(kind, geometry, False) for kind in _KINDS)
    except _Refused:
        return False


def output_shape(geometry: Geometry) -> tuple[int, ...]:
    """Shape of a convolution's result."""
    src, kernel, strides, padding, dilation = geometry
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(src[2:], kernel[2:], strides, padding, dilation)
    ]
    return (src[0], kernel[0], *size)

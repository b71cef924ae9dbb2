"""The oneDNN library that Paddle ships with itself but ignores when it runs eagerly, through its C interface.

That interface has been the same through version 3; any other version is not used.

Every primitive gets its scratchpad from us, at every call. oneDNN's own scratchpads belong to the thread that made the
primitive: run in another one, it reads and writes memory that is not its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import byref, c_int, c_int64, c_size_t, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import paddle
from paddle import Tensor

from paddle_adaptseg.cpu.arena import empty

# Values of the C interface (dnnl_types.h).
_CPU, _IN_ORDER, _FLOAT, _ANY = 1, 1, 3, 1
FROM, TO, _SCRATCHPAD = 1, 17, 80  # arguments
_USERS = 1  # a mode of scratchpads
_IMPLEMENTATION = 8  # a query
_QUERIES: Mapping[str, int] = {
    "src": 129,
    "weights": 131,
    "diff_weights": 132,
    "dst": 133,
    "diff_src": 130,
    "diff_dst": 134,
    "workspace": 135,
    "scratchpad": 136,
}
_LAST = (0, 2, 3, 1)  # axes of a map from the slowest to the fastest, channels last


class Refused(Exception):
    """oneDNN returned an error code."""


class _Argument(ctypes.Structure):
    _fields_ = (("number", c_int), ("memory", c_void_p))


class _Version(ctypes.Structure):
    _fields_ = (("major", c_int), ("minor", c_int), ("patch", c_int))  # and more that is not asked for


class Primitive(NamedTuple):
    """A primitive, the description that it was made from, and the bytes that it needs while it runs."""

    description: c_void_p
    handle: c_void_p
    scratchpad: int


class Library:
    """The loaded library with one engine and one stream."""

    def __init__(self, path: Path) -> None:
        self.dll = ctypes.CDLL(str(path))
        self.dll.dnnl_version.restype = ctypes.POINTER(_Version)
        version = self.dll.dnnl_version().contents
        if version.major != 3:
            raise Refused(f"version {version.major}.{version.minor}")
        self.engine, self.stream = c_void_p(), c_void_p()
        self.dll.dnnl_primitive_desc_query_md.restype = c_void_p
        self.dll.dnnl_memory_desc_get_size.restype = c_size_t
        self.call("engine_create", byref(self.engine), _CPU, c_size_t(0))
        self.call("stream_create", byref(self.stream), self.engine, _IN_ORDER)

    def call(self, name: str, *arguments: object) -> None:
        """Call `dnnl_<name>`."""
        status = getattr(self.dll, f"dnnl_{name}")(*arguments)
        if status != 0:
            raise Refused(f"{name}: {status}")

    def make(self, create: str, *arguments: object, after: Optional[Callable[[c_void_p], None]] = None) -> Primitive:
        """A primitive of the kind that `create` names; `after` adds what it does to its results to its attributes."""
        description, primitive, attributes = c_void_p(), c_void_p(), c_void_p()
        self.call("primitive_attr_create", byref(attributes))
        try:
            self.call("primitive_attr_set_scratchpad_mode", attributes, _USERS)
            if after is not None:
                after(attributes)
            self.call(f"{create}_primitive_desc_create", byref(description), *arguments, attributes)
            self.call("primitive_create", byref(primitive), description)
        finally:
            self.dll.dnnl_primitive_attr_destroy(attributes)
        return Primitive(description, primitive, self.size(self.queried(description, "scratchpad")))

    def queried(self, description: c_void_p, what: str) -> c_void_p:
        """A layout that the library has chosen."""
        return c_void_p(self.dll.dnnl_primitive_desc_query_md(description, _QUERIES[what], 0))

    def size(self, layout: c_void_p) -> int:
        """Bytes of an array."""
        return self.dll.dnnl_memory_desc_get_size(layout)

    def name(self, primitive: Primitive) -> str:
        """Which implementation the library has chosen."""
        text = ctypes.c_char_p()
        self.call("primitive_desc_query", primitive.description, _IMPLEMENTATION, 0, byref(text))
        return (text.value or b"").decode()

    def memory(self, layout: c_void_p, tensor: Tensor) -> c_void_p:
        """A tensor as operations take it."""
        return self.memory_at(layout, tensor.data_ptr())

    def memory_at(self, layout: c_void_p, address: int) -> c_void_p:
        """The same for an array that begins at an address."""
        result = c_void_p()
        self.call("memory_create", byref(result), layout, self.engine, c_void_p(address))
        return result

    def run(self, primitive: Primitive, memories: Mapping[int, c_void_p]) -> None:
        """Run a primitive to its end."""
        given, pad = dict(memories), c_void_p()
        if primitive.scratchpad:
            room = empty([-(-primitive.scratchpad // 4)])
            pad = given[_SCRATCHPAD] = self.memory(self.queried(primitive.description, "scratchpad"), room)
        arguments = (_Argument * len(given))(*((number, memory.value) for number, memory in given.items()))
        self.call("primitive_execute", primitive.handle, self.stream, len(given), arguments)
        self.call("stream_wait", self.stream)
        if primitive.scratchpad:
            self.dll.dnnl_memory_destroy(pad)


@lru_cache(maxsize=1)
def library() -> Optional[Library]:
    """Paddle's own oneDNN of version 3, or None."""
    for path in sorted((Path(paddle.__file__).parent / "libs").glob("libdnnl*")):
        try:
            return Library(path)
        except (OSError, AttributeError, Refused):
            continue
    return None


def opened() -> Library:
    """The library; on_cpu() has been asked before."""
    lib = library()
    assert lib is not None
    return lib


def dims(values: Sequence[int]) -> Any:
    """Numbers as the C interface takes them."""
    return (c_int64 * 12)(*values)


@lru_cache(maxsize=4096)
def layout(shape: tuple[int, ...], last: bool = False) -> c_void_p:
    """A description of a float32 array: row-major, or a map with its channels last."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(_LAST if last else range(len(shape))):
        strides[axis], step = step, step * shape[axis]
    return strided(shape, strides)


def strided(shape: Sequence[int], strides: Sequence[int]) -> c_void_p:
    """A description of a float32 array whose neighbours along each axis lie so many numbers apart."""
    result = c_void_p()
    opened().call("memory_desc_create_with_strides", byref(result), len(shape), dims(shape), _FLOAT, dims(strides))
    return result


@lru_cache(maxsize=1024)
def free_layout(shape: tuple[int, ...]) -> c_void_p:
    """A description of a float32 array that lies as the library likes it."""
    result = c_void_p()
    opened().call("memory_desc_create_with_tag", byref(result), len(shape), dims(shape), _FLOAT, _ANY)
    return result

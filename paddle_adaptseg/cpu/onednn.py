"""The oneDNN library that Paddle ships with itself but ignores when it runs eagerly, through its C interface.

That interface has been the same through version 3; any other version is not used. An operation here takes float32
tensors by name. Maps may lie row by row or channels last, which is how oneDNN computes; operations.py says which
operations there are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import byref, c_int, c_int64, c_size_t, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Optional

import paddle
from paddle import Tensor

from paddle_adaptseg.cpu.arena import empty

# Values of the C interface (dnnl_types.h).
_CPU, _IN_ORDER, _FLOAT, _ANY = 1, 1, 3, 1
_FROM, _TO = 1, 17  # arguments of a reorder
_IMPLEMENTATION = 8  # a query
_NUMBERS: Mapping[str, int] = {
    "src": 1,
    "other": 2,
    "dst": 17,
    "weights": 33,
    "bias": 41,
    "mean": 49,
    "variance": 50,
    "scale": 51,
    "shift": 52,
    "workspace": 64,
    "diff_src": 129,
    "diff_dst": 145,
    "diff_weights": 161,
    "diff_bias": 169,
    "diff_scale": 255,
    "diff_shift": 256,
}
_QUERIES: Mapping[str, int] = {"src": 129, "weights": 131, "diff_weights": 132, "diff_dst": 134, "workspace": 135}
_KERNELS = ("weights", "diff_weights")
_LAST = (0, 2, 3, 1)  # axes of a map from the slowest to the fastest, channels last


class Refused(Exception):
    """oneDNN said no."""


class _Argument(ctypes.Structure):
    _fields_ = (("number", c_int), ("memory", c_void_p))


class Made(NamedTuple):
    """A primitive, and the description that it was made from."""

    description: c_void_p
    primitive: c_void_p


class Library:
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
            raise Refused(f"{name}: {status}")

    def make(self, create: str, *arguments: object) -> Made:
        """A primitive of the kind that `create` names."""
        made = Made(c_void_p(), c_void_p())
        self.call(f"{create}_primitive_desc_create", byref(made.description), *arguments)
        self.call("primitive_create", byref(made.primitive), made.description)
        return made

    def name(self, made: Made) -> str:
        """Which implementation the library has chosen."""
        text = ctypes.c_char_p()
        self.call("primitive_desc_query", made.description, _IMPLEMENTATION, 0, byref(text))
        return (text.value or b"").decode()

    def memory(self, layout: c_void_p, tensor: Tensor) -> c_void_p:
        result = c_void_p()
        self.call("memory_create", byref(result), layout, self.engine, c_void_p(tensor.data_ptr()))
        return result

    def run(self, primitive: c_void_p, memories: Mapping[int, c_void_p]) -> None:
        arguments = (_Argument * len(memories))(*((number, m.value) for number, m in memories.items()))
        self.call("primitive_execute", primitive, self.stream, len(memories), arguments)


@lru_cache(maxsize=1)
def library() -> Optional[Library]:
    """Paddle's own oneDNN of version 3, or None."""
    path = Path(paddle.__file__).parent / "libs/libdnnl.so.3"
    try:
        return Library(path) if path.is_file() else None
    except (OSError, AttributeError, Refused):
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
    result, strides, step = c_void_p(), dims(()), 1
    for axis in reversed(_LAST if last else range(len(shape))):
        strides[axis], step = step, step * shape[axis]
    opened().call("memory_desc_create_with_strides", byref(result), len(shape), dims(shape), _FLOAT, strides)
    return result


@lru_cache(maxsize=1024)
def free_layout(shape: tuple[int, ...]) -> c_void_p:
    """A description of a float32 array that lies as the library likes it."""
    result = c_void_p()
    opened().call("memory_desc_create_with_tag", byref(result), len(shape), dims(shape), _FLOAT, _ANY)
    return result


def empty_last(shape: Sequence[int]) -> Tensor:
    """A map [N, C, H, W] whose channels lie last in memory."""
    count, channels, height, width = shape
    return empty([count, height, width, channels]).transpose([0, 3, 1, 2])


def lies_last(x: Tensor) -> bool:
    """Whether a map's channels lie last in memory, without gaps."""
    _, channels, height, width = x.shape
    return list(x.strides) == [channels * height * width, 1, width * channels, channels]


class Way(NamedTuple):
    """How a tensor lies, how the primitive wants it, and the copy between them, if they differ."""

    lies: c_void_p
    wanted: c_void_p
    copy: Optional[Made]
    floats: int  # the size of what is wanted


class Operation:
    """A primitive that takes tensors by name: maps and kernels that lie otherwise than it wants are copied."""

    def __init__(
        self,
        made: Made,
        outputs: Sequence[str],
        hint: Optional[Operation] = None,
        chosen: Sequence[str] = _KERNELS,
        last: bool = True,
    ) -> None:
        """`hint`: the forward operation of a backward one. `chosen`: tensors whose layout was left to the library.

        `last`: whether it wants the other maps channels last, or in rows.
        """
        self.made, self.outputs, self.hint, self.chosen, self.last = made, outputs, hint, chosen, last
        self.ways: dict[tuple[str, tuple[int, ...], bool], Way] = {}

    def __del__(self) -> None:
        lib = opened()
        for made in (self.made, *(way.copy for way in self.ways.values() if way.copy is not None)):
            lib.dll.dnnl_primitive_destroy(made.primitive)
            lib.dll.dnnl_primitive_desc_destroy(made.description)

    def workspace(self) -> Tensor:
        """Memory for what a forward pass notes down for its backward pass."""
        return paddle.empty([opened().dll.dnnl_memory_desc_get_size(self._queried("workspace"))], dtype="uint8")

    def __call__(self, tensors: Mapping[str, Tensor]) -> None:
        """Run; results are written into the tensors given for them."""
        lib, memories, alive, buffers = opened(), dict[int, c_void_p](), list[c_void_p](), list[Tensor]()
        after: list[tuple[c_void_p, c_void_p, c_void_p]] = []
        for name, tensor in tensors.items():
            way = self._way(name, tensor)
            memory = lib.memory(way.lies, tensor)
            alive.append(memory)
            if way.copy is not None:
                buffers.append(empty([way.floats]))
                inner = lib.memory(way.wanted, buffers[-1])
                alive.append(inner)
                if name in self.outputs:
                    after.append((way.copy.primitive, inner, memory))
                else:
                    lib.run(way.copy.primitive, {_FROM: memory, _TO: inner})
                memory = inner
            memories[_NUMBERS[name]] = memory
        lib.run(self.made.primitive, memories)
        for primitive, inner, memory in after:
            lib.run(primitive, {_FROM: inner, _TO: memory})
        lib.call("stream_wait", lib.stream)
        for memory in alive:
            lib.dll.dnnl_memory_destroy(memory)

    def _way(self, name: str, tensor: Tensor) -> Way:
        shape = tuple(tensor.shape)
        is_map = len(shape) == 4 and name not in _KERNELS
        key = (name, shape, is_map and lies_last(tensor))
        assert key[2] or tensor.is_contiguous(), f"{name} {shape} has gaps in memory"
        if key not in self.ways:
            self.ways[key] = self._find_way(*key, is_map)
        return self.ways[key]

    def _find_way(self, name: str, shape: tuple[int, ...], last: bool, is_map: bool) -> Way:
        lib = opened()
        if name == "workspace":
            wanted = self._queried(name)
            return Way(wanted, wanted, None, 0)
        lies, copy = layout(shape, last), None
        wanted = self._queried(name) if name in self.chosen else layout(shape, is_map and self.last)
        if not lib.dll.dnnl_memory_desc_equal(lies, wanted):
            one, other = (wanted, lies) if name in self.outputs else (lies, wanted)
            copy = lib.make("reorder", one, lib.engine, other, lib.engine, None)
        return Way(lies, wanted, copy, (lib.dll.dnnl_memory_desc_get_size(wanted) + 3) // 4)

    def _queried(self, name: str) -> c_void_p:
        return c_void_p(opened().dll.dnnl_primitive_desc_query_md(self.made.description, _QUERIES[name], 0))

"""An operation of oneDNN on Paddle's tensors, which it takes by name.

Maps may lie row by row or channels last, which is how oneDNN computes; what  otherwise than an operation wants is
copied for it. operations.py says which operations there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import c_void_p
from typing import NamedTuple, Optional

import paddle
from paddle import Tensor

from paddle_adaptseg.cpu.arena import empty
from paddle_adaptseg.cpu.library import FROM, TO, Primitive, layout, opened

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
_KERNELS = ("weights", "diff_weights")


def empty_last(shape: Sequence[int]) -> Tensor:
    """A map [N, C, H, W] whose channels lie last in memory."""
    count, channels, height, width = shape
    return empty([count, height, width, channels]).transpose([0, 3, 1, 2])


def lies_last(x: Tensor) -> bool:
    """Whether a map's channels lie last in memory, without gaps."""
    _, channels, height, width = x.shape
    return list(x.strides) == [channels * height * width, 1, width * channels, channels]


def contiguous(x: Tensor) -> Tensor:
    """A tensor without gaps in memory, in rows or channels last."""
    return x if x.is_contiguous() or (x.ndim == 4 and lies_last(x)) else x.contiguous()


class Layout(NamedTuple):
    """How a tensor lies in memory, how the primitive wants it, and the copy between them, if they differ."""

    actual: c_void_p
    wanted: c_void_p
    copy: Optional[Primitive]
    floats: int  # the size of what is wanted


class Operation:
    """A primitive that takes tensors by name: maps and kernels that lie otherwise than it wants are copied."""

    def __init__(
        self,
        primitive: Primitive,
        outputs: Sequence[str],
        hint: Optional[Operation] = None,
        chosen: Sequence[str] = _KERNELS,
        last: bool = True,
    ) -> None:
        """`hint`: the forward operation of a backward one. `chosen`: tensors whose layout was left to the library.

        `last`: whether it wants the other maps channels last, or in rows.
        """
        self.primitive, self.outputs, self.hint, self.chosen, self.last = primitive, outputs, hint, chosen, last
        self.layouts: dict[tuple[str, tuple[int, ...], bool], Layout] = {}

    def __del__(self) -> None:
        lib = opened()
        for primitive in (self.primitive, *(item.copy for item in self.layouts.values() if item.copy is not None)):
            lib.dll.dnnl_primitive_destroy(primitive.handle)
            lib.dll.dnnl_primitive_desc_destroy(primitive.description)

    def workspace(self) -> Tensor:
        """Memory for what a forward pass notes down for its backward pass."""
        return paddle.empty([opened().size(self._queried("workspace"))], dtype="uint8")

    def __call__(self, tensors: Mapping[str, Tensor]) -> None:
        """Run; results are written into the tensors given for them."""
        lib, memories, alive, buffers = opened(), dict[int, c_void_p](), list[c_void_p](), list[Tensor]()
        after: list[tuple[Primitive, c_void_p, c_void_p]] = []
        for name, tensor in tensors.items():
            tensor_layout = self._layout(name, tensor)
            memory = lib.memory(tensor_layout.actual, tensor)
            alive.append(memory)
            if tensor_layout.copy is not None:
                buffers.append(empty([tensor_layout.floats]))
                inner = lib.memory(tensor_layout.wanted, buffers[-1])
                alive.append(inner)
                if name in self.outputs:
                    after.append((tensor_layout.copy, inner, memory))
                else:
                    lib.run(tensor_layout.copy, {FROM: memory, TO: inner})
                memory = inner
            memories[_NUMBERS[name]] = memory
        lib.run(self.primitive, memories)
        for copy, inner, memory in after:
            lib.run(copy, {FROM: inner, TO: memory})
        for memory in alive:
            lib.dll.dnnl_memory_destroy(memory)

    def _layout(self, name: str, tensor: Tensor) -> Layout:
        shape = tuple(tensor.shape)
        is_map = len(shape) == 4 and name not in _KERNELS
        key = (name, shape, is_map and lies_last(tensor))
        assert key[2] or tensor.is_contiguous(), f"{name} {shape} has gaps in memory"
        if key not in self.layouts:
            self.layouts[key] = self._find_layout(*key, is_map)
        return self.layouts[key]

    def _find_layout(self, name: str, shape: tuple[int, ...], last: bool, is_map: bool) -> Layout:
        lib = opened()
        if name == "workspace":
            wanted = self._queried(name)
            return Layout(wanted, wanted, None, 0)
        actual, copy = layout(shape, last), None
        wanted = self._queried(name) if name in self.chosen else layout(shape, is_map and self.last)
        if not lib.dll.dnnl_memory_desc_equal(actual, wanted):
            one, other = (wanted, actual) if name in self.outputs else (actual, wanted)
            copy = lib.make("reorder", one, lib.engine, other, lib.engine)
        return Layout(actual, wanted, copy, -(-lib.size(wanted) // 4))

    def _queried(self, name: str) -> c_void_p:
        return opened().queried(self.primitive.description, name)

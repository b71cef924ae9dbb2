"""Bytes of tensors where Paddle computes, by its own counters, which both lines have for CPUs too."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import paddle

from paddle_adaptseg.evaluation.logits import on_gpu


def allocated() -> int:
    """Bytes of all tensors where Paddle computes."""
    if on_gpu():
        return paddle.device.cuda.memory_allocated()
    return paddle.base.core.host_memory_stat_current_value("Allocated", 0)


def most_allocated() -> int:
    """The most that it ever was."""
    if on_gpu():
        return paddle.device.cuda.max_memory_allocated()
    return paddle.base.core.host_memory_stat_peak_value("Allocated", 0)


def reset_most_allocated() -> bool:
    """Begin most_allocated() anew; false where Paddle cannot."""
    if on_gpu():
        reset = getattr(paddle.device.cuda, "reset_max_memory_allocated", None)
        return reset is not None and reset() is None
    reset = getattr(paddle.base.core, "host_memory_stat_reset_peak_value", None)
    return reset is not None and reset("Allocated", 0) is None


class Watch:
    """The most that is allocated above what was there `before`, in parts that mark() ends.

    Paddle 2.6 cannot reset its peak: there an empty tensor, whose pages nobody touches, first raises what is allocated
    to the peak so far. Every part makes it larger, so parts must be few.
    """

    def __init__(self) -> None:
        self.before, self.parts, self.kept = allocated(), list[int](), 0
        self.begin()

    def begin(self) -> None:
        """Begin a part."""
        self.held = allocated() - self.before
        above = 0 if reset_most_allocated() else max(0, most_allocated() - allocated()) + 1
        self.raised = paddle.empty([above], dtype="uint8") if above else None
        self.level = allocated()

    def end(self) -> None:
        """End a part."""
        self.parts.append(self.held + most_allocated() - self.level)
        del self.raised

    def mark(self) -> None:
        """End a part and begin the next one."""
        self.end()
        self.begin()

    def now(self) -> int:
        """Bytes above what was there before."""
        return self.held + allocated() - self.level

    @property
    def peak(self) -> int:
        """The most in all parts."""
        return max(self.parts)


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Inside, the most that is allocated at once is found."""
    watch = Watch()
    yield watch
    watch.end()


def capacity() -> int:
    """Bytes of the GPU in use; 0 on a CPU."""
    return paddle.device.cuda.get_device_properties().total_memory if on_gpu() else 0


def taken() -> str:
    """What a run took so far at its peak, in words: tensors on a GPU, all of the process on a CPU."""
    if on_gpu():
        return f"memory: {most_allocated() / 1e9:.1f} GB of tensors at the peak of the first steps"
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.is_file() else None
    return f"memory: {int(peak[1]) * 1024 / 1e9:.1f} GB at the peak of the first steps" if peak else ""

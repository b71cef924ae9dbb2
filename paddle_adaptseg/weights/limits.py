"""What reading a weights file may cost: no more bytes than it has, and steps and memory within a budget.

Whatever a file claims (lengths, counts, shapes), it is paid for here before it is believed.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

from paddle_adaptseg.core.errors import CheckpointError

MAX_FILE = 8 * 2**30
MAX_STEPS = 1_000_000  # instructions; a tensor takes about 40
SLACK = 128 * 2**20
CUT = "it ends before its data does (an interrupted download or copy?)"


class Budget:
    """Steps and bytes that are left for one file."""

    def __init__(self, size: int) -> None:
        self.steps, self.memory, self.numbers = MAX_STEPS, 2 * size + SLACK, 4 * size + SLACK

    def step(self, count: int = 1) -> None:
        """Pay for work that takes `count` small steps."""
        self.steps -= count
        if self.steps < 0:
            raise CheckpointError(f"reading it takes more than {MAX_STEPS} steps")

    def take(self, count: int) -> None:
        """Pay for `count` bytes that are made from what the file holds."""
        self.memory -= count
        if self.memory < 0:
            raise CheckpointError("it unpacks to more memory than its size allows")

    def give(self, count: int) -> None:
        """Pay for `count` bytes of tensors, which may share their numbers but are copied later."""
        self.numbers -= count
        if self.numbers < 0:
            raise CheckpointError("its tensors together are larger than its size allows")


class Metered:
    """A file of which only so many more bytes are read; asking for more is an error, not a short answer."""

    def __init__(self, file: BinaryIO, allowed: int, complaint: str = CUT) -> None:
        self.file, self.allowed, self.complaint = file, allowed, complaint
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        if count < 0:
            count = self.allowed
        if count > self.allowed:
            raise CheckpointError(self.complaint)
        data = self.file.read(count)
        self.allowed -= len(data)
        return data

    def readline(self, limit: int = 4096) -> bytes:
        data = self.file.readline(min(limit, self.allowed))
        if not data.endswith(b"\n"):
            raise CheckpointError(CUT if len(data) < limit else f"it holds a line of more than {limit} bytes")
        self.allowed -= len(data)
        return data


def regular_size(path: Path) -> int:
    """The size of a regular file; anything else would never end, or block."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError("it is not a regular file")
    if status.st_size > MAX_FILE:
        raise CheckpointError(f"it is larger than {MAX_FILE // 2**30} GB")
    if status.st_size == 0:
        raise CheckpointError("it is empty")
    return status.st_size


def brief(value: object) -> str:
    """A name from a file for a message: never long, whatever it is."""
    text = repr(value[:60])[1:-1] if isinstance(value, str) else type(value).__name__
    return text + ("..." if isinstance(value, str) and len(value) > 60 else "")

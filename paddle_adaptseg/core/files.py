"""Writing files so that a crash leaves the old one or the new one, and a full disk is one clear line; and checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Callable

from paddle_adaptseg.core.errors import StorageError

_STEP_NAME = re.compile(r"step_(\d{8})")
# What a user can do about the system's refusals; anything else is a fault of this program.
ADVICE: Mapping[int, str] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make space, or choose a folder on another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder that you may write to"),
    **dict.fromkeys((errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP), "remove or rename what stands there"),
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around whatever writes `path`: the system's refusal becomes an error that names the file and the space left."""
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "is the folder writable?")
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write '{path}': {reason} ({_free(path)} free on its disk); {advice}") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object], durable: bool = True) -> None:
    """Call `write` on a temporary file beside `path` and move it into place; `durable` waits until the disk has it."""
    digest = zlib.crc32(os.fsencode(path.name))  # the longest name that is allowed has no room for an ending
    temporary = path.with_name(f".{path.name[:40]}.{digest:08x}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as handle:
                write(handle)
                handle.flush()
                if durable:
                    os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):  # what went wrong before is what counts
                temporary.unlink(missing_ok=True)
        if durable:
            _sync_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Make a folder in which results will be written; one that cannot be written to is an error now."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()


def confirm(path: Path) -> None:
    """Bring a file that a library wrote to the disk, and check that all of it was written: not every library does."""
    with writing(path), path.open("r+b") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.write(bytes(1))  # what was cut short has no room for one byte more
        handle.flush()
        os.fsync(handle.fileno())
        handle.truncate(size)


def sweep(folder: Path) -> None:
    """Delete what a killed write_atomically left in a folder that nobody else writes to."""
    for path in folder.glob(".*.tmp"):
        if path.is_file():
            delete(path)


def delete(path: Path) -> None:
    """Delete a file, if it is there."""
    with writing(path):
        path.unlink(missing_ok=True)


def check_file(path: Path) -> None:
    """Refuse what is no file: a pipe would be waited for without end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "something that is no file has this name")


class AppendFile:
    """A file that only grows. Nothing is buffered: what was written is in the file, what was not is an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            check_file(path)
            self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        with writing(self.path):
            while data:  # a nearly full disk takes a part
                data = data[self._file.write(data) :]

    def sync(self) -> None:
        """Bring it to the disk."""
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _sync_folder(folder: Path) -> None:
    """Let a rename survive a power cut, on file systems that can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _free(path: Path) -> str:
    folder = next((p for p in path.absolute().parents if os.path.exists(p)), Path("/"))  # noqa: PTH110 (never raises)
    return f"{shutil.disk_usage(folder).free / 2**20:.0f} MB"


def sha256(path: Path) -> str:
    """A file's checksum, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(2**20), b""):
            digest.update(piece)
    return digest.hexdigest()


def files_by_step(folder: Path, ending: str) -> dict[int, Path]:
    """The files step_<8 digits>.<ending> of a folder, ascending; what is no file does not count."""
    found = {p: _STEP_NAME.fullmatch(p.stem) for p in sorted(folder.glob(f"step_*.{ending}")) if p.is_file()}
    return {int(match[1]): path for path, match in found.items() if match}

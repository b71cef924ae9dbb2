"""One run writes a folder at a time. The lock names its holder and beats while it lives; a stale one is recognised.

On the machine of its holder a lock is stale when that process is gone. From another machine, or another container, no
process can be looked up; there a lock is stale when its heartbeat stops while it is watched.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import stat
import threading
import time
from pathlib import Path
from typing import Optional

from paddle_adaptseg.core.errors import StorageError, TrainingError
from paddle_adaptseg.core.files import writing

NAME = "lock.json"
BEAT, PATIENCE = 5.0, 30.0  # seconds between beats; seconds to watch a lock of elsewhere


class RunLock:
    """Holds a run's folder: `with RunLock(folder): ...`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self._over = threading.Event()
        self.note = ""  # what was found and passed over

    def __enter__(self) -> RunLock:
        me = {"pid": os.getpid(), "began": _began(os.getpid()), "machine": _machine(), "host": platform.node(),
              "started": time.strftime("%Y-%m-%d %H:%M:%S")}  # fmt: skip
        self._text = json.dumps(me)
        while not self._create():
            self._clear_stale()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(StorageError):  # an odd lock was reported before, or is somebody else's
            if _text(self.path) == self._text:
                self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # nothing was written: the run was refused before it began

    def confirm(self) -> None:
        """Stop when another run has taken the folder, as after a long sleep of this machine."""
        if _text(self.path) != self._text:
            raise TrainingError(f"'{self.folder}' was taken over by another run; this one has stopped writing to it")

    def _create(self) -> bool:
        """Write the lock unless there is one. It appears together with its text, so nobody reads an empty one."""
        draft = self.path.with_name(f".{NAME}.{os.getpid()}.{threading.get_ident()}.tmp")
        with writing(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_text(self._text, encoding="utf-8")
                os.link(draft, self.path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                return self._create_without_links()
            finally:
                draft.unlink(missing_ok=True)
            return True

    def _create_without_links(self) -> bool:
        """The same on file systems that have no hard links."""
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(handle, self._text.encode())
        finally:
            os.close(handle)
        return True

    def _clear_stale(self) -> None:
        """Delete a stale lock; one in use is an error that says by whom."""
        text = _text(self.path)
        if text is None:
            return  # released meanwhile
        holder = _parse(text)
        if holder.get("machine") == _machine():
            alive = _began(holder.get("pid")) == holder.get("began") is not None
        else:
            alive = self._beats()
        if alive:
            where = f"pid {holder.get('pid')} on {holder.get('host')}, since {holder.get('started')}"
            raise TrainingError(
                f"another run writes to '{self.folder}' ({where}): wait for it, stop it, or name another folder with "
                "--checkpoint-dir"
            )
        aside = self.path.with_name(f".{NAME}.{os.getpid()}.tmp")
        with writing(self.path), contextlib.suppress(FileNotFoundError):
            self.path.replace(aside)
            if _text(aside) == text:
                self.note = f"the lock of a run that is gone (pid {holder.get('pid')}) was removed"
                aside.unlink()
            else:  # somebody else was quicker: this is a fresh lock
                aside.replace(self.path)

    def _beats(self) -> bool:
        """Whether somebody keeps a lock of another machine fresh, or has just written it."""
        print(f"note: '{self.path}' is of another machine; watching for {PATIENCE:.0f} s whether its run lives")
        before, end = _touched(self.path), time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(min(0.5, PATIENCE / 10))
            if _touched(self.path) != before:
                return True
        return False

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)


def _text(path: Path) -> Optional[str]:
    """What a lock says; None: there is none. A link or a pipe is never followed or waited for."""
    try:
        if stat.S_ISREG(path.lstat().st_mode):
            return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read lock '{path}': {error.strerror}") from error
    raise StorageError(f"'{path}' is no lock file of a run (a folder, link or pipe): remove it")


def _parse(text: str) -> dict:
    with contextlib.suppress(ValueError):
        holder = json.loads(text)
        if isinstance(holder, dict):
            return holder
    return {}  # torn by a crash


def _touched(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_mtime_ns
    return 0


def _began(pid: object) -> Optional[str]:
    """When a living process began, so that a number used again is not taken for it; None when there is none."""
    if not isinstance(pid, int):
        return None
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if state == "Z" else rest[18]
    except OSError:
        pass
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return "running"


def _machine() -> str:
    """Tells this start of this machine, or this container, from every other."""
    parts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(path) if "ns" in path else Path(path).read_text().strip())  # noqa: PTH115
    return " ".join(parts)

"""Tools in processes forked from one that has imported Paddle: each saves the seconds that the import takes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DRIVER = ROOT / "tests/faults/driver.py"
LIMIT = 600  # seconds after which something hangs, also on a loaded machine; nothing waits for it to pass


class Driver:
    """The process that starts tools; one at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        self.running = 0  # the process id of the tool that has not ended yet

    def ask(self, order: dict) -> int:
        """Start a tool and return its process id."""
        self.stop()
        self.process.stdin.write((json.dumps(order) + "\n").encode())
        self.process.stdin.flush()
        self.running = self._line(LIMIT)
        return self.running

    def answer(self, seconds: float = LIMIT) -> int:
        """Wait for the tool's end and return its exit code."""
        try:
            return self._line(seconds)
        except AssertionError:
            self.stop()
            raise
        finally:
            self.running = 0

    def stop(self) -> None:
        """End a tool for which nobody waits any more, because a test failed."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.running, 9)
            self._line(LIMIT)
            self.running = 0

    def _line(self, seconds: float) -> int:
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, f"nothing within {seconds} s: it hangs"
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@cache
def driver() -> Driver:
    """The only one of these tests, started when it is first needed."""
    return Driver()


def close() -> None:
    """At the end of all tests."""
    if driver.cache_info().currsize:
        driver().close()
        driver.cache_clear()


def start(output: Path, errors: Path, name: str, *arguments: object, cwd: Path = ROOT) -> int:
    """Start a script of tools/ and return its process id; what it prints goes into two files."""
    order = {"tool": name, "arguments": list(map(str, arguments)), "faults": [], "count": None, "cwd": str(cwd),
             "environment": dict(os.environ), "output": str(output), "errors": str(errors)}  # fmt: skip
    return driver().ask(order)


def tool(name: str, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a script of tools/ to its end."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        start(output, errors, name, *arguments, cwd=cwd)
        code = driver().answer()
        return subprocess.CompletedProcess([name, *arguments], code, output.read_text(), errors.read_text())

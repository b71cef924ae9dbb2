"""How a run ends before its last step: a signal or its time budget asks, and the run stops where nothing is lost."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Optional

from paddle_adaptseg import parallel
from paddle_adaptseg.errors import Stopped, StopRequested


class Reason(NamedTuple):
    """Why a run ends, and the exit code that says so."""

    text: str
    code: int


SIGNALS = {
    signal.SIGTERM: Reason("terminated (SIGTERM)", 143),
    signal.SIGINT: Reason("interrupted (Ctrl-C)", 130),
}


class Interruption:
    """Notes who asks the run to end. While it is entered, signals only leave a note; a second Ctrl-C stops at once."""

    def __init__(self, hours: float = 0.0) -> None:
        self.reason: Optional[Reason] = None
        self.hours, self.began = hours, time.monotonic()
        self.spent = Reason(f"the time budget of {hours:g} hours (run.max_hours) is used up", 0)
        self.noted = False  # a signal came to this process
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in no other
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether the run should end."""
        if self.reason is None and self.hours and time.monotonic() - self.began >= 3600 * self.hours:
            self.reason = self.spent
        return self.reason is not None

    def asked_anywhere(self) -> bool:
        """Whether any process should end; then all should, for the same reason. All must call this at one place."""
        self.asked()
        reasons = [*SIGNALS.values(), self.spent]
        votes = parallel.meet([self.reason == reason for reason in reasons])
        chosen = next((reason for reason, vote in zip(reasons, votes) if vote), None)
        self.reason = chosen or self.reason  # a signal that comes meanwhile is for the next time
        return chosen is not None

    def check(self) -> None:
        """Break off if the run should end."""
        if self.asked():
            raise StopRequested

    def farewell(self, folder: Path, step: int) -> Stopped:
        """What the user is told."""
        assert self.reason is not None  # asked() was true
        return Stopped(f"{self.reason.text}: step {step} is saved; continue with: {command(folder)}", self.reason.code)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        if number == signal.SIGINT and self.noted:
            raise KeyboardInterrupt
        self.noted = True
        self.reason = SIGNALS[signal.Signals(number)]
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        # Not print(): the signal may have come in the middle of one.
        os.write(2, f"\n{self.reason.text}: finishing this step, then saving{again}\n".encode())


def command(folder: Path) -> str:
    """The command that goes on with a run; its configuration lies in its folder."""
    tail = f"tools/train.py --checkpoint-dir {shlex.quote(str(folder))} --continue-train --start-iter latest"
    nodes = int(os.environ.get("PADDLE_NNODES") or 1)
    more = f"--nnodes {nodes} --master HOST:PORT " if nodes > 1 else ""
    if parallel.world() == 1:
        return f"python {tail}"
    return f"python -m paddle.distributed.launch {more}--nproc_per_node {parallel.world() // nodes} {tail}"

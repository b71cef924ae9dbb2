"""How a run ends before its last step: a signal or its time budget asks, or it fails; and what the user reads then."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Optional

from paddle_adaptseg.core import distributed
from paddle_adaptseg.core.errors import Stopped, StopRequested, TrainingError, UserError
from paddle_adaptseg.data.quarantine import Quarantine
from paddle_adaptseg.training import checkpoint


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
        self.reasons = (*SIGNALS.values(), self.spent)
        self._agreed = False  # all processes know that the run should end
        self.noted = False  # a signal came to this process
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in no other
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether the run should end."""
        if self.reason is None and self.hours and time.monotonic() - self.began >= 3600 * self.hours:
            self.reason = self.spent
        return self.reason is not None

    @property
    def agreed(self) -> bool:
        """Whether all processes know that the run should end; one alone asks nobody."""
        return self.requested() if distributed.world() == 1 else self._agreed

    def votes(self) -> list[float]:
        """Whether this process should end, for each reason; summed over all processes they are for agree()."""
        self.requested()
        return [float(self.reason == reason) for reason in self.reasons]

    def agree(self, votes: Sequence[float]) -> None:
        """Where any process should end, all should, for the same reason."""
        chosen = next((reason for reason, vote in zip(self.reasons, votes) if vote), None)
        self.reason = chosen or self.reason  # a signal that comes meanwhile is for the next time
        self._agreed = chosen is not None

    def check(self) -> None:
        """Break off if the run should end."""
        if self.requested():
            raise StopRequested

    def stopped(self, folder: Path, step: int) -> Stopped:
        """What the user is told."""
        assert self.reason is not None  # requested() was true
        return Stopped(f"{self.reason.text}: step {step} is saved; continue with: {command(folder)}", self.reason.code)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        if number == signal.SIGINT and self.noted:
            raise KeyboardInterrupt
        self.noted = True
        self.reason = SIGNALS[signal.Signals(number)]
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        # Not print(): the signal may have come in the middle of one.
        os.write(2, f"\n{self.reason.text}: finishing this step, then saving{again}\n".encode())


@dataclass
class Votes:
    """What a step asks all processes beside its losses: whether to end, and whether there are faults to list."""

    stop: Interruption
    quarantine: Quarantine

    def cast(self) -> list[float]:
        """Numbers whose sums hear() acts on."""
        return [*self.stop.votes(), float(not self.quarantine.is_shared())]

    def hear(self, sums: Sequence[float]) -> None:
        """Act on the sums over all processes; a process of its own asks itself. A step taken back has none."""
        sums = sums if distributed.world() > 1 else self.cast()
        if len(sums):
            self.stop.agree(sums[:-1])
            if sums[-1]:
                self.quarantine.share(distributed.gather_texts)


def command(folder: Path) -> str:
    """The command that resumes a run; its configuration lies in its folder."""
    main = Path(__file__).resolve().parents[1] / "__main__.py"
    installed = "-m paddle_adaptseg train" if distributed.world() == 1 else f"{main} train"
    program = "tools/train.py" if Path("tools/train.py").is_file() else installed
    tail = f"{program} --checkpoint-dir {shlex.quote(str(folder))} --continue-train --start-iter latest"
    nodes = int(os.environ.get("PADDLE_NNODES") or 1)
    more = f"--nnodes {nodes} --master HOST:PORT " if nodes > 1 else ""
    if distributed.world() == 1:
        return f"python {tail}"
    return f"python -m paddle.distributed.launch {more}--nproc_per_node {distributed.world() // nodes} {tail}"


WORKER_DIED = "DataLoader"  # Paddle raises its own error wherever the program stands when a loader worker dies


@contextlib.contextmanager
def with_advice(folder: Path) -> Iterator[None]:
    """Add to every error that a user can mend where the run stands."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{error}; {how_to_resume(folder)}") from error
    except (SystemError, RuntimeError, OSError) as error:
        if WORKER_DIED not in str(error):
            raise
        raise TrainingError(
            f"a loader worker died (was it killed for want of memory?): lower data.workers; {how_to_resume(folder)}"
        ) from error


def how_to_resume(folder: Path) -> str:
    """Where the last good checkpoint is, and the command that continues from it."""
    steps = checkpoint.list_steps(folder)
    if not steps:
        return "no checkpoint was written yet"
    return f"the last good checkpoint is {checkpoint.state_path(folder, steps[-1])}; continue with: {command(folder)}"

"""What a user reads when a run fails: the fault, where the last good checkpoint is, and how to go on from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from paddle_adaptseg import checkpoint
from paddle_adaptseg.engine.interrupt import command
from paddle_adaptseg.errors import TrainingError, UserError

WORKER_DIED = "DataLoader"  # Paddle raises its own error wherever the program stands when a loader worker dies


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Add to every error that a user can mend where the run stands."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{error}; {prospects(folder)}") from error
    except (SystemError, RuntimeError, OSError) as error:
        if WORKER_DIED not in str(error):
            raise
        raise TrainingError(
            f"a loader worker died (was it killed for want of memory?): lower data.workers; {prospects(folder)}"
        ) from error


def prospects(folder: Path) -> str:
    """Where the last good checkpoint is, and the command that continues from it."""
    steps = checkpoint.list_steps(folder)
    if not steps:
        return "no checkpoint was written yet"
    return f"the last good checkpoint is {checkpoint.state_path(folder, steps[-1])}; continue with: {command(folder)}"

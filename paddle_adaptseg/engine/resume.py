"""Where a run starts: fresh, or at a checkpoint of its own. Nothing is continued with other settings by accident."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Optional

import paddle

from paddle_adaptseg import checkpoint
from paddle_adaptseg.checkpoint import Snapshot
from paddle_adaptseg.config import Config
from paddle_adaptseg.configfile import differences, parse_config
from paddle_adaptseg.engine.trainer import TrainState
from paddle_adaptseg.errors import CheckpointError, ConfigError, shorten
from paddle_adaptseg.files import delete, write_atomically
from paddle_adaptseg.weights.load import fill_segmenter
from paddle_adaptseg.weights.reader import read_weights


def starting_point(
    folder: Path, config: Config, resume: Optional[str], overwrite: bool, accept_changes: bool
) -> tuple[Optional[Snapshot], str]:
    """The snapshot to continue from, if any, and a line about changes that were accepted."""
    if resume is None:
        steps = checkpoint.list_steps(folder)
        if steps and not overwrite:
            raise CheckpointError(
                f"'{folder}' already holds a run at step {steps[-1]}: continue it with --continue-train, "
                "name another folder with --checkpoint-dir, or start it anew with --overwrite"
            )
        return None, ""
    snapshot = checkpoint.find_state(folder, resume, lambda text: print(f"note: {text}"))
    changed = _changes(snapshot, config, folder) if snapshot else []
    if changed and not accept_changes:
        raise CheckpointError(
            f"the run in '{folder}' was trained with another configuration ({shorten(changed)}): use its own, continue "
            "from here with these changes by --accept-changes, or start another run with --checkpoint-dir"
        )
    return snapshot, f"continuing with changes: {shorten(changed)}" if changed else ""


def _changes(snapshot: Snapshot, config: Config, folder: Path) -> list[str]:
    """What differs from the run so far and lets it compute other numbers."""
    try:
        old = parse_config(
            str(snapshot.record["config"]), f"configuration inside the checkpoint of step {snapshot.step}"
        )
    except ConfigError as error:
        raise CheckpointError(f"'{folder}' was written by another version of this program: {error}") from None
    before, now = snapshot.record.get("paddle", paddle.__version__), paddle.__version__
    return differences(old, config) + ([f"Paddle: {before} -> {now}"] if before != now else [])


def restore_best(folder: Path, best_step: int, step: int) -> str:
    """Let best.pdparams be the best network up to `step`; returns what the user should know.

    It is written again from `best_step`'s file in weights/. Without that file it stays as it is, unless its own record
    says that it is of a later step.
    """
    weights, best = folder / "weights" / f"step_{best_step:08d}.pdparams", folder / "best.pdparams"
    if best_step and weights.is_file():
        data = weights.read_bytes()
        write_atomically(best, lambda handle: handle.write(data))
    elif best.is_file():
        own = _trained_steps(best)
        if own is None:
            return f"'{best}' does not say which step it is of; it was left as it is"
        if own > step:
            delete(best)
            return f"'{best}' was deleted: it is of step {own}, and the run continues from step {step}"
    return ""


def _trained_steps(path: Path) -> Optional[int]:
    """The step that a weights file of ours records; None: it has no such record, or cannot be read."""
    try:
        steps = read_weights(path).origin.get("trained_steps")
    except CheckpointError:
        return None
    return steps if isinstance(steps, int) else None


def set_start(state: TrainState, snapshot: Optional[Snapshot], config: Config, tell: Callable[[str], object]) -> None:
    """Bring a freshly built state to where it starts: a snapshot, weights for the trained network, or as it is."""
    if snapshot is not None:
        state.restore(snapshot)
        return
    if config.run.restore_from:
        tell(fill_segmenter(state.method.segmenter, config.run.restore_from, config, config.run.restore_partial))
    with paddle.no_grad():
        for part in state.method.parts():
            part.loaded()

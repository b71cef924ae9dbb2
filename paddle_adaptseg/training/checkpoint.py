"""Training states on disk: one file each, written atomically, verified when read, the last n and the best kept.

A state is an uncompressed zip of `.npy` members (each with its CRC) and a JSON record; nothing in it can be code.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.core.files import delete, files_by_step, write_atomically

_RECORD = "record.json"
FORMAT = 2
# In format 1 the discriminators of methods, and their optimiser, had other names.
_RENAMED = re.compile(r"(?<=/)critic(?=s?[./])")


@dataclass(frozen=True)
class Snapshot:
    """What a state file holds: arrays by name, and the record (step, best, config)."""

    arrays: Mapping[str, np.ndarray]
    record: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.record["step"])


def state_path(run: Path, step: int) -> Path:
    """Where a run keeps the state of a step."""
    return run / "states" / f"step_{step:08d}.npz"


def list_steps(run: Path) -> list[int]:
    """Steps with a state file, ascending."""
    return sorted(files_by_step(run / "states", "npz"))


def save_state(run: Path, snapshot: Snapshot) -> Path:
    """Write a snapshot in one atomic step."""
    record = {**snapshot.record, "format": FORMAT, "arrays": sorted(snapshot.arrays)}

    def write(handle) -> None:
        with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
            for name, array in snapshot.arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            archive.writestr(_RECORD, json.dumps(record))

    path = state_path(run, snapshot.step)
    write_atomically(path, write)
    return path


def load_state(path: Path) -> Snapshot:
    """Read and verify a state; a broken one is a CheckpointError that says how."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its members are compressed, which ours never are")
            record = json.loads(archive.read(_RECORD))
            _check_record(record)
            arrays = {name: _read_array(archive.read(f"{name}.npy")) for name in record["arrays"]}
            if record["format"] == 1:
                arrays = {_RENAMED.sub("discriminator", name): array for name, array in arrays.items()}
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint '{path}' does not exist") from None
    except Exception as error:  # a damaged or hostile file can raise anything at all
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"checkpoint '{path}' is damaged ({reason})") from None
    step = record["step"]
    if record["format"] not in (1, FORMAT) or path.name != state_path(path.parent, step).name:
        raise CheckpointError(f"checkpoint '{path}' is damaged or of another format (it says step {step})")
    return Snapshot(arrays, record)


def find_state(run: Path, which: str, warn) -> Optional[Snapshot]:
    """The snapshot that 'latest' (newest valid), 'best' or a step number names; None when 'latest' finds none at all.

    `warn` is called with a line about every damaged file that is passed over.
    """
    if which not in ("latest", "best") and not which.isdigit():
        raise CheckpointError(f"--start-iter must be latest, best or a step, not '{which}'")
    steps = list_steps(run)
    if not steps and which == "latest":
        warn(f"no checkpoint in '{run}' yet: starting fresh")
        return None
    if not steps:
        raise CheckpointError(f"'{run}' has no checkpoint to continue from, so none called '{which}'")
    if which == "latest":
        for step in reversed(steps):
            try:
                return load_state(state_path(run, step))
            except CheckpointError as error:
                warn(f"{error}; trying the one before it")
        raise CheckpointError(f"none of the {len(steps)} checkpoints in '{run}' can be read")
    if which == "best":
        newest = find_state(run, "latest", warn)
        which = str(newest.record["best_step"]) if newest else "0"
        if which == "0":
            raise CheckpointError(f"the run in '{run}' was never evaluated, so it has no best checkpoint")
    if int(which) not in steps:
        raise CheckpointError(f"'{run}' has no checkpoint of step {which}; it has {', '.join(map(str, steps))}")
    return load_state(state_path(run, int(which)))


def drop_after(run: Path, step: int) -> None:
    """Delete states and weights of later steps: a run that resumes from `step` writes its own."""
    for folder, ending in (("states", "npz"), ("weights", "pdparams")):
        for found, path in files_by_step(run / folder, ending).items():
            if found > step:
                delete(path)


def prune(run: Path, keep: int, best_step: int) -> None:
    """Delete all states but the last `keep` and the best."""
    for step in list_steps(run)[:-keep]:
        if step != best_step:
            delete(state_path(run, step))


def is_better(miou: float, best: float) -> bool:
    """Whether a score beats the best so far; NaN never does."""
    return not math.isnan(miou) and (math.isnan(best) or miou > best)


# What a record may hold. What is not listed as needed is absent in older states.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "step": (int,), "arrays": (list,), "config": (str,), "format": (int,), "paddle": (str,),
    "best_step": (int,), "best_miou": (float, int, type(None)), "skipped": (int,), "pending": (bool,),
    "quarantined": (dict,), "scaler": (dict,),
}  # fmt: skip
_NEEDED = ("step", "arrays", "config", "format")


def _check_record(record: object) -> None:
    if not isinstance(record, dict):
        raise ValueError("its record is no mapping")
    for name, types in _TYPES.items():
        if name not in record and name not in _NEEDED:
            continue
        if not isinstance(record.get(name), types):
            raise ValueError(f"its record has {record.get(name)!r} for '{name}'")


def _read_array(data: bytes) -> np.ndarray:
    array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"it holds an array of type '{array.dtype}'")
    return array

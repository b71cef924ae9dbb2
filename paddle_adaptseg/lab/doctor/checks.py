"""What the doctor looks at, in order. Each check is a function of what it is given, and returns what it found."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from paddle_adaptseg.core.errors import Stopped

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
PACKAGE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Finding:
    """A verdict, one line that says why, and numbers for doctor.json."""

    verdict: str
    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Given:
    """What every check is given."""

    folder: Path  # on the disk where runs are written; emptied afterwards
    device: str
    deadline: float  # of time.monotonic()
    found: dict[str, Finding] = field(default_factory=dict)  # by the checks before it

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("gpu")

    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()


@dataclass(frozen=True)
class Check:
    """A name, the function, and the seconds below which it is not begun."""

    name: str
    run: Callable[[Given], Finding]
    needs: float = 0.0

    def find(self, given: Given) -> Finding:
        """Run it. Whatever goes wrong inside is a finding, as it would be a failure of a training."""
        if given.seconds_left() < self.needs:
            return Finding(SKIPPED, f"no time was left for it ({self.needs:.0f} s)")
        began = time.monotonic()
        try:
            found = self.run(given)
        except Stopped:  # the user asked the doctor to end, not this check
            raise
        except Exception as error:
            found = Finding(FAILED, " ".join(f"{type(error).__name__}: {error}".split())[:400])
        return Finding(found.verdict, found.text, {**found.numbers, "seconds": round(time.monotonic() - began, 1)})


def judge(fine: bool, text: str, fault: str, **numbers: Any) -> Finding:
    """`text`, and `fault` after it where the check failed."""
    return Finding(OK if fine else FAILED, text if fine else f"{text}: {fault}", numbers)


def all_checks() -> Sequence[Check]:
    """Cheap ones first; figures of speed last, as far as time is left."""
    from paddle_adaptseg.lab.doctor import machine, runs, speed

    return (
        Check("machine", machine.describe),
        Check("disk", machine.disk),
        Check("shared memory", machine.shared_memory),
        Check("VisualDL", machine.visualdl),
        Check("deterministic", runs.deterministic, 15),
        Check("resume", runs.resumed, 10),
        Check("precision", runs.precision, 15),
        Check("parity", runs.parity, 20),
        Check("two processes", runs.two_processes, 25),
        Check("recipes", speed.recipes, 25),
        Check("loader", speed.loader, 10),
    )

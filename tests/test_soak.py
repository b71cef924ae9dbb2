"""Minutes, not seconds: loaders and whole runs do not grow. Run with `make test-slow`."""

from __future__ import annotations

import os
import shutil
from itertools import chain, repeat
from pathlib import Path

import pytest

from paddle_adaptseg.config.loading import override
from paddle_adaptseg.data import TrainData
from paddle_adaptseg.training.run import _Run, fit

BATCHES, WARM = 2000, 300
STEPS, WARM_STEPS = 3000, 600


def memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_loaders_at_once_do_not_grow_over_2000_batches(tiny, workers):
    config = tiny("toy/adaptsegnet_multi", f"data.workers={workers}", "schedule.horizon=5000",
                  f"schedule.stop={BATCHES}")  # fmt: skip
    one = TrainData(config, True).batches(0)
    other = chain.from_iterable(TrainData(override(config, "run.seed=1"), True).batches(0) for _ in repeat(0))
    readings = [reading() for number, _ in enumerate(zip(one, other)) if number in (WARM, BATCHES - 1)]
    assert_steady(f"{workers} workers", *readings)


@pytest.mark.slow
def test_a_run_of_3000_steps_with_evaluations_and_checkpoints_does_not_grow(tiny, monkeypatch):
    readings = {}
    evaluate_and_save = _Run.evaluate_and_save

    def noting(self):
        evaluate_and_save(self)
        if self.state.step in (WARM_STEPS, STEPS):
            readings[self.state.step] = reading()

    monkeypatch.setattr(_Run, "evaluate_and_save", noting)
    fit(tiny("toy/adaptsegnet_multi", "data.workers=1", "data.batch_size=1", "method.ramp.start=1", "run.log_every=10",
             f"schedule.horizon={STEPS}", f"schedule.stop={STEPS}", "run.eval_every=100",
             "run.save_every=100"))  # fmt: skip
    assert_steady("a run", *readings.values())


def reading() -> tuple[int, int, int]:
    """Resident bytes, bytes in shared memory, open files."""
    return memory(), shutil.disk_usage("/dev/shm").used, len(list(Path("/proc/self/fd").iterdir()))


def assert_steady(name: str, before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    print(f"{name}: {before[0] / 2**20:.1f} -> {after[0] / 2**20:.1f} MB, files {before[2]} -> {after[2]}")
    assert after[0] < 1.03 * before[0]
    assert after[1] <= before[1] + 2**20 and after[2] <= before[2] + 2

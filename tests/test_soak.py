"""Minutes, not seconds: loaders do not grow. Run with `make test-slow`."""

from __future__ import annotations

import os
import shutil
from itertools import chain, repeat
from pathlib import Path

import pytest

from paddle_adaptseg.configfile import override
from paddle_adaptseg.data import TrainData

BATCHES, WARM = 2000, 300


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
    readings = []
    for number, _ in enumerate(zip(one, other)):
        if number in (WARM, BATCHES - 1):
            readings.append((memory(), shutil.disk_usage("/dev/shm").used, len(list(Path("/proc/self/fd").iterdir()))))
    (before, shm_before, files_before), (after, shm_after, files_after) = readings
    print(f"{workers} workers: {before / 2**20:.1f} -> {after / 2**20:.1f} MB")
    assert after < 1.03 * before
    assert shm_after <= shm_before + 2**20 and files_after <= files_before + 2

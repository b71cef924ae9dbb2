"""SIGKILL at any moment: the continued run has the weights, the log and the curves of one that was never killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from conftest import wait_until
from test_resume import assert_same_run

KILLED = -signal.SIGKILL


def assert_continues(trainer, tmp_path, straight, **more):
    again = trainer(resume=True, **more).wait()
    assert again.code == 0, again.text
    assert_same_run(straight[0], tmp_path / "run", 6)
    assert not list((tmp_path / "run").rglob("*.tmp")) and not (tmp_path / "run/lock.json").exists()


@pytest.mark.parametrize("moment", [("inside a state", 90), ("evaluate", 2), ("inside a log line", 30)], ids=str)
def test_a_run_killed_at_a_moment_continues_exactly(trainer, tmp_path, straight, moment):
    assert trainer("run", (*moment, "kill")).wait().code == KILLED
    assert_continues(trainer, tmp_path, straight)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(27))
def test_a_run_killed_at_a_planted_random_moment_continues_exactly(trainer, tmp_path, straight, seed):
    moments = sorted(straight[1])
    name = moments[seed % len(moments)]  # three of each kind
    at = random.Random(seed).randint(1, straight[1][name])
    assert trainer("run", (name, at, "kill")).wait().code == KILLED, (name, at)
    assert_continues(trainer, tmp_path, straight)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_at_a_random_time_continues_exactly(trainer, tmp_path, straight, seed, workers):
    options = (f"data.workers={workers}",)
    training = trainer("run", options=options)
    training.wait_for("step 1/6")
    time.sleep(random.Random(seed).uniform(0, 0.35))
    with contextlib.suppress(ProcessLookupError):  # a quick machine may be through by then
        os.kill(training.pid, signal.SIGKILL)
    assert training.wait().code in (KILLED, 0)
    assert_continues(trainer, tmp_path, straight, options=options)


def test_loader_workers_die_with_a_killed_parent_and_leave_nothing_in_shared_memory(trainer, straight):
    training = trainer("run", options=("data.workers=2", "schedule.horizon=9000", "schedule.stop=9000"))
    training.wait_for("step 2/9000")
    workers = children(training.pid)
    assert len(workers) == 2
    os.kill(training.pid, signal.SIGKILL)
    assert training.wait().code == KILLED
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the end of all workers")
    assert not [p for pid in workers for p in Path("/dev/shm").glob(f"paddle_{pid}_*")]


def children(parent: int) -> list[str]:
    return Path(f"/proc/{parent}/task/{parent}/children").read_text().split()

"""A loader worker that dies or hangs is an error within a time limit, never a hang."""

from __future__ import annotations

import errno
import os

import pytest
from conftest import LIMIT
from test_resume import assert_same_run

from paddle_adaptseg.core.errors import StorageError
from paddle_adaptseg.data import loader as loading
from paddle_adaptseg.training.run import fit

FOREVER = ("schedule.horizon=9000", "schedule.stop=9000", "run.eval_every=0")


@pytest.mark.parametrize(
    ("fault", "seconds", "message"),
    [
        ("kill workers", LIMIT, "a loader worker died (was it killed for want of memory?): lower data.workers"),
        ("freeze workers", 8, "the loader's workers brought no batch within 8 s (data.timeout)"),
    ],
)
def test_workers_that_die_or_hang_are_an_error_in_time(trainer, tmp_path, straight, fault, seconds, message):
    options = ("data.workers=2", f"data.timeout={seconds}", *FOREVER)
    training = trainer("run", ("optimise", 7, fault), options=options).wait()
    assert message in training.error
    assert "the last good checkpoint is" in training.error
    back = ("schedule.horizon=8", "schedule.stop=6", "run.eval_every=3", "data.workers=0")
    assert "schedule.horizon" in trainer(resume=True, options=back).wait().error  # another schedule is another run


@pytest.mark.parametrize("fault", ["kill workers", "freeze workers"])
def test_the_run_goes_on_exactly_after_its_workers_died(trainer, tmp_path, straight, fault):
    options = ("data.workers=1", "data.timeout=8")
    training = trainer("run", ("optimise", 1, fault), options=options).wait()
    assert training.code in (0, 2), training.text  # the batches that lie ready may be enough for so short a run
    assert trainer(resume=True).wait().code == 0
    assert_same_run(straight[0], tmp_path / "run", 6)


def test_workers_of_an_evaluation_are_watched_too(trainer):
    options = ("data.workers=2", "data.timeout=8")
    assert trainer("run", ("evaluate", 1, "freeze workers"), options=options).wait().code in (0, 2)


def test_workers_without_semaphores_are_refused_in_one_line(tiny, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(loading.multiprocessing, "Semaphore", refuse)
    with pytest.raises(StorageError, match=r"semaphores in .*\(Read-only file system\).*or use data.workers=0"):
        fit(tiny("toy/source_only", "data.workers=1"))
    assert fit(tiny("toy/source_only", "data.workers=0", "schedule.stop=1")).step == 1

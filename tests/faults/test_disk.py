"""A full disk is one clear line; checkpoints written before stay valid; after space is made the run goes on exactly."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from test_resume import assert_same_run

from paddle_adaptseg.checkpoint import list_steps, load_state, state_path

# What is being written when no file may grow any more: a moment, its number, the limit, and the file that is named.
FULL = {
    "first checkpoint": ("weights saved, state not", 1, 20_000, "states/step_00000002.npz", []),
    "second checkpoint": ("weights saved, state not", 2, 20_000, "states/step_00000003.npz", [2]),
    "log": ("inside a log line", 60, 0, "run/", None),
}


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_stops_with_one_line_and_the_run_goes_on_after_space_is_made(trainer, tmp_path, straight, name):
    moment, at, limit, named, left = FULL[name]
    training = trainer("run", (moment, at, "limit", *([limit] if limit else []))).wait()
    assert "cannot write" in training.error and named in training.error and "File too large" in training.error
    assert " MB free on its disk); make space" in training.error
    steps = list_steps(tmp_path / "run")
    assert left is None or steps == left
    for step in steps:
        assert load_state(state_path(tmp_path / "run", step)).step == step
    assert (f"step_{steps[-1]:08d}.npz; continue with" if steps else "no checkpoint was written yet") in training.error
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert trainer(resume=True).wait().code == 0
    assert_same_run(straight[0], tmp_path / "run", 6)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting a small disk needs root; the tests with a file size limit cover the same paths")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full_does_the_same(trainer, tmp_path, straight, small_disk):
    training = trainer("disk/run").wait()
    assert "No space left on device (0 MB free on its disk)" in training.error
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert trainer("disk/run", resume=True).wait().code == 0
    assert_same_run(straight[0], small_disk / "run", 6)


def test_predictions_that_do_not_fit_are_one_line_too(straight, small_disk):
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - 4096))
    done = subprocess.run(
        [sys.executable, ROOT / "tools/eval.py", "--restore-from", straight[0], "--step", "latest",
         "--save", small_disk / "out"],
        capture_output=True, text=True, check=False)  # fmt: skip
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert line.startswith(f"error: cannot write '{small_disk}/out/toyville_") and "No space left on device" in line


def test_a_folder_that_may_not_be_written_is_one_line(trainer, tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    assert f"cannot write '{tmp_path}/run/lock.json': " in trainer().wait().error

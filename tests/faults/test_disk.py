"""A full disk is one clear line; checkpoints written before stay valid; after space is made the run resumes exactly."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from PIL import Image
from test_resume import assert_same_run

from paddle_adaptseg.core.errors import StorageError
from paddle_adaptseg.core.labels import CITYSCAPES_19
from paddle_adaptseg.deploy.predict import predict_files
from paddle_adaptseg.training.checkpoint import list_steps, load_state, state_path

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


def test_predictions_that_do_not_fit_are_one_line_too(command, straight, small_disk):
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - 4096))
    line = command("eval", "--restore-from", straight[0], "--step", "latest", "--save", small_disk / "out").error
    assert line.startswith(f"error: cannot write '{small_disk}/out/toyville_") and "No space left on device" in line
    for path in (small_disk / "out").iterdir():
        with Image.open(path) as image:
            image.load()  # what is there is whole


def into(tool, folder, run, toy_root):
    """Arguments of a tool that writes into a folder."""
    image = next((toy_root / "Cityscapes/leftImg8bit/val").rglob("*.png"))
    return {
        "predict": ["--model", run, image, "--write", "side", "--output", folder],
        "export": ["--restore-from", run, "--output", folder],
        "prepare": ["--config", run / "config.yml", "--format", "raw", "-o", f"data.cache={folder}"],
        "eval": ["--restore-from", run, "--step", "latest", "--backend", "eager", "--report", folder],
    }[tool]


@pytest.mark.parametrize("tool", ["predict", "export", "prepare", "eval"])
def test_a_tool_that_cannot_write_its_results_says_so_in_one_line(command, straight, tmp_path, toy_root, tool):
    full = command(tool, *into(tool, tmp_path / "full", straight[0], toy_root), limit=4096)
    assert "cannot write '" in full.error and "File too large" in full.error and "make space" in full.error
    (tmp_path / "file").write_text("a file where the folder should be")
    wrong = command(tool, *into(tool, tmp_path / "file/out", straight[0], toy_root))
    assert f"'{tmp_path}/file" in wrong.error and "Not a directory" in wrong.error
    named = command(tool, *into(tool, tmp_path / ("n" * 256), straight[0], toy_root))
    assert "n" * 256 in named.error and "File name too long" in named.error and "choose a shorter name" in named.error


@pytest.mark.parametrize("arguments", [("eval", "--restore-from"), ("train", "--config"), ("check_dataset", "gta5")])
def test_an_input_with_a_name_that_is_too_long_is_one_line(command, arguments):
    assert "n" * 256 in command(*arguments, "n" * 256).error


class Blank:
    """A network that calls everything road."""

    space = CITYSCAPES_19
    ready = contextlib.nullcontext

    def labels(self, image):
        return np.zeros(image.shape[:2], np.uint8)


def test_a_video_that_does_not_fit_is_an_error_although_opencv_says_nothing(tmp_path):
    rng, video = np.random.default_rng(0), tmp_path / "drive.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 5, (64, 48))
    for _ in range(4):
        writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    predict_files(Blank(), [str(video)], tmp_path / "whole", [])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(StorageError, match="cannot write '.*drive_side.mp4': File too large"):
            predict_files(Blank(), [str(video)], tmp_path / "cut", [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "whole/drive_side.mp4").stat().st_size > 2000


def test_a_folder_that_may_not_be_written_is_one_line(trainer, tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    assert f"cannot write '{tmp_path}/run/lock.json': " in trainer().wait().error

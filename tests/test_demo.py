"""Trainings side by side, and the demo's tables and figure."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, tiny_overrides
from PIL import Image

from paddle_adaptseg.config.loading import SHIPPED, load_config
from paddle_adaptseg.core.errors import TrainingError
from paddle_adaptseg.core.labels import CITYSCAPES_19
from paddle_adaptseg.evaluation.metrics import ConfusionMatrix
from paddle_adaptseg.lab import demo
from paddle_adaptseg.lab.launch import Job, run_jobs


def job(root, folder, *more):
    path = ROOT / "configs/toy/source_only.yml"
    overrides = [*tiny_overrides(root, folder), *more]
    return Job(("--config", str(path), "-o", *overrides), load_config(path, overrides))


def test_jobs_train_side_by_side_and_the_figure_shows_them(toy_root, tmp_path, monkeypatch):
    jobs = {name: job(toy_root, tmp_path / name, f"run.seed={i}") for i, name in enumerate(demo.METHODS)}
    run_jobs(list(jobs.values()), parallel=2)
    assert all(one.done_steps() == 6 and (one.folder / "console.log").read_text() for one in jobs.values())
    demo.figure(jobs, tmp_path / "demo.png")
    with Image.open(tmp_path / "demo.png") as sheet:
        assert sheet.size[0] == 5 * (2 * 96 + 4) + 4
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 100
    demo.animation(jobs, demo.Comparison(0, {name: matrix(7) for name in demo.METHODS}), tmp_path / "demo.gif")
    with Image.open(tmp_path / "demo.gif") as frames:
        assert frames.n_frames == len(demo.METHODS) + 1 and frames.info["loop"] == 0
        first = np.asarray(frames.convert("RGB"))
        frames.seek(frames.n_frames - 1)
        last = np.asarray(frames.convert("RGB"))
    half = first.shape[1] // 2 - 4
    assert (first[:, :half] == last[:, :half]).all() and (first != last).any(), "the images stay, the labels change"
    shown = {tuple(colour) for colour in last[-70:].reshape(-1, 3)}
    assert len(shown & set(CITYSCAPES_19.colours)) == len(CITYSCAPES_19), "the legend has the colour of every class"


def test_a_failing_job_is_reported_with_its_last_line(toy_root, tmp_path):
    good = job(toy_root, tmp_path / "good", "schedule.stop=5")
    bad = Job(("--config", "absent.yml"), job(toy_root, tmp_path / "bad").config)
    with pytest.raises(TrainingError, match="bad' ended with code 2: error: config file 'absent.yml' does not exist"):
        run_jobs([bad, good], parallel=1)
    assert not (tmp_path / "good" / "console.log").exists()


def test_a_job_that_ends_with_its_time_budget_is_not_taken_for_finished(toy_root, tmp_path):
    with pytest.raises(TrainingError, match=r"ended at step 1 with its time budget \(run.max_hours\)"):
        run_jobs([job(toy_root, tmp_path / "run", "run.max_hours=1e-9")], parallel=1)


def matrix(right):
    made = ConfusionMatrix(19)
    made.update(np.zeros((1, 10), int), np.array([[0] * right + [1] * (10 - right)]))
    return made


def test_the_tables_show_scores_and_their_difference():
    rights = {"source-only": 2, "adapted": 7, "self-training": 8}
    comparison = demo.Comparison(3, {name: matrix(right) for name, right in rights.items()})
    config = load_config(ROOT / "configs/toy/source_only.yml")
    lines = demo.class_table(comparison, config).splitlines()
    assert lines[1].split() == ["road", "20.00", "70.00", "+50.00", "80.00", "+60.00"]
    assert lines[-1].split() == ["mIoU", "20.00", "70.00", "+50.00", "80.00", "+60.00"]
    assert len(lines) == len(CITYSCAPES_19) + 2
    assert demo.seeds_table([comparison, comparison]).splitlines()[2:] == [
        "| 3 | 20.00 | 70.00 | +50.00 | 80.00 | +60.00 |",
        "| 3 | 20.00 | 70.00 | +50.00 | 80.00 | +60.00 |",
        "| mean | 20.00 | 70.00 | +50.00 | 80.00 | +60.00 |",
    ]
    line = "lift: source-only 20.00, adapted 70.00, +50.00 mIoU, self-training 80.00, +60.00 mIoU"
    assert demo.summary([comparison, comparison]) == line


def test_self_training_starts_from_the_adapted_network_of_its_seed_when_that_is_trained(monkeypatch):
    ran = []
    monkeypatch.setattr(demo, "write_toy_pair", lambda *_: None)
    monkeypatch.setattr(demo, "_score", lambda config: matrix(1))
    monkeypatch.setattr(demo, "run_jobs", lambda jobs, parallel: ran.append(jobs))
    comparisons, jobs = demo.compare([0, 2], False)
    assert [len(stage) for stage in ran] == [4, 2] and len(comparisons) == 2
    for seed, folder in ((0, "checkpoint/toy"), (2, "checkpoint/toy_seed2")):
        start = jobs[seed]["self-training"].config.run.restore_from
        assert start == f"{jobs[seed]['adapted'].folder}@latest" == f"{folder}/adaptsegnet_multi@latest"
        assert not jobs[seed]["adapted"].config.run.restore_from
    assert "self-training" in demo.steps(jobs[0]) and "more from the adapted network" in demo.steps(jobs[0])


def test_the_demos_configurations_are_found_in_an_installed_package_too(tmp_path, monkeypatch):
    shutil.copytree(SHIPPED, tmp_path / "configs")
    monkeypatch.setattr(demo, "SHIPPED", tmp_path / "configs")
    assert Path(demo._job("adaptsegnet_multi", 0, False).arguments[1]).parent == tmp_path / "configs/toy"

"""A sweep covers its grid, survives being killed, and says what came out in every form."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import LIMIT, ROOT, tiny_overrides, wait_until
from PIL import Image
from visualdl import LogReader

from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.lab.sweep import Setting, draw, parse_axis, sweep_trials

CONFIG = str(ROOT / "configs/toy/adaptsegnet_single.yml")


def test_axes_are_yaml_values_and_seed_is_short():
    assert parse_axis("seed=0,1").key == "run.seed" and parse_axis("seed=0,1").values == (0, 1)
    assert parse_axis("method.gan=ls,vanilla").values == ("ls", "vanilla")
    assert parse_axis("data.augment.scale=[1,1],[0.5,2]").values == ([1, 1], [0.5, 2])
    for text in ("method.gan", "=1,2", "a=", "run.output=x,y"):
        with pytest.raises(ConfigError, match="must have the form key.path=value,value"):
            parse_axis(text)
    with pytest.raises(ConfigError, match="names a value twice"):
        parse_axis("seed=1,1")


def test_every_point_of_the_grid_has_its_folder_and_configuration(tmp_path):
    axes = [parse_axis("method.weights.main=1e-3,0.03"), parse_axis("optim.discriminators.lr=0.001,0.002"),
            parse_axis("optim.segmenter.lr=0.1"), parse_axis("seed=0,1")]  # fmt: skip
    trials = sweep_trials(CONFIG, axes, tmp_path, ["schedule.stop=7"])
    assert len(trials) == len({trial.job.folder for trial in trials}) == 8
    assert len({trial.setting for trial in trials}) == 4
    last = trials[-1].job
    assert last.folder.name == "main=0.03_optim.discriminators.lr=0.002_optim.segmenter.lr=0.1_seed=1"
    assert (last.config.run.seed, last.config.optim["discriminators"].lr, last.config.schedule.stop) == (1, 0.002, 7)
    assert {float(t.job.config.method.params["weights"]["main"]) for t in trials} == {0.001, 0.03}
    with pytest.raises(ConfigError, match="unknown key 'schedule.stopp'"):
        sweep_trials(CONFIG, [parse_axis("schedule.stopp=1,2")], tmp_path, [])
    with pytest.raises(ConfigError, match="names a key twice"):
        sweep_trials(CONFIG, [parse_axis("seed=1"), parse_axis("run.seed=2")], tmp_path, [])


def settings(*keys):
    points = [(0.01, "ls"), (0.1, "ls"), (0.01, "vanilla"), (0.1, "vanilla")]
    values = [dict(zip(("method.weights.main", "method.gan", "x"), (*point, 1))) for point in points]
    chosen = [{key: value[key] for key in keys} for value in values]
    return [Setting(v, (30.0 + 5 * i, 32.0 + 5 * i)) for i, v in enumerate(chosen[: 2 if len(keys) == 1 else 4])]


@pytest.mark.parametrize(
    "keys", [("method.weights.main",), ("method.gan", "method.weights.main")], ids=["line", "heat"]
)
def test_one_key_is_a_line_and_two_are_a_heat_map(keys, tmp_path):
    (tmp_path / "c.png").write_bytes(draw(settings(*keys), "title"))
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size == (840, 504) and np.asarray(picture.convert("L")).std() > 10
    assert draw(settings("method.gan", "method.weights.main", "x"), "") is None


def test_scores_of_a_settings_seeds_stand_together():
    cells = settings("method.weights.main")[0].cells()
    assert cells == {"method.weights.main": "0.01", "seeds": "2", "mean": "31.0", "min": "30.0", "max": "32.0"}


def start(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="watches processes through /proc")
def test_a_killed_sweep_leaves_no_training_behind_and_goes_on(toy_root, tmp_path):
    options = [o for o in tiny_overrides(toy_root, tmp_path) if "output" not in o and "schedule" not in o]
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "tools/sweep.py"), "--config", CONFIG, "--output", str(out)]
    command += ["--set", "method.weights.main=0.01,0.1", "--set", "seed=3", "--parallel", "1", "-o", *options]
    command += ["method.ramp.start=0", "schedule.horizon=24", "schedule.stop=24", "run.save_every=4"]
    command += ["run.eval_every=24"]
    first, second = out / "main=0.01_seed=3", out / "main=0.1_seed=3"
    process = start(command)
    wait_until(lambda: (second / "states/step_00000004.npz").exists() or process.poll() is not None)
    trainings = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(trainings) == 1 and (first / "seconds").exists() and not (second / "seconds").exists()
    wait_until(lambda: not alive(trainings[0]))
    finished = (first / "seconds").stat().st_mtime_ns

    process = start(command)
    text, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, text
    assert (first / "seconds").stat().st_mtime_ns == finished, "what was finished is not trained again"
    assert "steps 0 to 24" not in (second / "console.log").read_text().rsplit("Paddle ", 1)[1]
    with (out / "results.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["method.weights.main"], row["run.seed"]) for row in rows] == [("0.01", "3"), ("0.1", "3")]
    assert "| 0.01 | 1 |" in (out / "table.md").read_text() and (out / "chart.png").stat().st_size > 5000
    reader = LogReader(file_path=str(out / "vdl/main=0.1_seed=3/vdlrecords.main=0.1_seed=3.log"))
    (record,) = reader.get_data("hyper_parameters", "hparam")
    names = {info.name for info in record.hparam.hparamInfos}
    assert names == {"method/weights/main", "run/seed"}, "VisualDL's table is empty under names with dots"
    (score,) = reader.get_data("scalar", "target/mIoU")
    assert score.value == pytest.approx(float(rows[1]["target_miou"]), rel=1e-5)

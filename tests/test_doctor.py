"""The doctor finds what is wrong with a machine. Faults are planted, because this one has none."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections import namedtuple
from types import SimpleNamespace

import doctor_figures
import numpy as np
import paddle
import pytest
from conftest import LIMIT, ROOT

from paddle_adaptseg.core.errors import ConfigError, Stopped
from paddle_adaptseg.data import loader
from paddle_adaptseg.lab import notebook
from paddle_adaptseg.lab.doctor import figures, machine, recipe, runs, speed
from paddle_adaptseg.lab.doctor.checks import FAILED, OK, SKIPPED, Check, Finding, Given, all_checks
from paddle_adaptseg.lab.doctor.report import examine
from paddle_adaptseg.training.optim import Player


@pytest.fixture
def given(tmp_path) -> Given:
    """A CPU and all the time that a test may take."""
    return Given(tmp_path, "cpu", time.monotonic() + LIMIT)


@pytest.fixture
def one_case(monkeypatch):
    """Parity of the quickest family only."""
    case = figures.load_figures()["source only"]
    monkeypatch.setattr(runs, "load_figures", lambda: {"source only": case})


# What is right.


def test_the_figures_are_those_of_the_originals_in_the_tests():
    assert figures.FIGURES.read_text() == doctor_figures.figures()


def test_losses_and_changes_are_the_originals(given, one_case):
    found = runs.parity(given)
    assert found.verdict == OK and "losses of 1 families within" in found.text


@pytest.mark.slow
@pytest.mark.parametrize("name", figures.load_figures())
def test_every_family_is_replayed_within_its_limits(name):
    loss, change = figures.replay(figures.load_figures()[name])
    assert loss <= runs.LOSS and change <= runs.CHANGE


def test_every_kind_of_method_has_a_case():
    kinds = {case["config"]["method"]["name"] for case in figures.load_figures().values()}
    assert kinds == {"source_only", "output_adversarial", "target_prior", "clan", "self_training"}


def test_a_sound_machine_repeats_and_resumes_its_runs(given):
    assert runs.deterministic(given).verdict == runs.resumed(given).verdict == OK


@pytest.mark.slow
def test_two_processes_equal_one(given):
    assert runs.two_processes(given).verdict == OK


def test_disk_curves_and_shared_memory_are_measured(given):
    for check in (machine.disk, machine.visualdl, machine.describe):
        found = check(given)
        assert found.verdict == OK and found.text and found.numbers


def test_a_recipe_is_measured_at_a_part_of_its_size():
    found = recipe.measure(str(ROOT / "configs/toy/adaptsegnet_multi.yml"), "cpu", 2, 1)
    assert found["seconds"] > 0 and found["peak"] > 1e8
    text = speed.sentence(
        "x", {"step": 2.0, "peak": 8e9, "size": [320, 180], "hours": 100.4, "steps": 9, "estimated": True}
    )
    assert text == "x 2.00 s a step and 8.0 GB at 320x180 (estimated for 16 times the pixels: 100 hours for 9 steps)"
    assert speed.sentence("x", {"does not fit": True}) == "x does not fit"


# What is wrong.


def slow_clock():
    """A clock by which everything takes ten seconds."""
    ticks = itertools.count(0, 10)
    return SimpleNamespace(perf_counter=lambda: next(ticks))


def test_a_kernel_that_computes_wrong_numbers_is_found(given, one_case, monkeypatch):
    real = paddle.nn.Conv2D.forward
    monkeypatch.setattr(paddle.nn.Conv2D, "forward", lambda layer, x: real(layer, x) * 1.01)
    found = runs.parity(given)
    assert found.verdict == FAILED and "source only: more than 0.001" in found.text


def test_a_loss_that_is_nan_is_as_wrong_as_can_be(given, monkeypatch):
    monkeypatch.setattr(runs, "replay", lambda case: (float("nan"), 0.0))
    assert runs.parity(given).verdict == FAILED


def test_kernels_that_do_not_repeat_themselves_are_found(given, monkeypatch):
    real = Player.step

    @paddle.no_grad()
    def step(player):
        real(player)
        noise = np.frombuffer(os.urandom(4), np.uint32)[0] * 1e-14
        tensor = player.parameters()[0]
        tensor.set_value(tensor + float(noise))

    monkeypatch.setattr(Player, "step", step)
    for check in (runs.deterministic, runs.resumed):
        found = check(given)
        assert found.verdict == FAILED and "differ" in found.text and found.numbers["different"] > 0


def test_a_full_shared_memory_is_found(given, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: usage(64 * 2**20, 63 * 2**20, 2**20))
    monkeypatch.setattr(loader, "SHARED", given.folder)
    found = machine.shared_memory(given)
    assert found.verdict == FAILED and found.text.startswith("1 MB free") and "--shm-size" in found.text


def test_a_slow_or_full_disk_is_found(given, monkeypatch):
    monkeypatch.setattr(machine, "time", slow_clock())
    found = machine.disk(given)
    assert found.verdict == FAILED and found.text.startswith("6 MB/s"), found


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(speed, "LARGE", (96, 48))
    monkeypatch.setattr(speed, "READ", 2)


def test_a_slow_loader_is_found(given, small_files, monkeypatch):
    monkeypatch.setattr(speed, "time", slow_clock())
    found = speed.loader(given)
    assert found.verdict == FAILED and "tools/prepare.py" in found.text, found


def test_a_loader_that_a_fast_gpu_would_wait_for_is_found(given, small_files):
    numbers = {"adaptsegnet_multi": {"images": 1, "steps": 3600, "hours": 1e-6}, "seconds": 3.0}
    given.found["recipes"] = Finding(OK, "", numbers)
    found = speed.loader(given)
    assert found.verdict == FAILED and "training waits for images" in found.text
    given.found["recipes"] = Finding(OK, "", {"adaptsegnet_multi": {"images": 1, "steps": 3600, "hours": 1e6}})
    assert speed.loader(given).verdict == OK


def test_a_recipe_that_fails_is_told_apart_from_one_that_does_not_fit(given, monkeypatch):
    def child(error, code=1):
        return lambda *args, **kwargs: subprocess.CompletedProcess(args, code, "", error)

    for error, expected in (("ResourceExhaustedError: \n\nOut of memory error on GPU 0", {"does not fit": True}),
                            ("KeyError: 'x'", {"failed": "KeyError: 'x'"})):  # fmt: skip
        monkeypatch.setattr(speed.subprocess, "run", child(error))
        assert speed.recipe(given, "source_only") == expected
    found = speed.recipes(given)
    assert found.verdict == FAILED and "adaptsegnet_multi" in found.text


# The page.


def raises(given):
    raise ValueError("no such\nkernel")


def test_the_page_names_what_failed_and_what_was_skipped(tmp_path, capfd):
    checks = [Check("fine", lambda given: Finding(OK, "a | b", {"x": np.float32(2)})), Check("broken", raises),
              Check("late", raises, needs=1e9)]  # fmt: skip
    report = examine(tmp_path, "cpu", checks=checks)
    assert report.failed == ["broken"] and report.findings["late"].verdict == SKIPPED
    assert report.verdict().startswith("failed: broken (1 of 3 checks are ok; skipped: late; ")
    assert "broken  FAILED   ValueError: no such kernel" in report.text()
    paths = report.write(tmp_path)
    assert json.loads(paths[0].read_text())["findings"]["fine"]["numbers"]["x"] == 2.0
    assert "| fine | ok | a / b |" in paths[1].read_text() == report._repr_markdown_()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["doctor.json", "doctor.md"], "nothing else is left"
    assert "3/3" in capfd.readouterr().err  # the bar
    with pytest.raises(ConfigError, match="there is no check 'brokn': did you mean 'broken'"):
        examine(tmp_path, "cpu", only=["brokn"], checks=checks)


def test_the_tool_ends_with_1_and_names_what_failed(tmp_path):
    tool = [sys.executable, str(ROOT / "tools/doctor.py"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    done = subprocess.run([*tool, "--only", "machine", "VisualDL"], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0 and "nothing failed (2 of 2 checks are ok" in done.stdout, done.stdout + done.stderr
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); import _cli; from pathlib import Path; "
    code += "import paddle_adaptseg.data.loader as l; l.SHARED = Path('/proc'); _cli.run('doctor')"
    command = [sys.executable, "-c", code, *tool[2:], "--only", "shared memory"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1 and "failed: shared memory (0 of 1" in done.stdout, done.stdout + done.stderr


def test_a_notebook_shows_the_page(tmp_path):
    report = notebook.doctor(tmp_path, only=["machine"])
    assert "| machine | ok |" in report._repr_markdown_() and (tmp_path / "doctor.md").is_file()


def test_names_of_checks_are_unique_and_none_is_begun_without_time():
    names = [check.name for check in all_checks()]
    assert len(set(names)) == len(names) == 11
    assert Check("late", raises, needs=5).find(Given(ROOT, "cpu", time.monotonic() + 1)).verdict == SKIPPED


def test_any_check_can_be_asked_for_alone(given):
    assert runs.resumed(given).verdict == OK


def test_the_user_can_end_all_checks_at_once():
    def stopped(given):
        raise Stopped("interrupted: step 2 is saved", 130)

    with pytest.raises(Stopped):
        Check("long", stopped).find(Given(ROOT, "cpu", time.monotonic() + LIMIT))


def test_a_folder_of_any_name_holds_the_runs(tmp_path):
    given = Given(tmp_path / "[a]: b #c", "cpu", time.monotonic() + LIMIT)
    assert runs.config_of(given, "x").run.output == str(given.folder / "x")

"""SIGTERM, Ctrl-C and a time budget end a run after its step, with a checkpoint and the command that goes on."""

from __future__ import annotations

import os
import shlex
import signal

import pytest
from test_resume import assert_same_run

from paddle_adaptseg.training.checkpoint import list_steps, load_state, state_path


@pytest.mark.parametrize(
    ("fault", "code", "moment", "step"),
    [
        (signal.SIGTERM, 143, ("optimise", 5), 3),  # the source's and the discriminators' players step by turns
        (signal.SIGINT, 130, ("optimise", 5), 3),
        (signal.SIGTERM, 143, ("evaluate", 2), 3),
        (signal.SIGINT, 130, ("inside a state", 90), 2),
        (signal.SIGTERM, 143, ("evaluate", 5), 6),
    ],
    ids=str,
)
def test_a_signal_ends_a_run_after_its_step_and_says_how_to_go_on(
    trainer, tmp_path, straight, fault, code, moment, step
):
    kind = {signal.SIGTERM: "terminate", signal.SIGINT: "ctrl-c"}[fault]
    training = trainer("run", (*moment, kind)).wait()
    assert training.code == code, training.text
    assert list_steps(tmp_path / "run")[-1] == step
    last = training.text.splitlines()[-1]
    assert last.startswith({143: "terminated (SIGTERM)", 130: "interrupted (Ctrl-C)"}[code])
    assert f"step {step} is saved; continue with: python tools/train.py --checkpoint-dir {tmp_path / 'run'} " in last
    assert "Traceback" not in training.text
    command = shlex.split(last.split("continue with: ")[1])[2:]
    assert command[2:] == ["--continue-train", "--start-iter", "latest"]
    again = trainer(exactly=command).wait()
    assert again.code == 0, again.text
    assert_same_run(straight[0], tmp_path / "run", 6)


def test_an_evaluation_that_was_broken_off_is_the_first_thing_the_continued_run_does(trainer, tmp_path):
    trainer("run", ("evaluate", 2, "terminate")).wait()
    assert load_state(state_path(tmp_path / "run", 3)).record["pending"]
    lines = trainer(resume=True).wait().text.splitlines()
    later = [line for line in lines if line.startswith("step ")]
    assert later[0].startswith("step 3  target mIoU") and later[1].startswith("step 4/6")


def test_a_second_ctrl_c_stops_at_once(trainer):
    training = trainer("run", ("optimise", 3, "ctrl-c"), ("optimise", 4, "ctrl-c")).wait()
    assert training.code == 130
    assert "Ctrl-C again stops at once" in training.text and training.text.splitlines()[-1] == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_a_terminal_reaches_the_whole_group_and_spoils_nothing(trainer, tmp_path, straight, number):
    pause = ("optimise", 5, "pause")  # in the third step
    training = trainer("run", ("optimise", 1, "own group"), pause, options=("data.workers=2",))
    training.wait_for_pause()
    os.killpg(training.pid, number)
    os.killpg(training.pid, signal.SIGCONT)
    training.wait()
    assert training.code == 128 + number, training.text
    assert "Traceback" not in training.text and "DataLoader" not in training.text
    assert trainer(resume=True).wait().code == 0
    assert_same_run(straight[0], tmp_path / "run", 6)


def test_a_time_budget_ends_a_run_with_exit_code_0_and_the_same_hint(trainer, tmp_path, straight):
    training = trainer(options=("run.max_hours=1e-9",)).wait()
    assert training.code == 0
    last = training.text.splitlines()[-1]
    assert last.startswith("the time budget of 1e-09 hours (run.max_hours) is used up: step 1 is saved; continue with:")
    assert trainer(resume=True, options=("run.max_hours=0.0",)).wait().code == 0
    assert_same_run(straight[0], tmp_path / "run", 6)

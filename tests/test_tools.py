"""The command line as a user meets it: what works works, what is wrong is one clear line and exit code 2."""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import LIMIT, tiny_overrides
from forked import tool
from PIL import Image

import paddle_adaptseg
from paddle_adaptseg.__main__ import COMMANDS
from paddle_adaptseg.data.toy import ToySpec, write_toy_pair
from paddle_adaptseg.lab.commands.arguments import add_override, folder_for, parse

ROOT = Path(__file__).resolve().parent.parent


def script(name, *arguments, cwd=ROOT):
    """A script of tools/ as users start it; one real start of each is enough, more of them are `tool` of forked.py."""
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=LIMIT, check=False)


@pytest.fixture(scope="module")
def trained(toy_root, tmp_path_factory):
    """A run made by the real command."""
    folder = tmp_path_factory.mktemp("run")
    by_flag = ("run.output", "run.save_every", "schedule.stop")
    options = [o for o in tiny_overrides(toy_root, folder) if not o.startswith(by_flag)]
    done = script("train", "--checkpoint-dir", folder, "--save-pred-every", 2, "--num-steps-stop", 4, "-o", *options)
    assert done.returncode == 0, done.stderr
    return folder, options, done


def test_training_without_a_configuration_trains_the_toy_pair(trained):
    folder, _, done = trained
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[1].startswith("output_adversarial on small, steps 0 to 4")
    assert lines[-2].startswith("done: step 4, target mIoU")
    made = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {"config.yml", "log.jsonl", "vdl/vdlrecords.run.log", "best.pdparams"} < made
    assert {"states/step_00000004.npz", "weights/step_00000002.pdparams"} < made


def test_training_continues_with_the_saved_configuration(trained):
    folder, _, _ = trained
    done = tool("train", "--checkpoint-dir", folder, "--continue-train", "--start-iter", "latest",
                "--num-steps-stop", 6)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "steps 4 to 6" in done.stdout


@pytest.mark.parametrize("as_folder", [True, False])
def test_evaluation_needs_only_weights_and_saves_what_the_originals_save(trained, tmp_path, as_folder):
    folder, _, _ = trained
    which = (folder, "--step", "best") if as_folder else (folder / "best.pdparams",)
    run = script if as_folder else tool
    done = run("eval", "--restore-from", *which, "--save", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("===> road:") and any(line.startswith("===> mIoU:") for line in lines)
    stem = "toyville_000001_000019_leftImg8bit"
    label, colour = (tmp_path / "out" / f"{stem}{tail}.png" for tail in ("", "_color"))
    with Image.open(label) as one, Image.open(colour) as other:
        ids = np.asarray(one)
        assert ids.shape == (48, 96) and ids.max() < 19
        assert other.mode == "P" and (np.asarray(other) == ids).all()
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_the_originals_flags_reach_their_keys(toy_root, tmp_path):
    options = [o for o in tiny_overrides(toy_root, tmp_path) if "run.output" not in o]
    done = tool("train", "--checkpoint-dir", tmp_path, "--lambda-seg", 0.2, "--lambda-adv-target1", "1e-3",
                "--lambda-adv-target2", 0.02, "--gan", "LS", "--num-steps", 7, "--num-steps-stop", 1, "--batch-size", 1,
                "-o", *[o for o in options if not o.startswith(("data.batch", "schedule"))])  # fmt: skip
    assert done.returncode == 0, done.stderr
    from paddle_adaptseg.config.loading import load_config

    config = load_config(tmp_path / "config.yml")
    method = config.method.params
    assert method["seg_weights"]["aux"] == 0.2 and method["gan"] == "LS"
    assert {k: float(v) for k, v in method["weights"].items()} == {"main": 0.02, "aux": 0.001}
    assert (config.schedule.horizon, config.schedule.stop, config.data.batch_size) == (7, 1, 1)


FOREIGN = "{tmp}/foreign.pdparams"
WRONG = {
    "unknown key": (["train", "-o", "schedule.stopp=1"], "unknown key 'schedule.stopp': did you mean 'stop'?"),
    "unknown parameter": (["train", "-o", "method.gann=ls"], "unknown key 'method.gann': did you mean 'gan'?"),
    "flag that would do nothing": (
        ["train", "--config", "configs/toy/source_only.yml", "--gan", "LS", "-o", "run.seed=1"],
        "unknown key 'method.gan'",
    ),
    "missing configuration": (["train", "--config", "absent.yml"], "config file 'absent.yml' does not exist"),
    "missing data": (
        ["train", "-o", "data.source.root=absent"],
        "data folder or archive 'absent' does not exist (for GTA5 (Playing for Data)); "
        "expected absent/images/{name}.png and absent/labels/{name}.png",
    ),
    "missing weights": (["eval", "--restore-from", "absent.pdparams"], "weights 'absent.pdparams' do not exist"),
    "foreign weights": (["eval", "--restore-from", FOREIGN], "it is a text file that begins with 'nothing of use'"),
    "start without continuing": (["train", "--start-iter", "best"], "together with --continue-train"),
    "absent device": (["train", "-o", "run.device=gpu"], "sees no GPU"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_input_is_answered_in_one_line_with_exit_code_2(kind, tmp_path, toy_root):
    (name, *arguments), message = WRONG[kind]
    (tmp_path / "foreign.pdparams").write_bytes(b"nothing of use")
    arguments = [a.replace("{tmp}", str(tmp_path)) for a in arguments]
    if "-o" in arguments:  # what is wrong comes last, so that it stands
        wrong = arguments.index("-o") + 1
        arguments[wrong:wrong] = [o for o in tiny_overrides(toy_root, tmp_path / "run") if "root" in o or "output" in o]
    done = tool(name, *arguments)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_weights_that_do_not_fit_are_listed(trained, tmp_path):
    folder, options, _ = trained
    new = ("--checkpoint-dir", tmp_path / "new", "--num-steps-stop", 4)
    done = tool("train", "--restore-from", folder, *new, "-o", *options, "model.width=16")
    assert done.returncode == 2
    assert "does not fit the model" in done.stderr and "of another shape: stem.0.weight" in done.stderr


def test_help_is_quick_and_loads_nothing_heavy():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = script("train", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and "--lambda-adv-target1" in done.stdout
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5
    )  # CPU time: 0.1 s; Paddle: 2 s more
    command = [sys.executable, "-X", "importtime", str(ROOT / "tools/train.py"), "--help"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    names = {line.rpartition("|")[2].strip().split(".")[0] for line in loaded.splitlines()}
    assert "argparse" in names and not names & {"paddle", "numpy", "cv2", "PIL", "matplotlib", "visualdl", "yaml"}


def test_make_toy_writes_once(tmp_path):
    arguments = ("--root", tmp_path, "--source", 2, "--target", 1, "--validation", 1)
    assert "written" in script("make_toy", *arguments).stdout
    assert "already there" in tool("make_toy", *arguments).stdout
    assert not write_toy_pair(tmp_path, ToySpec(source=2, target=1, validation=1))


def command(*arguments, cwd=ROOT):
    words = [sys.executable, "-m", "paddle_adaptseg", *map(str, arguments)]
    found = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=found, timeout=LIMIT, check=False)


def test_the_package_is_a_command_line_whose_commands_are_the_tools(tmp_path):
    page = command("--help", cwd=tmp_path)
    assert page.returncode == 0
    for name, (module, text) in COMMANDS.items():
        assert f"  {name} " in page.stdout and text in page.stdout
        assert (ROOT / "paddle_adaptseg/lab/commands" / f"{module}.py").is_file()
    scripts = {
        text for path in (ROOT / "tools").glob("*.py") for text in re.findall(r'run\("([\w-]+)"\)', path.read_text())
    }
    assert scripts == set(COMMANDS)
    assert command("--version").stdout == f"paddle-adaptseg {paddle_adaptseg.__version__}\n"
    wrong = command("trian")
    assert wrong.returncode == 2 and "did you mean 'train'?" in wrong.stderr


def test_the_projects_configurations_are_known_by_name_in_any_folder(tmp_path):
    done = command("train", "--config", "gta5_cityscapes/adaptsegnet_multi", "--dry-run", "-o",
                   "model.depths=[1,1,1,1]", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1 and "problems; nothing was trained or written" in done.stdout
    assert "WARNING: published results start from ImageNet weights" in done.stdout
    wrong = tool("train", "--config", "gta5_citscapes/dacs", "--dry-run", cwd=tmp_path)
    assert wrong.returncode == 2 and "did you mean 'gta5_cityscapes/dacs'" in wrong.stderr


def test_an_override_ends_where_the_next_argument_begins(monkeypatch):
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--flag", action="store_true")
    add_override(parser)
    for words in ("-o a=1 b=2 street.jpg --flag", "street.jpg --flag -o a=1 b=2", "--flag -o a=1 -o b=2 street.jpg"):
        found = parse(parser, words.split())
        assert (found.inputs, found.flag, found.override) == (["street.jpg"], True, ["a=1", "b=2"])
    assert parse(parser, ["x", "-o", "wrong"]).override == ["wrong"]  # and the configuration says what is wrong


def test_flags_of_the_originals_that_do_nothing_are_refused_with_what_does():
    for flag, text in (("--random-mirror", "data.augment.mirror=true"), ("--not-restore-last", "leave it out")):
        done = command("train", flag)
        assert done.returncode == 2 and text in done.stderr


def test_training_the_toy_pair_again_goes_to_a_new_folder(trained, tmp_path):
    _, options, _ = trained
    own = f"run.output={tmp_path / 'run'}"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yml").touch()
    done = tool("train", "-o", *options, own, "run.save_every=2", "schedule.stop=2")
    assert done.returncode == 0 and f"this one goes to {tmp_path / 'run_2'} (--continue-train" in done.stdout
    assert (tmp_path / "run_2/best.pdparams").is_file()


def test_own_weights_are_inspected_with_the_configuration_inside_them(trained):
    folder, _, _ = trained
    done = script("convert_weights", folder / "best.pdparams")
    assert done.returncode == 0, done.stderr
    assert "weights of this project" in done.stdout and "0 missing, 0 unused, 0 of another shape" in done.stdout


def test_a_folder_of_runs_is_answered_with_its_runs(trained, tmp_path):
    folder, _, _ = trained
    shutil.copytree(folder, tmp_path / "runs/first")
    done = tool("eval", "--restore-from", tmp_path / "runs", "--step", "latest")
    assert done.returncode == 2 and "it holds runs, name one: first" in done.stderr


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(trained, tmp_path):
    folder, options, _ = trained
    (tmp_path / "file").touch()
    done = tool("eval", "--restore-from", folder / "best.pdparams", "--report", tmp_path / "file" / "report")
    assert done.returncode == 2 and "cannot write" in done.stderr and "mIoU" not in done.stdout


def test_every_default_stands_in_the_help(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=20, help="images")
    parser.add_argument("--root", default="dataset/toy")
    parser.add_argument("--flag", action="store_true", help="a switch")
    with pytest.raises(SystemExit):
        parse(parser, ["--help"])
    shown = capsys.readouterr().out
    assert "images (default: 20)" in shown and "(default: dataset/toy)" in shown and "a switch\n" in shown


def test_results_go_into_a_runs_folder_whatever_its_name_or_beside_a_weights_file(tmp_path):
    run, file = tmp_path / "main=0.03_v1.5", tmp_path / "a@b.pdparams"
    run.mkdir()
    file.touch()
    assert folder_for(str(run), "x") == folder_for(f"{run}@latest", "x") == run / "x"
    assert folder_for(str(file), "x") == folder_for(f"{file}@teacher", "x") == tmp_path / "a@b/x"

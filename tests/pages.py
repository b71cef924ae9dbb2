"""Commands that pages show: how they are found, and how each kind is run, planned or passed over, with the reason.

Nothing is downloaded or trained: trainings are planned (`--dry-run`), comparisons stop before their first training,
everything else runs on the small toy pair in place of the real data.
"""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Callable

import cv2
import numpy as np
import pytest
from conftest import ROOT, draw_no_weights

from paddle_adaptseg.__main__ import usage
from paddle_adaptseg.config.loading import dump, load_config
from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import UserError
from paddle_adaptseg.data import label_space
from paddle_adaptseg.lab import compare as study
from paddle_adaptseg.lab import sweep
from paddle_adaptseg.models import build_model
from paddle_adaptseg.training import plan as training_plan
from paddle_adaptseg.training.memory import Estimate
from paddle_adaptseg.weights import arrays_of, save_weights

PAGES = sorted(
    {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md"), ROOT / "tests/parity/README.md"}
)
SHELL, OTHER = ("sh", "bash"), ("text", "python", "yaml", "json")
PROGRAMS = (
    "python",
    "make",
    "pip",
    "paddle-adaptseg",
    "jupyter",
    "visualdl",
    "git",
    "cd",
    "source",
    "ssh",
    "scp",
    "export",
    "docker",
    "pre-commit",
)
INLINE = ("python", "make", "pip", "paddle-adaptseg")  # programs whose calls inside a sentence are tried
SCRIPTS = {"convert": "convert_weights"}  # commands whose script in tools/ has another name
MODULES = {script: command for command, script in SCRIPTS.items()}
# What is not even planned, and why.
EXCEPTIONS = {
    "jupyter": "a server that runs until it is stopped",
    "visualdl": "a server that runs until it is stopped",
    "git": "needs a remote repository",
    "pre-commit": "a program of its own; tests/test_habits.py reads its configuration",
    "cd": "moves the shell, nothing else",
    "source": "changes the shell, nothing else",
    "export": "changes the shell, nothing else",
    "ssh": "needs another machine",
    "scp": "needs another machine",
}
# What a command may lack here: real data, weights of others.
ABSENT = (
    "does not exist",
    "do not exist",
    "is no run's folder",
    "no image has city",
    "name no image",
    "no images of",
    "No such file",
    "is neither a folder of images",
)
SHRINK = ("data.validation.size=[96,48]", "data.workers=0")


def fences(text: str) -> list[tuple[str, str]]:
    """Kind and content of every fenced block."""
    return re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", text, re.M | re.S)


def lines_of(block: str) -> list[str]:
    """Commands of a shell block: comments dropped, continued lines joined."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in block.replace("\\\n", " ").splitlines())
    return [" ".join(line.split()) for line in lines if line]


def commands(path: Path) -> list[str]:
    """Every command of a page, in shell blocks and as code within sentences."""
    text = path.read_text(encoding="utf-8")
    found = [line for kind, block in fences(text) if kind in SHELL for line in lines_of(block)]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    inline = (" ".join(code.split()) for code in re.findall(r"`([^`\n]+)`", prose))
    return found + [
        code for code in inline if code.split()[0] in ("python", "make", "pip", "paddle-adaptseg") and " " in code
    ]


def words_of(command: str) -> list[str]:
    """A command's words without variables before it and without Paddle's launcher, whose own flags stay untried."""
    braces = re.search(r"(\S*)\{([^{}\s]+,[^{}\s]+)\}(\S*)", command)
    if braces:
        before, choices, after = braces.groups()
        command = command.replace(braces[0], " ".join(before + choice + after for choice in choices.split(",")))
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[1:3] == ["-m", "paddle.distributed.launch"]:
        tool = next(i for i, word in enumerate(words) if word.startswith("tools/"))
        words = [words[0], *words[tool:]]
    if words[1:3] == ["-m", "paddle_adaptseg"]:
        words = ["paddle-adaptseg", *words[3:]]
    if words[0] == "paddle-adaptseg" and len(words) > 1 and not words[1].startswith("-"):
        words = ["python", f"tools/{SCRIPTS.get(words[1], words[1].replace('-', '_'))}.py", *words[2:]]
    return words


def check(command: str, world: Path, monkeypatch, capsys) -> None:
    """Run or plan one command in the world of the fixture `elsewhere`."""
    words = words_of(command)
    if words[0] in EXCEPTIONS:
        return
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return
    if words == ["paddle-adaptseg", "--help"]:
        assert "commands:" in usage()
        return
    if words[0] == "pip":
        assert words[1] == "install"
        files = [after for before, after in zip(words, words[1:]) if before == "-r"]
        assert all((ROOT / name).is_file() for name in files), files
        extras = {extra for word in words for extra in re.findall(r"^\.\[(\w+)\]$", word)}
        table = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
        known = set(re.findall(r"^(\w+) = \[", table.split("\n[")[0], re.M))
        assert extras <= known, extras
        return
    if words in (["paddle-adaptseg"], ["python", "-m", "paddle_adaptseg"]) or words[1].startswith("benchmarks/"):
        assert len(words) == 1 or words[1] == "-m" or (ROOT / words[1]).is_file(), words[1]
        return
    assert words[0] == "python" and words[1].startswith("tools/"), f"no rule says how to try '{words[0]}'"
    tool = Path(words[1]).stem
    for word in words:
        assert not word.startswith("configs/") or (ROOT / word).is_file(), f"{word} does not exist"
    try:
        HOW.get(tool, run)(tool, words[2:], world, monkeypatch, capsys)
    except UserError as error:
        assert any(absent in str(error) for absent in ABSENT), error


def call(monkeypatch, tool: str, arguments: list[str], *more: str):
    """Run a tool in this process, with more overrides."""
    if more:
        arguments = [*arguments, *([] if "-o" in arguments else ["-o"]), *more]
    monkeypatch.setattr("sys.argv", [tool, *arguments])
    try:
        return importlib.import_module(f"paddle_adaptseg.lab.commands.{MODULES.get(tool, tool)}").main()
    except SystemExit as stop:
        pytest.fail(f"{tool} {' '.join(arguments)}: the parser refuses it (exit code {stop.code})")


def leave_memory_uncounted(monkeypatch) -> None:
    """Counting it would be most of the time of a plan; tests/test_memory.py and tests/test_plan.py count it."""
    monkeypatch.setattr(training_plan, "estimate", lambda state, config: Estimate(10**9, 10**8, 10**7))


def plan(tool, arguments, world, monkeypatch, capsys) -> None:
    """`--dry-run`: what is absent here is listed, anything else is a failure."""
    leave_memory_uncounted(monkeypatch)
    draw_no_weights(monkeypatch)
    place = arguments.index("-o") if "-o" in arguments else len(arguments)
    dry = [] if "--dry-run" in arguments else ["--dry-run"]
    code = call(monkeypatch, tool, [*arguments[:place], *dry, *arguments[place:]], *config_of(arguments))
    out = capsys.readouterr().out
    problems = [text for text in out.splitlines() if text.startswith("PROBLEM ")]
    assert code == bool(problems)
    assert all(any(words in text for words in ABSENT) for text in problems), problems
    assert "steps: " in out and "method: " in out


def shallow(name: str) -> list[str]:
    """Overrides that make a configuration's network small enough to be built in a moment."""
    if {"toy", "vgg16", "mobilenetv2"} & set(re.split(r"[/_.]", name)):
        return []
    model, where = load_config(name).model, "model"
    parts = model.params
    if "network" in parts:
        parts, where = parts["network"], "model.network"
    backbone = parts.get("backbone", {}).get("name", "")
    if model.name.startswith(("small", "paddleseg", "deeplabv3plus_mobile", "deeplabv2_vgg")):
        return []
    return {"mit": [f"{where}.backbone.depths=[1,1,1,1]"], "din": [f"{where}.backbone.depth=1"]}.get(
        backbone[:3], [f"{where}.depths=[1,1,1,1]"]
    )


def config_of(words: list[str]) -> list[str]:
    """shallow() of the configuration that a command names."""
    return shallow(words[words.index("--config") + 1]) if "--config" in words else []


def stop_before_training(tool, arguments, world, monkeypatch, capsys) -> None:
    """Everything is planned, and the first training is refused."""

    def stop(planned, *rest):
        assert planned
        raise UserError("the rest does not exist")

    monkeypatch.setattr(study, "run_study", stop)
    monkeypatch.setattr(sweep, "run_sweep", stop)
    call(monkeypatch, tool, arguments)
    pytest.fail("nothing was planned")


def run(tool, arguments, world, monkeypatch, capsys) -> None:
    """Run it, with the small network's weights wherever it reads some, and small inputs wherever it reads images."""
    if tool == "export" and "onnx" in arguments:
        pytest.importorskip("paddle2onnx", reason="the extra 'deploy' is not installed")
    line = " ".join([tool, *arguments])
    for flag in ("--restore-from", "--model", "--baseline"):
        if flag in arguments:
            paths = arguments[arguments.index(flag) + 1 :]
            end = next((i for i, word in enumerate(paths) if word.startswith("-")), len(paths))
            for path in paths[: end if flag == "--restore-from" else 1]:
                prepare(Path(path), line, world / "made")
    for word in arguments:
        make_input(Path(word[len("plugins=[") : -1] if word.startswith("plugins=[") else word))
    own = (*config_of(arguments), *(SHRINK if "--config" in arguments else ()))
    quick = (
        ["--backend", "eager"] if tool == "eval" and "--backend" not in arguments else []
    )  # no program for each size
    draw_no_weights(monkeypatch)  # those of networks are read
    code = call(monkeypatch, tool, [*quick, *arguments], *own)
    assert code in (0, None) or any(absent in capsys.readouterr().out for absent in ABSENT)


def doctor_of_one_check(tool, arguments, world, monkeypatch, capsys) -> None:
    """The whole takes three minutes, and on a busy machine it may end before every check: tests/test_doctor.py."""
    assert call(monkeypatch, tool, arguments if "--only" in arguments else ["--only", "disk", *arguments]) in (0, 1)
    assert "written: " in capsys.readouterr().out


def toy_of_few_scenes(tool, arguments, world, monkeypatch, capsys) -> None:
    """In a folder of its own: the toy pair of the other tests stays as it is."""
    few = [word for part in ("source", "target", "validation") for word in (f"--{part}", "1")]
    assert call(monkeypatch, tool, [*arguments, "--root", str(world / "few"), *few]) == 0
    assert "written" in capsys.readouterr().out


HOW: dict[str, Callable] = {
    "make_toy": toy_of_few_scenes,
    "doctor": doctor_of_one_check,
    "train": plan,
    "compare": stop_before_training,
    "sweep": stop_before_training,
}


def make_input(path: Path) -> None:
    """An image, a short video or a plugin, when a command names one."""
    image = np.full((96, 192, 3), 90, np.uint8)
    if path.suffix in (".jpg", ".png") and not path.exists():
        cv2.imwrite(str(path), image)
    elif path.suffix == ".mp4":
        video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5, (192, 96))
        for _ in range(2):
            video.write(image)
        video.release()
    elif path.suffix == ".py":
        path.touch()


def prepare(path: Path, line: str, made: Path) -> None:
    """Weights where a line reads them: of the made run, or of the line's configuration, made small."""
    folder, _, which = str(path).partition("@")
    if which or not path.suffix:
        if Path(folder) != made and not Path(folder, "log.jsonl").exists() and folder != "exported":
            shutil.copytree(made, folder, dirs_exist_ok=True)
            (Path(folder) / "weights").mkdir(exist_ok=True)
            shutil.copy(made / "best.pdparams", Path(folder) / "weights/step_00100000.pdparams")
        return
    words = shlex.split(line)
    if "--config" not in words:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / "best.pdparams", path)
        return
    overrides = [*(words[words.index("-o") + 1 :] if "-o" in words else []), *config_of(words)]
    config = load_config(words[words.index("--config") + 1], overrides)
    with runtime.fresh_names():
        model = build_model(config.model, len(label_space(config)))
    save_weights(path, arrays_of(model), dump(config))

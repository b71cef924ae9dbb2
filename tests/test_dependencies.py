"""Dependencies: the lowest versions that ranges allow are those that `make test-min` installs; nothing calls out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, tiny_overrides

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it along

RANGE = re.compile(r"^([A-Za-z][\w-]*)>=([\d.]+),<([\d.]+)", re.M)
PIN = re.compile(r"^([A-Za-z][\w-]*)==([\d.]+)", re.M)
FILES = ("requirements.txt", "requirements-cpu.txt", "requirements-gpu.txt")
UNBOUNDED = ("-r requirements.txt", "numpy<", "paddle_adaptseg[", "torch==")  # torch: newer ones bring CUDA along
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def wanted(name: str) -> list[str]:
    """What a requirements file or an extra asks for."""
    lines = EXTRAS[name] if name in EXTRAS else (line.split("#")[0].strip() for line in read(name).splitlines())
    return [line for line in lines if line]


def test_the_root_holds_one_requirements_file_and_one_for_each_build_of_paddle():
    assert {path.name for path in ROOT.glob("requirements*")} == set(FILES)
    assert set(EXTRAS) == {"dev", "test", "reference", "deploy", "paddleseg", "docs"}


@pytest.mark.parametrize("name", [*FILES, *EXTRAS])
def test_every_dependency_has_a_lower_and_an_upper_bound(name):
    for line in wanted(name):
        assert RANGE.match(line) or line.startswith(UNBOUNDED), line


@pytest.mark.parametrize("name", ["requirements.txt", *EXTRAS])
def test_only_the_files_of_its_builds_name_paddle(name):
    assert not [line for line in wanted(name) if line.startswith("paddlepaddle")]


def test_the_lowest_versions_are_the_lower_bounds():
    names = ("requirements.txt", "requirements-cpu.txt", "dev", "test", "deploy")
    lower = {name: low for source in names for name, low, _ in RANGE.findall("\n".join(wanted(source)))}
    pinned = dict(PIN.findall(read("tests/constraints-min.txt")))
    assert set(pinned) == set(lower)
    for name, version in pinned.items():
        assert version == lower[name] or version.startswith(f"{lower[name]}."), name


PRETENDER = """#!/bin/sh
# Stands for Python: makes an "environment" of itself and writes down what pip would install.
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip "*) echo "$*" >> "$INSTALLED"; [ ! -e "$INSTALLED.fails" ] ;;
esac
"""


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """tools/setup_env.sh in a folder of its own with a pretended Python; a call gives the new lines for pip."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tests").mkdir()
    for name in (*FILES, "pyproject.toml", "tools/setup_env.sh", "tests/constraints-paddle26.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    python, log = tmp_path / "python", tmp_path / "installed"
    python.write_text(PRETENDER)
    python.chmod(0o755)
    monkeypatch.setenv("PYTHON", str(python))
    monkeypatch.setenv("INSTALLED", str(log))

    def run(*arguments: str, code: int = 0) -> list[str]:
        log.write_text("")
        done = subprocess.run([tmp_path / "tools/setup_env.sh", ".venv", *arguments], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return [line for line in log.read_text().splitlines() if "--upgrade pip" not in line]

    return run


def test_an_environment_is_installed_once_for_each_extra(setup):
    (base,), (tests,) = setup(), setup("test")
    assert "-e .[dev]" in base and "-e .[test]" in tests and "-r requirements-" in base
    assert setup() == setup("test") == []


def test_an_environment_is_installed_anew_after_a_change(setup, tmp_path):
    setup(), setup("test")
    (tmp_path / "requirements.txt").write_text("numpy>=1.25,<3\n")
    assert len(setup()) == 1 and setup() == []
    assert len(setup("test")) == 1 and setup("test") == []


def test_an_environment_whose_installation_failed_is_tried_again(setup, tmp_path):
    (tmp_path / "installed.fails").touch()
    setup(code=1)
    (tmp_path / "installed.fails").unlink()
    assert len(setup()) == 1 and setup() == []


def test_constraints_hold_back_versions_and_take_the_cpu_build(setup):
    (line,) = setup("test", "tests/constraints-paddle26.txt")
    assert line.endswith("-r requirements-cpu.txt -e .[test] -c tests/constraints-paddle26.txt")


WATCH = """
import json, os, sys

CALLS = ("socket.connect", "socket.bind", "socket.getaddrinfo")

def hook(event, arguments):
    if event == "socket.__new__" and arguments[1] != 1 or event in CALLS:  # 1: AF_UNIX
        if not (arguments and isinstance(arguments[-1], str) and arguments[-1].startswith("/")):
            with open(os.environ["SOCKETS"], "a") as out:
                out.write(json.dumps([event, repr(arguments), sys.argv]) + "\\n")

sys.addaudithook(hook)
with open(os.environ["SOCKETS"], "a") as out:
    out.write(json.dumps(["watching", "", sys.argv]) + "\\n")
"""


def watched(tmp_path: Path, *command: object) -> list[list[str]]:
    """Run a command with every Python in it watched; what it did with sockets other than local ones."""
    (tmp_path / "watch").mkdir(exist_ok=True)
    (tmp_path / "watch/sitecustomize.py").write_text(WATCH)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "watch"), "SOCKETS": str(tmp_path / "sockets")}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "sockets").read_text().splitlines()]
    assert events[0][0] == "watching"
    return [event for event in events if event[0] != "watching"]


def test_the_watch_sees_a_connection(tmp_path):
    code = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    assert {event[0] for event in watched(tmp_path, "-c", code)} == {"socket.__new__", "socket.connect"}


def test_imports_loader_workers_and_trainings_side_by_side_open_no_connection(tmp_path, toy_root):
    others = ("run.output", "data.workers")
    options = [*(o for o in tiny_overrides(toy_root, "unused") if not o.startswith(others)), "data.workers=1"]
    config = ROOT / "configs/toy/source_only.yml"
    arguments = ("tools/compare.py", config, "--output", tmp_path / "study", "--seeds", "0", "-o", *options)
    assert watched(tmp_path, *arguments) == []
    commands = {Path(json.loads(line)[2][0]).name for line in (tmp_path / "sockets").read_text().splitlines()}
    assert {"compare.py", "-m"} <= commands  # the trainings are `python -m paddle_adaptseg train`


def test_images_are_read_in_a_process_that_imports_paddle_first(toy_root):
    path = next((toy_root / "GTA5/labels").iterdir())
    code = (
        "import sys; from paddle_adaptseg import runtime; runtime.import_paddle()\n"
        "from paddle_adaptseg.data import decode, files\n"
        "decode.decode_ids(files.Ref(sys.argv[1], sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(path.parent), path.name]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0

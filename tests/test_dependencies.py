"""Dependencies: the lowest versions that ranges allow are those that `make test-min` installs; nothing calls out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, tiny_overrides

RANGE = re.compile(r"^([A-Za-z][\w-]*)>=([\d.]+),<([\d.]+)", re.M)
PIN = re.compile(r"^([A-Za-z][\w-]*)==([\d.]+)", re.M)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_dependency_has_a_lower_and_an_upper_bound():
    for name in ("requirements.txt", "requirements-cpu.txt", "requirements-gpu.txt", "requirements-dev.txt"):
        for line in read(name).splitlines():
            wanted = line.split("#")[0].strip()
            bounded = RANGE.match(wanted) or wanted.startswith(("-r ", "numpy<"))
            assert not wanted or bounded, f"{name}: {line}"


def test_the_lowest_versions_are_the_lower_bounds():
    files = ("requirements.txt", "requirements-cpu.txt", "requirements-dev.txt", "requirements-test.txt")
    lower = {name: low for file in files for name, low, _ in RANGE.findall(read(file))}
    pinned = dict(PIN.findall(read("requirements-min.txt")))
    assert set(pinned) == set(lower)
    for name, version in pinned.items():
        assert version == lower[name] or version.startswith(f"{lower[name]}."), name


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


def test_importing_and_training_open_no_connection(tmp_path, toy_root):
    options = [o for o in tiny_overrides(toy_root, tmp_path / "run") if "workers" not in o]
    assert watched(tmp_path, "tools/train.py", "-o", *options, "data.workers=1", "schedule.stop=3") == []


def test_trainings_side_by_side_as_in_the_demo_open_no_connection(tmp_path, toy_root):
    options = [o for o in tiny_overrides(toy_root, "unused") if not o.startswith("run.output")]
    config = ROOT / "configs/toy/source_only.yml"
    arguments = ("tools/compare.py", config, "--output", tmp_path / "study", "--seeds", "0", "-o", *options)
    assert watched(tmp_path, *arguments) == []
    commands = {Path(json.loads(line)[2][0]).name for line in (tmp_path / "sockets").read_text().splitlines()}
    assert {"compare.py", "train.py"} <= commands


def test_pictures_are_read_in_a_process_that_imports_paddle_first(toy_root):
    path = next((toy_root / "GTA5/labels").iterdir())
    code = (
        "import sys; from paddle_adaptseg import runtime; runtime.import_paddle()\n"
        "from paddle_adaptseg.data import decode, stores\n"
        "decode.decode_ids(stores.Ref(sys.argv[1], sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(path.parent), path.name]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0

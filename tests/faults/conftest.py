"""Real processes to plant faults in: `trainer(...)` runs tools/train.py with a fault, `command(...)` any tool."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import forked
import pytest
from conftest import LIMIT, tiny_overrides, wait_until
from forked import Driver


@dataclass
class Training:
    """One run of a tool."""

    driver: Driver
    pid: int
    output: Path
    code: int | None = None

    def wait(self, seconds: float = LIMIT) -> Training:
        self.code = self.driver.answer(seconds)
        return self

    def wait_for(self, text: str) -> None:
        """Wait until the training has printed something."""
        wait_until(lambda: self.output.exists() and text in self.text, f"'{text}' in {self.output}")

    def wait_for_pause(self) -> None:
        """Wait until the training has stopped itself, as the fault "pause" makes it do."""
        stat = Path(f"/proc/{self.pid}/stat")
        wait_until(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T", f"pause of {self.pid}")

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def error(self) -> str:
        """The one line that says what went wrong."""
        assert self.code == 2 and "Traceback" not in self.text, self.text
        (line,) = (line for line in self.text.splitlines() if line.startswith("error: "))
        return line


@pytest.fixture
def driver():
    yield forked.driver()
    forked.driver().stop()


@pytest.fixture
def trainer(driver, toy_root, tmp_path):
    """trainer(folder, *faults, resume=False, options=()) starts a training of six steps."""
    started = []

    def start(folder="run", *faults, resume=False, options=(), exactly=None) -> Training:
        output = tmp_path / f"output_{len(started)}.txt"
        settings = [o for o in tiny_overrides(toy_root, tmp_path / folder) if not o.startswith("run.output")]
        arguments = ["--checkpoint-dir", str(tmp_path / folder), "-o", *settings, "method.ramp.start=1", *options]
        if resume:
            arguments[:0] = ["--continue-train", "--start-iter", "latest"]
        order = {"arguments": exactly or arguments, "faults": faults, "output": str(output), "count": None}
        started.append(Training(driver, driver.ask(order), output))
        return started[-1]

    return start


@pytest.fixture
def command(driver, tmp_path):
    """command(tool, *arguments, limit=bytes) runs a tool to its end; no file may become larger than limit."""

    names = (tmp_path / f"output_of_command_{number}.txt" for number in itertools.count())

    def run(tool, *arguments, limit=0) -> Training:
        output = next(names)
        order = {"tool": tool, "arguments": list(map(str, arguments)), "faults": [], "output": str(output),
                 "count": None, "limit": limit}  # fmt: skip
        return Training(driver, driver.ask(order), output).wait()

    return run


@pytest.fixture(scope="session")
def straight(toy_root, tmp_path_factory):
    """The folder of the run that nothing ever interrupted, and how often each moment came."""
    folder = tmp_path_factory.mktemp("straight")
    arguments = ["-o", *tiny_overrides(toy_root, folder / "run"), "method.ramp.start=1"]
    order = {"arguments": arguments, "faults": [], "output": str(folder / "out"), "count": str(folder / "count")}
    driver = forked.driver()
    training = Training(driver, driver.ask(order), folder / "out").wait()
    assert training.code == 0, training.text
    return folder / "run", json.loads((folder / "count").read_text())

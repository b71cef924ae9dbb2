"""Where the time of a step goes: `run.profile=20` writes Paddle's timeline of 20 steps and a table of their stages.

Stages are marked with runtime.stage("name"). They may lie within each other; each has its own time only.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import paddle
from paddle import profiler
from tqdm import tqdm

from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core import distributed
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.core.runtime import PROFILES, stage
from paddle_adaptseg.methods.base import Method

WARM_UP = 2  # steps before the first that is profiled
NETWORKS = ("labels", "forward", "backward", "optimiser", "after the step")
COLOURS, LOGGING = "colours", "logging, evaluation, saving"
STAGES = (*NETWORKS, "loader wait", COLOURS, "checks", LOGGING)  # those beyond the networks last


class Profile:
    """Seconds of every stage of some steps, and Paddle's timeline of them."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.left, self.began = folder, steps, 0.0
        self.steps: list[dict[str, float]] = []
        self.own: dict[str, float] = {}
        self.inner: list[float] = []  # seconds of the stages within each open one
        self.timeline: Any = None

    def start(self) -> None:
        """Begin with the next step."""
        gpu = paddle.get_device().startswith("gpu")
        targets = [profiler.ProfilerTarget.CPU, *([profiler.ProfilerTarget.GPU] if gpu else [])]
        self.timeline = profiler.Profiler(
            targets=targets, on_trace_ready=profiler.export_chrome_tracing(str(self.folder))
        )
        self.timeline.start()
        self.began = time.perf_counter()
        PROFILES.append(self)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a stage, once a GPU has finished what was asked of it."""
        began = self._now()
        self.inner.append(0.0)
        try:
            with profiler.RecordEvent(name):
                yield
        finally:
            spent = self._now() - began
            self.own[name] = self.own.get(name, 0.0) + spent - self.inner.pop()
            if self.inner:
                self.inner[-1] += spent

    def step(self) -> None:
        """A step is finished."""
        now = self._now()
        self.steps.append({**self.own, "all": now - self.began})
        self.own, self.began, self.left = {}, now, self.left - 1
        self.timeline.step()

    def finish(self) -> str:
        """End the profile; returns the table."""
        PROFILES.remove(self)
        self.timeline.stop()
        text = table(self.steps)
        write_atomically(self.folder / "stages.md", lambda handle: handle.write(text.encode()))
        return f"{text}\nin {self.folder}: stages.md, and a timeline for chrome://tracing or ui.perfetto.dev"

    @staticmethod
    def _now() -> float:
        if paddle.get_device().startswith("gpu"):
            paddle.device.synchronize()
        return time.perf_counter()


def table(steps: list[dict[str, float]]) -> str:
    """Median seconds of every stage, its share of a step, and what all but the networks take."""
    names = list(dict.fromkeys(name for step in steps for name in step if name != "all"))
    whole = statistics.median(step["all"] for step in steps)
    rows = {name: statistics.median(step.get(name, 0.0) for step in steps) for name in names}
    rows["else"] = statistics.median(step["all"] - sum(step.get(name, 0.0) for name in names) for step in steps)
    beyond = sum(seconds for name, seconds in rows.items() if name not in NETWORKS)
    lines = [f"| {name} | {seconds:.4f} | {100 * seconds / whole:.1f} % |" for name, seconds in rows.items()]
    head = [f"{len(steps)} steps, medians; beyond the networks {100 * beyond / whole:.1f} % of a step", ""]
    return "\n".join([*head, "| stage | seconds | of a step |", "|---|---|---|", *lines, f"| step | {whole:.4f} | |"])


def profiled(after: Callable[[Any], None], method: Method, config: Config, first: int) -> Callable[[Any], None]:
    """What is called after every step, and takes the profile that `run.profile` asks for; rank 0's alone."""
    count = config.run.profile
    if not count or not distributed.is_rank_zero():
        return after
    profile = Profile(Path(config.run.output) / "profile", count)
    mark_colours(method)
    done = [0]  # steps of this session

    def then(report: Any) -> None:
        last = first + done[0] + 1 >= config.schedule.stop
        try:
            with stage(LOGGING):
                after(report)
        finally:
            done[0] += 1
            if profile in PROFILES:
                profile.step()
                if not profile.left or last or sys.exc_info()[0]:
                    tqdm.write(profile.finish(), file=sys.stdout)
            elif done[0] == WARM_UP and not last:
                profile.start()

    return then


def mark_colours(method: Method) -> None:
    """Time what the random changes of colours take on the device."""
    for part in method.parts():
        choices: Any = getattr(part, "choices", None)
        if hasattr(choices, "coloured"):
            choices.coloured = stage(COLOURS)(choices.coloured)

"""What both of our own peers share: the trainer's own step, with the seconds of its phases. Paddle starts here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from common import Step, Stopwatch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from paddle_adaptseg.core import runtime  # noqa: E402

runtime.import_paddle()

import paddle  # noqa: E402

from paddle_adaptseg.config.schema import Config  # noqa: E402
from paddle_adaptseg.cpu import accelerate  # noqa: E402
from paddle_adaptseg.data.batch import Batch  # noqa: E402
from paddle_adaptseg.methods.base import Clock  # noqa: E402
from paddle_adaptseg.training.run import build_state  # noqa: E402
from paddle_adaptseg.training.step import TrainState, train_step  # noqa: E402

ACCELERATED = contextlib.ExitStack()  # kept, or the session would end with the line that opens it


def start(config: Config, accelerated: bool = True) -> TrainState:
    """A state as a run has it."""
    state = build_state(config)
    runtime.keep_freed_memory()
    if accelerated:
        ACCELERATED.enter_context(accelerate(state.method))
    return state


def timed_step(state: TrainState, config: Config, phases: Sequence[str], first: str = "") -> tuple[Step, dict]:
    """The trainer's step, and what it runs on. A phase is a group of terms; `first` is what comes before them."""
    plain = state.method.all_losses

    def step(number: int, arrays: tuple) -> tuple[dict[str, float], dict[str, float]]:
        watch = Stopwatch()

        def timed(batch, clock):
            if first:
                watch.lap(first)
            for phase, terms in zip(phases, plain(batch, clock)):
                yield terms
                watch.lap(phase)

        state.method.all_losses = timed
        source_image, label, target_image = map(paddle.to_tensor, arrays)
        batches = iter([Batch(source_image, label, target_image)])
        report = train_step(state, Clock(number, config.schedule.horizon), config.schedule, batches)
        watch.lap("update")
        return report.losses, watch.seconds

    name = f"paddle_adaptseg on Paddle {paddle.__version__}, {runtime.cpu_count()} threads"
    return step, {"name": name, "environment": runtime.environment()}

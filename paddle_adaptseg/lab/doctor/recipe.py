"""A few steps of a configuration on random images, in a process of its own: seconds and peak memory, as JSON.

`python -m paddle_adaptseg.lab.doctor.recipe CONFIG DEVICE SHRINK STEPS`
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time

import paddle

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core import runtime
from paddle_adaptseg.methods.base import Clock
from paddle_adaptseg.training import run
from paddle_adaptseg.training.memory import random_batch, sizes_of
from paddle_adaptseg.training.start import build_state
from paddle_adaptseg.training.step import train_step


def sizes(config: Config, shrink: int) -> list[tuple[int, int]]:
    """Width and height of both domains' images as the network sees them, 1/shrink of them on each side."""
    return [(width // shrink, height // shrink) for width, height in sizes_of(config)]


def measure(path: str, device: str, shrink: int, steps: int) -> dict[str, float]:
    """Seconds of the fastest step but the first, and the peak memory in bytes."""
    config = load_config(path, [f"run.device={device}", "run.restore_from="])
    runtime.set_device(device)
    runtime.set_cudnn(False, None)
    runtime.keep_freed_memory()
    state, seconds = build_state(config), list[float]()
    given = itertools.repeat(random_batch(state, config, sizes(config, shrink)))
    with run.accelerate(state.method):
        for number in range(steps + 1):
            clock, began = Clock(number + config.schedule.horizon // 2, config.schedule.horizon), time.perf_counter()
            train_step(state, clock, config.schedule, given)  # reads the losses, so it ends when the device has ended
            seconds.append(time.perf_counter() - began)
    return {"seconds": min(seconds[1:]), "peak": float(peak(device))}


def peak(device: str) -> int:
    """The most memory that the steps took, in bytes."""
    if device.startswith("gpu"):
        return paddle.device.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))

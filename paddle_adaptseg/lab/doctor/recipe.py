"""A few steps of a configuration on random images, in a process of its own: seconds and peak memory, as JSON.

`python -m paddle_adaptseg.lab.doctor.recipe CONFIG DEVICE SHRINK STEPS`
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator

import numpy as np
import paddle

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.config.schema import Config, Domain
from paddle_adaptseg.core import runtime
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods.base import Clock
from paddle_adaptseg.training import run
from paddle_adaptseg.training.start import build_state
from paddle_adaptseg.training.step import train_step


def sizes(config: Config, shrink: int) -> dict[str, tuple[int, int]]:
    """Height and width of both domains' images as the network sees them, 1/shrink of them on each side."""
    source = next(iter(config.data.all_sources().values()), config.data.target)
    domains: dict[str, Domain] = {"source": source, "target": config.data.target}
    seen = {name: config.data.augment.crop or domain.size for name, domain in domains.items()}
    return {name: (height // shrink, width // shrink) for name, (width, height) in seen.items()}


def batches(config: Config, shrink: int) -> Iterator[Batch]:
    """Random images of the configuration's sizes and numbers."""
    rng, count, found = np.random.default_rng(0), config.data.batch_size, sizes(config, shrink)
    images = [rng.standard_normal((count, 3, *found[d])).astype(np.float32) * 50 for d in ("source", "target")]
    label = rng.integers(0, len(label_space(config).names), (count, *found["source"])).astype(np.int64)
    batch = Batch(*map(paddle.to_tensor, (images[0], label, images[1])))
    while True:
        yield batch


def measure(path: str, device: str, shrink: int, steps: int) -> dict[str, float]:
    """Seconds of the fastest step but the first, and the peak memory in bytes."""
    config = load_config(path, [f"run.device={device}", "run.restore_from="])
    runtime.set_device(device)
    runtime.set_cudnn(False, None)
    runtime.keep_freed_memory()
    state, given, seconds = build_state(config), batches(config, shrink), []
    with run.accelerate(state.method):
        for number in range(steps + 1):
            clock, began = Clock(number + config.schedule.horizon // 2, config.schedule.horizon), time.perf_counter()
            train_step(state, clock, config.schedule, given)  # reads the losses, so it ends when the device has ended
            seconds.append(time.perf_counter() - began)
    gpu = device.startswith("gpu")
    peak = (
        paddle.device.cuda.max_memory_reserved() if gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    return {"seconds": min(seconds[1:]), "peak": float(peak)}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))

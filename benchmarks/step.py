#!/usr/bin/env python3
"""Seconds of a training step of any configuration on a CPU: as it runs, and with Paddle's own operations in its place.

python benchmarks/step.py configs/toy/adaptsegnet_multi.yml [more.yml ...] [--size 192x96] [--steps 8] [key=value ...]
Both ways take turns in one process, from the same weights, on noise of the given size; the best of each is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from paddle_adaptseg.core import runtime  # noqa: E402

runtime.import_paddle()

import paddle  # noqa: E402

from paddle_adaptseg.config.loading import load_config  # noqa: E402
from paddle_adaptseg.cpu import accelerate  # noqa: E402
from paddle_adaptseg.data.batch import Batch  # noqa: E402
from paddle_adaptseg.methods.base import Clock  # noqa: E402
from paddle_adaptseg.training.run import build_state  # noqa: E402
from paddle_adaptseg.training.step import train_step  # noqa: E402


def noise(count: int, size: tuple[int, int], seed: int) -> Batch:
    """Pictures of noise, small enough that random weights do not run away, and labels in blocks."""
    random, (width, height) = np.random.RandomState(seed), size
    images = [random.uniform(-1, 1, (count, 3, height, width)).astype(np.float32) for _ in range(2)]
    label = random.randint(0, 5, (count, -(-height // 8), -(-width // 8))).repeat(8, 1).repeat(8, 2)
    return Batch(*map(paddle.to_tensor, (images[0], label[:, :height, :width], images[1])))


def measure(path: str, size: tuple[int, int], steps: int, changes: list[str]) -> tuple[float, float]:
    """Best seconds of a step: ours, Paddle's own operations."""
    config = load_config(path, changes)
    state, best = build_state(config), [float("inf"), float("inf")]
    runtime.keep_freed_memory()
    begin = config.schedule.stop // 2  # what ramps up is up
    for number in range(steps + 1):
        for way, context in enumerate((accelerate(state.method), contextlib.nullcontext())):
            batch = noise(config.data.batch_size, size, number)
            with context:
                began = time.perf_counter()
                train_step(state, Clock(begin, config.schedule.horizon), config.schedule, iter([batch] * 99))
                if number:
                    best[way] = min(best[way], time.perf_counter() - began)
    return best[0], best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="+", help="configurations, then key=value")
    parser.add_argument("--size", default="192x96")
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    print(f"{runtime.environment()}; {args.size}")
    print("| configuration | ours | Paddle's own operations | ratio |\n|---|---|---|---|")
    changes = [a for a in args.arguments if "=" in a]
    for path in (a for a in args.arguments if "=" not in a):
        ours, plain = measure(path, (width, height), args.steps, changes)
        print(f"| {Path(path).stem} | {ours:.3f} s | {plain:.3f} s | {plain / ours:.2f}x |", flush=True)


if __name__ == "__main__":
    main()

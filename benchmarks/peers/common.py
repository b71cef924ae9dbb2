"""What every peer of the training benchmark shares: weights and batches by rule, phases, and its talk with the parent.

A peer is a process that reads a line and answers with one line of JSON for one training step. numpy only: the peers
differ in everything else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import numpy as np

CLASSES, DEPTHS, DILATIONS = 19, (3, 4, 23, 3), (6, 12)
PHASES = ("source", "target", "discriminators", "update")
SEG_WEIGHTS, ADV_WEIGHTS = {"main": 1.0, "aux": 0.1}, {"main": 0.001, "aux": 0.0002}
RATE, DISCRIMINATOR_RATE, HORIZON, POWER = 2.5e-4, 1e-4, 250_000, 0.9


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The initial value of a parameter: kernels have a stream of their own, named after them.

    Blocks add little to their shortcuts, as in a trained network: rounding then stays small from step to step.
    """
    if len(shape) < 4:
        normalises = name.endswith("weight")
        return np.full(shape, (0.2 if "bn3" in name else 1.0) if normalises else 0.0, np.float32)
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    scale = 0.01 if "heads" in name else np.sqrt(2.0 / np.prod(shape[1:]))
    return normal * np.float32(scale)


def batch(step: int, source: tuple[int, int], target: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source image, labels with ignored pixels, target image; sizes are (height, width)."""
    rng = np.random.RandomState(step)
    images = [rng.uniform(-110, 140, (1, 3, *size)).astype(np.float32) for size in (source, target)]
    label = rng.randint(0, CLASSES, (1, source[0] // 8, source[1] // 8)).repeat(8, 1).repeat(8, 2).astype(np.int64)
    label[:, : source[0] // 8] = 255
    return images[0], label, images[1]


def size(text: str) -> tuple[int, int]:
    """'640x360' as (height, width)."""
    width, height = text.split("x")
    return int(height), int(width)


class Stopwatch:
    """Seconds of each phase of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.began = time.perf_counter()

    def lap(self, phase: str) -> None:
        """The time since the last lap belongs to `phase`."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.began
        self.began = now


Step = Callable[[int, tuple], tuple[dict[str, float], dict[str, float]]]  # (number, batch) -> losses, seconds


def serve(
    build: Callable[[tuple[int, int], tuple[int, int]], tuple[Step, dict]], multiply: Callable[[], float]
) -> None:
    """Build, then answer 'step' and 'limit' lines until the input ends; what libraries print goes to stderr."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=size, required=True)
    parser.add_argument("--target", type=size, required=True)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    step, about = build(args.source, args.target)
    print(json.dumps(about), file=answers)
    for number, line in enumerate(sys.stdin):
        if line.strip() == "limit":
            print(json.dumps({"gflops": multiply()}), file=answers)
            continue
        arrays = batch(number, args.source, args.target)
        losses, seconds = step(number, arrays)
        print(json.dumps({"losses": losses, "seconds": seconds, "peak": peak_bytes()}), file=answers)


def best_rate(multiply: Callable[[], object], size: int) -> float:
    """GFLOP/s of the fastest of some square matrix products."""
    times = []
    for _ in range(8):
        began = time.perf_counter()
        multiply()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times) / 1e9


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the training benchmark reads peak memory from /proc, which this system lacks")


def blocks() -> Iterator[tuple[int, int, int, int, int]]:
    """(stage, width, stride, dilation, depth) of the dilated ResNet's stages."""
    yield from zip((1, 2, 3, 4), (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4), DEPTHS)

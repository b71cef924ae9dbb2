"""What the peers of the transformer benchmark share: cases, weights and batches by rule, and the talk with the parent.

numpy only: the peers differ in everything else. Random changes of colours, dropout and drop path are off, because two
libraries draw other numbers; everything else of the papers' steps is there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from common import Stopwatch, best_rate, peak_bytes

__all__ = ["CASES", "Case", "Stopwatch", "batch", "best_rate", "class_ranks", "kept_tokens", "serve", "weights"]

CLASSES, PHASES = 19, ("labels", "source", "mixed", "masked", "update")
DECAY, THRESHOLD, RATIO, FD_WEIGHT, FD_RATIO = 0.999, 0.968, 0.7, 0.005, 0.75
MARGINS = (15, 120)  # rows of the target in which DAFormer learns nothing from pseudo-labels: top, bottom
THINGS = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)
HORIZON = 40_000


@dataclass(frozen=True)
class Case:
    """A step to measure: the paper's method, its network and its learning rate."""

    method: str
    backbone: str
    config: str
    learning_rate: float
    head_rate: float
    backbone_rate: float
    norm_decay: float


CASES: Mapping[str, Case] = {
    "daformer_b0": Case("daformer", "mit_b0", "gta5_cityscapes/daformer_mit_b0", 6e-5, 10.0, 1.0, 0.0),
    "daformer_b2": Case("daformer", "mit_b2", "gta5_cityscapes/daformer_mit_b2", 6e-5, 10.0, 1.0, 0.0),
    "daformer_b5": Case("daformer", "mit_b5", "gta5_cityscapes/daformer", 6e-5, 10.0, 1.0, 0.0),
    "vfm_uda_s": Case("vfm_uda", "dinov2_vits14", "gta5_cityscapes/vfm_uda_small", 5e-5, 1.0, 0.1, 1.0),
}


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The initial value of a parameter; a linear layer's is [inputs, outputs]."""
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 3 or "mask_token" in name:
        return normal * np.float32(0.02)
    fan_in = shape[0] if len(shape) == 2 or "upscale.0" in name or "upscale.3" in name else int(np.prod(shape[1:]))
    scale = 6.0 if "conv_seg" in name or "heads.main.out" in name else 1.0
    return normal * np.float32(scale / np.sqrt(fan_in))


def batch(step: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source image, its label with ignored pixels, target image: smooth noise."""
    rng = np.random.RandomState(step)
    coarse = rng.uniform(-2, 2, (2, 1, 3, size // 8, size // 8)).astype(np.float32)
    images = coarse.repeat(8, 3).repeat(8, 4) + rng.uniform(-0.3, 0.3, (2, 1, 3, size, size)).astype(np.float32)
    label = rng.randint(0, CLASSES, (1, size // 64, size // 64)).repeat(64, 1).repeat(64, 2).astype(np.int64)
    label[:, : size // 8] = 255
    return images[0], label, images[1]


def class_ranks(step: int) -> np.ndarray:
    """A random number for every label value; ClassMix pastes the smaller half."""
    return np.random.default_rng([0, 100, step]).random(256, np.float32)


def kept_tokens(step: int, grid: tuple[int, int]) -> np.ndarray:
    """Which tokens are not masked."""
    return np.random.default_rng([0, 101, 1, step]).random(grid) > RATIO


Step = Callable[[int, tuple], tuple[dict[str, float], dict[str, float]]]  # (number, batch) -> losses, seconds


def serve(build: Callable[[Case, int, str], tuple[Step, dict]]) -> None:
    """Build, then answer every line with one step, until the input ends; what libraries print goes to stderr."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--way", default="")
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    step, about = build(CASES[args.case], args.size, args.way)
    print(json.dumps(about), file=answers)
    for number, _ in enumerate(sys.stdin):
        used = os.times()
        losses, seconds = step(number, batch(number, args.size))
        now = os.times()
        cpu = now.user + now.system - used.user - used.system
        print(json.dumps({"losses": losses, "seconds": seconds, "cpu": cpu, "peak": peak_bytes()}), file=answers)

"""What the peers of the benchmark of steps share: cases, weights and batches by rule, and the talk with the parent.

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
from common import Stopwatch, peak_bytes

__all__ = ["CASES", "Case", "Stopwatch", "batch", "class_ranks", "detail_place", "kept_tokens", "serve", "weights"]

CLASSES, PHASES = 19, ("labels", "source", "mixed", "masked", "update")
DECAY, DACS_DECAY, THRESHOLD, RATIO, FD_WEIGHT, FD_RATIO = 0.999, 0.99, 0.968, 0.7, 0.005, 0.75
MARGINS = (15, 120)  # rows of the target in which DAFormer learns nothing from pseudo-labels: top, bottom
THINGS = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)
DETAIL_WEIGHTS = {"main": 0.9, "detail": 0.1}  # HRDA's levels


@dataclass(frozen=True)
class Case:
    """A step to measure: the paper's method, its network and its learning rate.

    `larger`: how much larger than the size asked for the images are; HRDA's detail crops have that size.
    """

    method: str
    backbone: str
    config: str
    learning_rate: float
    head_rate: float
    backbone_rate: float
    norm_decay: float
    horizon: int = 40_000
    power: float = 1.0
    larger: int = 1


CASES: Mapping[str, Case] = {
    "daformer_b0": Case("daformer", "mit_b0", "gta5_cityscapes/daformer_mit_b0", 6e-5, 10.0, 1.0, 0.0),
    "daformer_b2": Case("daformer", "mit_b2", "gta5_cityscapes/daformer_mit_b2", 6e-5, 10.0, 1.0, 0.0),
    "daformer_b5": Case("daformer", "mit_b5", "gta5_cityscapes/daformer", 6e-5, 10.0, 1.0, 0.0),
    "vfm_uda_s": Case("vfm_uda", "dinov2_vits14", "gta5_cityscapes/vfm_uda_small", 5e-5, 1.0, 0.1, 1.0),
    "dacs_r101": Case("dacs", "resnet101", "gta5_cityscapes/dacs", 2.5e-4, 10.0, 1.0, 1.0, 250_000, 0.9),
    "hrda_b0": Case("hrda", "mit_b0", "gta5_cityscapes/hrda_mit_b0", 6e-5, 10.0, 1.0, 0.0, larger=2),
}
CLASSIFIERS = ("main.conv_seg", "main.linear_pred", "main.out", "main.branches")  # some of their pixels are sure


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The initial value of a parameter; a linear layer's is [inputs, outputs]."""
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:  # a ResNet's blocks add little to their shortcuts, so that rounding stays small
        return np.full(shape, 0.2 if "bn3" in name else 1.0, np.float32)
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 3 or "mask_token" in name:
        return normal * np.float32(0.02)
    fan_in = shape[0] if len(shape) == 2 or "upscale.0" in name or "upscale.3" in name else int(np.prod(shape[1:]))
    scale = 6.0 if any(part in name for part in CLASSIFIERS) else 1.0
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


def detail_place(step: int, mixed: bool, room: int) -> tuple[int, int]:
    """Top and left of HRDA's detail crop: multiples of 8 with `room` pixels to choose from, the last left out."""
    rng = np.random.default_rng([0, 107, step, 2 if mixed else 0])
    top, left = (8 * int(rng.integers(0, max(1, (room + 1) // 8))) for _ in range(2))
    return top, left


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
    case = CASES[args.case]
    step, about = build(case, args.size, args.way)
    print(json.dumps(about), file=answers)
    for number, _ in enumerate(sys.stdin):
        used = os.times()
        losses, seconds = step(number, batch(number, args.size * case.larger))
        now = os.times()
        cpu = now.user + now.system - used.user - used.system
        print(json.dumps({"losses": losses, "seconds": seconds, "cpu": cpu, "peak": peak_bytes()}), file=answers)

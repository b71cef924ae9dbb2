"""What the peers of the inference benchmark share: networks, images by rule, the talk with the parent; numpy only."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from common import Stopwatch, peak_bytes
from transformers_common import CLASSES, weights

__all__ = ["CASES", "CLASSES", "MEAN", "STD", "Case", "Stopwatch", "serve", "weights"]

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Case:
    """A network: our configuration, and what PyTorch builds."""

    config: str
    backbone: str
    head: str


CASES: Mapping[str, Case] = {
    "segformer_b0": Case("gta5_cityscapes/source_only_segformer_b0", "mit_b0", "segformer"),
    "segformer_b2": Case("gta5_cityscapes/source_only_segformer_b2", "mit_b2", "segformer"),
    "segformer_b5": Case("gta5_cityscapes/source_only_segformer_b5", "mit_b5", "segformer"),
    "daformer_b0": Case("gta5_cityscapes/source_only_mit_b0", "mit_b0", "daformer"),
    "daformer_b2": Case("gta5_cityscapes/source_only_mit_b2", "mit_b2", "daformer"),
    "daformer_b5": Case("gta5_cityscapes/source_only_mit_b5", "mit_b5", "daformer"),
    "dinov2_s": Case("gta5_cityscapes/source_only_dinov2_small", "dinov2_vits14", "light"),
}


def picture(number: int, size: int) -> np.ndarray:
    """RGB [size, size, 3] uint8: coarse colours with noise."""
    rng = np.random.RandomState(number)
    coarse = rng.uniform(0, 255, (size // 16, size // 16, 3)).repeat(16, 0).repeat(16, 1)
    return np.clip(coarse + rng.normal(0, 8, (size, size, 3)), 0, 255).astype(np.uint8)


Label = Callable[[np.ndarray, Stopwatch], np.ndarray]  # an image to its labels [H, W] uint8, with laps


def serve(build: Callable[[Case, int, str], tuple[Label, str]]) -> None:
    """Build, then label an image for every line until the input ends; the first image's labels are kept in a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--way", default="")
    parser.add_argument("--labels", required=True)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    label, name = build(CASES[args.case], args.size, args.way)
    print(json.dumps({"name": name}), file=answers)
    for number, _ in enumerate(sys.stdin):
        image, used, watch = picture(number, args.size), time.process_time(), Stopwatch()
        found = label(image, watch)
        watch.lap("labels")
        cpu = time.process_time() - used
        if number == 0:
            np.save(args.labels, found)
        print(json.dumps({"seconds": watch.seconds, "cpu": cpu, "peak": peak_bytes()}), file=answers)

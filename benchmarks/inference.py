#!/usr/bin/env python3
"""Predictions of transformers: our predictor and our ONNX programs against eager PyTorch, in turn in one run.

python benchmarks/inference.py [--cases segformer_b0,dinov2_s] [--size 512] [--images 5] [--threads 0]
One process for each way, with the same weights, labels the same images: uint8 pixels to a map of labels at the same
size. Times are medians without the first image; speed is against the faster of PyTorch's layouts. `network` is the time
until the logits at the network's resolution. Ways in fp32 must give the same labels. Variants whose packages are not
installed are skipped with a note.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from training import CHOSEN, HERE, Peer, show

CASES = "segformer_b0,segformer_b2,segformer_b5,daformer_b0,daformer_b2,daformer_b5,dinov2_s"
ENOUGH = 0.999  # share of pixels that all ways in fp32 must label alike


@dataclass(frozen=True)
class Kind:
    """A way to predict: its script, what that is told, the packages it needs, and whether it computes in fp32."""

    script: str
    label: str
    told: str
    needs: tuple[str, ...] = ()
    exact: bool = True


WAYS = {
    "torch": Kind("inference_torch.py", "PyTorch, eager", "", ("torch",)),
    "torch_last": Kind("inference_torch.py", "PyTorch, eager, channels last", "channels_last", ("torch",)),
    "torch_fused": Kind("inference_torch.py", "PyTorch, its fused attention", "fused_attention", ("torch",)),
    "eager": Kind("inference_ours.py", "ours, eager", "eager"),
    "fp32": Kind("inference_ours.py", "ours, Paddle Inference fp32", "fp32"),
    "bf16": Kind("inference_ours.py", "ours, Paddle Inference bf16", "bf16", exact=False),
    "onnx": Kind("inference_ours.py", "our export, ONNX Runtime fp32", "onnx", ("paddle2onnx", "onnxruntime")),
    "int8": Kind(
        "inference_ours.py", "our export, ONNX Runtime int8", "int8", ("paddle2onnx", "onnxruntime"), exact=False
    ),
}
LAYOUTS = ("torch", "torch_last")  # the faster one is what speeds are against


class Way(Peer):
    """A process that predicts."""

    def begin(self, case: str, size: int, threads: int, folder: Path) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(CHOSEN)}
        cores = sorted(os.sched_getaffinity(0))
        if threads:
            clean["OMP_NUM_THREADS"] = str(threads)
        self.kept = folder / f"{self.key}.npy"
        arguments = {"case": case, "size": size, "way": WAYS[self.key].told, "labels": self.kept}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "peers" / self.script), *(f"--{k}={v}" for k, v in arguments.items())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean,
            preexec_fn=lambda: os.sched_setaffinity(0, cores[: threads or None]),
        )  # fmt: skip
        self.about = self.read()

    def median(self, value) -> float:
        """Of all images but the first."""
        return statistics.median(map(value, self.answers[1:]))

    def network(self) -> str:
        """Seconds until the logits; a program that gives labels does not tell."""
        if "network" not in self.answers[0]["seconds"]:
            return "-"
        return f"{self.median(lambda a: a['seconds']['network']):.3f}"


def measure(case: str, keys: list[str], size: int, images: int, threads: int, folder: Path) -> list[Way]:
    """Let the ways label the same images in turn; the first image of each warms up."""
    ways = [Way(key, WAYS[key].script, WAYS[key].label) for key in keys]
    for way in ways:
        way.begin(case, size, threads, folder)
        print(f"{case}, {way.label}: {way.about['name']}", file=sys.stderr)
    for _ in range(images + 1):
        for way in ways:
            way.answers.append(way.ask("image"))
    for way in ways:
        way.stop()
    return ways


def alike(ways: list[Way]) -> dict[str, float]:
    """The share of the first image's pixels that each way labels as the first way does."""
    maps = {way.key: np.load(way.kept) for way in ways}
    return {key: float((found == maps[ways[0].key]).mean()) for key, found in maps.items()}


def rows(case: str, ways: list[Way], same: dict[str, float]) -> list[dict[str, str]]:
    """A line for every way, against the faster of PyTorch's layouts, or the first way where there is no PyTorch."""
    compared = [way for way in ways if way.key in LAYOUTS] or ways[:1]
    seconds, cpu = min(way.step() for way in compared), min(way.median(lambda a: a["cpu"]) for way in compared)
    return [
        {
            "network": case,
            "variant": way.label,
            "per image s": f"{way.step():.3f}",
            "of it network s": way.network(),
            "speed": f"{seconds / way.step():.2f}x",
            "cpu s": f"{way.median(lambda a: a['cpu']):.3f}",
            "less cpu": f"{cpu / max(way.median(lambda a: a['cpu']), 1e-9):.2f}x",
            "peak GB": f"{way.peak() / 1e9:.2f}",
            "labels alike": f"{100 * same[way.key]:.2f} %",
        }
        for way in ways
    ]


def present(keys: list[str]) -> list[str]:
    """The ways whose packages are here."""
    found = []
    for key in keys:
        absent = [name for name in WAYS[key].needs if importlib.util.find_spec(name) is None]
        if absent:
            print(f"{WAYS[key].label} is skipped, not installed: {', '.join(absent)}", file=sys.stderr)
        else:
            found.append(key)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--size", type=int, default=512, help="side of the images")
    parser.add_argument("--images", type=int, default=5, help="timed images of each way")
    parser.add_argument("--threads", type=int, default=0, help="threads (and cores) of each way; 0: as each chooses")
    parser.add_argument("--ways", default="torch,torch_last,eager,fp32,bf16,onnx,int8", help=", ".join(WAYS))
    args = parser.parse_args()
    keys, wrong = present(args.ways.split(",")), []
    for case in args.cases.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            ways = measure(case, keys, args.size, args.images, args.threads, Path(scratch))
            same = alike(ways)
        about = next((way.about["name"] for way in ways if way.key not in LAYOUTS), "")
        print(f"\n{case}, {args.size}x{args.size}; {about}\n\n{show(rows(case, ways, same))}", flush=True)
        wrong += [f"{case}, {WAYS[key].label}" for key, s in same.items() if WAYS[key].exact and s < ENOUGH]
    if wrong:
        raise SystemExit(f"fewer than {100 * ENOUGH} % of the pixels get the same label: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()

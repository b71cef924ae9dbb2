#!/usr/bin/env python3
"""Seconds an image for a whole evaluation, decoding and scoring included, against plain Paddle and plain PyTorch.

python benchmarks/evaluation.py [--images 3] [--rounds 3]: ResNet-101 DeepLabV2 (random weights) reads made-up pictures
at 1024x512 and is scored at 2048x1024. Each way runs in a process of its own with its own thread settings; they take
turns. The plain ways do what the originals' evaluations do: Pillow, numpy transpose and argmax, a pass over the label
for each class.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

SMALL, FULL = (1024, 512), (2048, 1024)
MEAN = np.array((104.00698793, 116.66876762, 122.67891434), np.float32)
CITY = "benchcity"


def write_scenes(root: Path, count: int) -> None:
    """Pictures and raw-id labels in Cityscapes' layout, with a camera's noise."""
    from paddle_adaptseg.core.labels import CITYSCAPES_IDS
    from paddle_adaptseg.data.toy import make_scene

    raw, rng = np.array(list(CITYSCAPES_IDS), np.uint8), np.random.default_rng(0)
    for index in range(count):
        image, label = make_scene(0, index, 0, FULL[1], FULL[0])
        image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        for kind, tail, array in (("leftImg8bit", "leftImg8bit", image), ("gtFine", "gtFine_labelIds", raw[label])):
            folder = root / kind / "val" / CITY
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / f"{CITY}_{index:06d}_000019_{tail}.png", compress_level=3)


def paths(root: Path) -> list[tuple[Path, Path]]:
    images = sorted((root / "leftImg8bit/val" / CITY).glob("*.png"))
    labels = [root / "gtFine/val" / CITY / p.name.replace("leftImg8bit", "gtFine_labelIds") for p in images]
    return list(zip(images, labels))


def originals_pass(root: Path, network) -> np.ndarray:
    """One pass as the originals do it; `network` gives logits [1, 19, 1024, 2048] of a normalised image."""
    from paddle_adaptseg.core.labels import CITYSCAPES_IDS

    histogram = np.zeros((19, 19))
    for image_path, label_path in paths(root):
        image = np.asarray(Image.open(image_path).convert("RGB").resize(SMALL, Image.BICUBIC), np.float32)
        image = (image[:, :, ::-1] - MEAN).transpose(2, 0, 1)
        output = network(np.ascontiguousarray(image[None]))[0].transpose(1, 2, 0)
        prediction = np.asarray(np.argmax(output, axis=2), np.uint8)
        label = np.array(Image.open(label_path))
        mapped = np.copy(label)
        ids = list(CITYSCAPES_IDS)
        for value in range(-1, 34):
            mapped[label == value] = ids.index(value) if value in ids else 255
        known = mapped < 19
        pairs = 19 * mapped[known].astype(int) + prediction[known]
        histogram += np.bincount(pairs, minlength=361).reshape(19, 19)
    return histogram


def resnet101():
    """Our network with the released networks' settings."""
    import paddle

    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.config.schema import Component
    from paddle_adaptseg.models import build_model

    paddle.seed(0)
    return build_model(Component("deeplabv2_resnet", {}), 19)


def ours(root: Path, precision: str, detail: bool):
    """Our pass; `detail` adds confidence, boundaries, entropy and coarse labels."""
    from paddle_adaptseg.config.schema import Domain, Pixels, Roots
    from paddle_adaptseg.core.labels import CITYSCAPES_19
    from paddle_adaptseg.data.dataset import DomainFiles
    from paddle_adaptseg.evaluation.measure import score_images
    from paddle_adaptseg.evaluation.predictor import InferenceOptions, Predictor
    from paddle_adaptseg.evaluation.programs import onednn

    model = resnet101()
    files = DomainFiles(Domain("cityscapes", Roots([str(root)]), "val", SMALL), CITYSCAPES_19, labelled=True)
    predictor = Predictor(model, Pixels(), InferenceOptions(backend="onednn", precision=precision), onednn)

    def run() -> np.ndarray:
        with predictor.ready():
            passes = score_images(predictor, files, range(len(files)), 19, detail=detail, workers=1)
            return sum(scored.matrix(19) for _, scored in passes)

    return run


def plain_paddle(root: Path):
    """The network step by step, as a Paddle program without special settings runs it."""
    import paddle
    import paddle.nn.functional as F

    model = resnet101()
    model.eval()

    def network(image: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            logits = model.logits(paddle.to_tensor(image))["main"]
            return F.interpolate(logits, size=FULL[::-1], mode="bilinear", align_corners=True).numpy()

    return lambda: originals_pass(root, network)


def plain_torch(root: Path):
    """The same network in PyTorch, written for this comparison."""
    import torch
    from torch import nn

    def unit(fan_in, fan_out, kernel=1, stride=1, dilation=1):
        padding = dilation * (kernel // 2)
        return nn.Sequential(
            nn.Conv2d(fan_in, fan_out, kernel, stride, padding, dilation, bias=False), nn.BatchNorm2d(fan_out)
        )

    class Block(nn.Module):
        def __init__(self, fan_in, width, stride, dilation):
            super().__init__()
            middle = unit(width, width, 3, 1, dilation)
            self.body = nn.Sequential(
                unit(fan_in, width, 1, stride), nn.ReLU(True), middle, nn.ReLU(True), unit(width, 4 * width)
            )
            self.down = unit(fan_in, 4 * width, 1, stride) if fan_in != 4 * width or stride > 1 else nn.Identity()

        def forward(self, x):
            return torch.relu(self.body(x) + self.down(x))

    def stage(fan_in, width, depth, stride=1, dilation=1):
        blocks = [Block(fan_in, width, stride, dilation)]
        return nn.Sequential(*blocks, *(Block(4 * width, width, 1, dilation) for _ in range(depth - 1)))

    torch.manual_seed(0)
    stem = nn.Sequential(unit(3, 64, 7, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, 1, ceil_mode=True))
    first = nn.Sequential(stem, stage(64, 64, 3), stage(256, 128, 4, 2), stage(512, 256, 23, 1, 2)).eval()
    last = stage(1024, 512, 3, 1, 4).eval()
    heads = {n: [nn.Conv2d(n, 19, 3, 1, d, d) for d in (6, 12)] for n in (1024, 2048)}

    def network(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            middle = first(torch.from_numpy(image))
            end = last(middle)
            _, main = (sum(head(x) for head in heads[x.shape[1]]) for x in (middle, end))
            return nn.functional.interpolate(main, size=FULL[::-1], mode="bilinear", align_corners=True).numpy()

    return lambda: originals_pass(root, network)


WAYS = {
    "plain PyTorch": plain_torch,
    "plain Paddle as shipped": plain_paddle,
    "ours, fp32": lambda root: ours(root, "fp32", False),
    "ours, bf16": lambda root: ours(root, "bf16", False),
    "ours, bf16, all scores": lambda root: ours(root, "bf16", True),
}
AS_SHIPPED = ("plain Paddle as shipped",)  # OMP_NUM_THREADS=1 is what Paddle sets for itself


def work(way: str, root: Path) -> None:
    """A worker: prepare, warm up, then run a pass for every line on standard input and print its seconds."""
    run = WAYS[way](root)
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        run()
        print(time.perf_counter() - began, flush=True)


def start(way: str, root: Path) -> subprocess.Popen:
    """A worker process with the thread settings of its way."""
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE"):
        environment.pop(name, None)
    if way in AS_SHIPPED:
        environment.update(OMP_NUM_THREADS="1", MKL_DEBUG_CPU_TYPE="")
    command = [sys.executable, __file__, "--worker", way, "--root", str(root)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert worker.stdout.readline().strip() == "ready", way
    return worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker")
    parser.add_argument("--root", type=Path)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.root)
        return
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    print(f"{runtime.environment()}, {args.images} images, best of {args.rounds} rounds in turn")
    with tempfile.TemporaryDirectory() as scratch:
        write_scenes(Path(scratch), args.images)
        workers = {way: start(way, Path(scratch)) for way in WAYS}
        seconds = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for way, worker in workers.items():
                worker.stdin.write("go\n")
                worker.stdin.flush()
                seconds[way].append(float(worker.stdout.readline()) / args.images)
        for worker in workers.values():
            worker.communicate()
    base = min(seconds["plain PyTorch"])
    print("| way | an image | slowest round | speed |\n|---|---|---|---|")
    for way, times in seconds.items():
        print(f"| {way} | {min(times):.2f} s | {max(times):.2f} s | {base / min(times):.2f}x |")


if __name__ == "__main__":
    main()

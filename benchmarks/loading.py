#!/usr/bin/env python3
"""Loading speed on one core against the originals' way, written here anew from its description; ratios in one run.

python benchmarks/loading.py [--pairs 12] makes GTA5-sized pairs (1914x1052) and reads them at 1280x720 with labels, as
float network input. compute_iou is compared on 2048x1024 pairs with all cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddle_adaptseg.core import runtime  # noqa: E402

runtime.import_paddle()

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import paddle  # noqa: E402
from PIL import Image  # noqa: E402

from paddle_adaptseg.config.schema import Augment, Domain, Pixels, RareClasses, Roots  # noqa: E402
from paddle_adaptseg.core.labels import CITYSCAPES_19, CITYSCAPES_IDS  # noqa: E402
from paddle_adaptseg.data.augment import normalise  # noqa: E402
from paddle_adaptseg.data.dataset import DomainFiles  # noqa: E402
from paddle_adaptseg.data.prepared import FORMATS, Cache, digest, prepare  # noqa: E402
from paddle_adaptseg.data.rare_classes import RareSampler  # noqa: E402
from paddle_adaptseg.data.sampling import PairStream  # noqa: E402
from paddle_adaptseg.data.toy import make_scene  # noqa: E402
from paddle_adaptseg.data.windows import WHOLE  # noqa: E402
from paddle_adaptseg.evaluation.folders import score_folders  # noqa: E402

SIZE = (1280, 720)
RAW = np.array(list(CITYSCAPES_IDS), np.uint8)
PIXELS = Pixels()
LARGE, CROP = (2560, 1440), (1024, 1024)  # the source of full-resolution recipes, and what is cut of it
LOOKS = (1, 2, 4)  # crops that rare-class sampling looks at


def write_pairs(root: Path, count: int) -> None:
    """GTA5-like pairs: about 2.4 MB an image, palette labels."""
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(1, count + 1):
        image, label = make_scene(0, index, 0, 1052, 1914)
        image = cv2.GaussianBlur(image, (0, 0), 1.2)
        image = np.clip(image + rng.normal(0, 1, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(root / f"images/{index:05d}.png")
        ids = Image.fromarray(RAW[label]).convert("P")
        ids.putpalette([i % 256 for i in range(768)])
        ids.save(root / f"labels/{index:05d}.png")


def originals_way(root: Path, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Pillow for both, a pass over the label for every class, float arithmetic at full width, transposed copy."""
    image = Image.open(root / f"images/{index + 1:05d}.png").convert("RGB").resize(SIZE, Image.BICUBIC)
    label = Image.open(root / f"labels/{index + 1:05d}.png").resize(SIZE, Image.NEAREST)
    image, label = np.asarray(image, np.float32), np.asarray(label, np.float32)
    mapped = 255 * np.ones(label.shape, np.float32)
    for train, raw in enumerate(RAW):
        mapped[label == raw] = train
    image = image[:, :, ::-1] - np.array(PIXELS.mean, np.float32)
    return image.transpose(2, 0, 1).copy(), mapped.copy()


def ours(files: DomainFiles, index: int) -> tuple[np.ndarray, np.ndarray]:
    return files.image(index), files.label(index, files.size)


def seconds_per_pair(read, count: int, rounds: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Best of several rounds over all pairs."""
    times = []
    for _ in range(rounds):
        began = clock()
        for index in range(count):
            read(index)
        times.append((clock() - began) / count)
    return min(times)


def with_normalising(files: DomainFiles):
    def read(index):
        image, label = ours(files, index)
        normalise(paddle.to_tensor(image[None]), PIXELS)
        paddle.to_tensor(label).astype("int64")

    return read


def loading(root: Path, count: int, rounds: int) -> None:
    domain = Domain("gta5", Roots([str(root)]), "all", SIZE)
    files = DomainFiles(domain, CITYSCAPES_19, labelled=True)
    originals = sum(p.stat().st_size for p in root.rglob("*.png")) / count / 1e6
    base = seconds_per_pair(lambda i: originals_way(root, i), count, rounds)
    print(f"| originals' way | {base * 1000:.1f} ms | 1.00x | 1.00x | {originals:.2f} MB |")
    rows = [("ours, from the files", files, originals)]
    for kind in FORMATS:
        folder, size = prepare(files, root / "cache" / kind, kind, 1)
        cached = DomainFiles(domain, CITYSCAPES_19, labelled=True)
        cached.cache = Cache(root / "cache" / kind / digest(files), kind)
        rows.append((f"ours, prepared as {kind}", cached, size / count / 1e6))
    for name, source, size in rows:
        uint8 = seconds_per_pair(lambda i, s=source: ours(s, i), count, rounds)
        full = seconds_per_pair(with_normalising(source), count, rounds)
        print(f"| {name} | {uint8 * 1000:.1f} ms | {base / uint8:.2f}x | {base / full:.2f}x | {size:.2f} MB |")


def formats() -> None:
    """Lossless formats for a prepared 1280x720 image."""
    image = cv2.GaussianBlur(make_scene(0, 1, 0, 720, 1280)[0], (0, 0), 1.0)
    image = np.clip(image + np.random.default_rng(0).normal(0, 1, image.shape), 0, 255).astype(np.uint8)
    ways = {
        "PNG level 1": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
        "PNG level 6": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 6]),
        "TIFF, LZW": (".tiff", [cv2.IMWRITE_TIFF_COMPRESSION, 5]),
        "WebP lossless": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    }
    for name, (ending, options) in ways.items():
        data = cv2.imencode(ending, image, options)[1]
        write = seconds_per_pair(lambda i, e=ending, o=options: cv2.imencode(e, image, o), 2, 2)
        read = seconds_per_pair(lambda i, d=data: cv2.imdecode(d, cv2.IMREAD_UNCHANGED), 5, 2)
        print(f"| {name} | {len(data) / 1e6:.2f} MB | {write * 1000:.0f} ms | {read * 1000:.1f} ms |")
    raw = FORMATS["raw"]
    with tempfile.NamedTemporaryFile() as file:
        size = file.write(raw.encode(image))
        file.flush()
        read = seconds_per_pair(lambda i: raw.open(Path(file.name))(WHOLE), 5, 2)
    print(f"| raw | {size / 1e6:.2f} MB | 1 ms | {read * 1000:.1f} ms |")


def write_large(root: Path, count: int) -> None:
    """GTA5-like pairs, and 2048x1024 images in Cityscapes' places."""
    write_pairs(root / "GTA5", count)
    folder = root / "Cityscapes/leftImg8bit/train/ulm"
    folder.mkdir(parents=True)
    for index in range(count):
        image = cv2.GaussianBlur(make_scene(0, index, 1, 1024, 2048)[0], (0, 0), 1.2)
        image = np.clip(image + np.random.default_rng(index).normal(0, 1, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"ulm_{index:06d}_000019_leftImg8bit.png")


def plain_crops(root: Path, index: int, looks: int) -> None:
    """Pillow for all: whole images, resized, cut to 1024x1024; every look at another crop reads its files again."""
    box = (700, 200, 700 + CROP[0], 200 + CROP[1])
    for _ in range(looks):
        image = Image.open(root / f"GTA5/images/{index + 1:05d}.png").convert("RGB").resize(LARGE, Image.BICUBIC)
        label = Image.open(root / f"GTA5/labels/{index + 1:05d}.png").resize(LARGE, Image.NEAREST)
        image, label = np.asarray(image.crop(box)), np.asarray(label)
        mapped = np.full(label.shape, 255, np.uint8)
        for train, raw in enumerate(RAW):
            mapped[label == raw] = train
        np.ascontiguousarray(mapped[200 : 200 + CROP[1], 700 : 700 + CROP[0]])
    target = root / f"Cityscapes/leftImg8bit/train/ulm/ulm_{index:06d}_000019_leftImg8bit.png"
    np.asarray(Image.open(target).convert("RGB").crop((700, 0, 700 + CROP[0], CROP[1])))


def full_resolution(root: Path, count: int, rounds: int) -> None:
    """1024x1024 crops of GTA5 at 2560x1440 and of Cityscapes at 2048x1024, cut once or after several tries.

    Processor time, which says what a core does on a machine that others use too.
    """

    def seconds(read) -> float:
        return seconds_per_pair(read, count, rounds, time.process_time)

    source = DomainFiles(Domain("gta5", Roots([str(root / "GTA5")]), "all", LARGE), CITYSCAPES_19, labelled=True)
    place = Domain("cityscapes", Roots([str(root / "Cityscapes")]), "train", (2048, 1024))
    target = DomainFiles(place, CITYSCAPES_19, labelled=False)

    counts = np.full((count, 19), 9)

    def stream(looks: int, folder: str = "") -> PairStream:
        rule = RareClasses(min_pixels=1, min_crop_ratio=1e9, tries=looks - 1)  # no crop is ever enough
        for files in (source, target):
            files.cache = Cache.find(folder, files) if folder else None
        return PairStream(source, target, Augment(mirror=True, crop=CROP), 0, rare=RareSampler(counts, rule, 0))

    base = {looks: seconds(lambda i, n=looks: plain_crops(root, i, n)) for looks in LOOKS}
    print(f"| plain | {' | '.join(f'{base[n] * 1000:.1f} ms | 1.00x' for n in LOOKS)} | |")
    rows = [("ours, from the files", "", 0)]
    for kind in FORMATS:
        folder = root / "cache" / kind
        sizes = [prepare(files, folder, kind, 1)[1] for files in (source, target)]
        rows.append((f"ours, prepared as {kind}", str(folder), sum(sizes)))
    for name, folder, size in rows:
        ours = {n: seconds(stream(n, folder).__getitem__) for n in LOOKS}
        cells = " | ".join(f"{ours[n] * 1000:.1f} ms | {base[n] / ours[n]:.2f}x" for n in LOOKS)
        print(f"| {name} | {cells} | {f'{size / count / 1e6:.1f} MB' if size else ''} |")


def originals_iou(ground_truth: list[Path], predictions: list[Path]) -> np.ndarray:
    """A pass over the ground truth for every raw id, then a masked histogram, one pair after the other."""
    histogram = np.zeros((19, 19))
    for one, other in zip(ground_truth, predictions):
        label, prediction = np.array(Image.open(one)), np.array(Image.open(other))
        mapped = np.copy(label)
        for raw in range(-1, 34):
            mapped[label == raw] = np.flatnonzero(raw == RAW)[0] if raw in RAW else 255
        flat, guess = np.array(mapped, np.int64).flatten(), prediction.flatten()
        known = (flat >= 0) & (flat < 19)
        histogram += np.bincount(19 * flat[known].astype(int) + guess[known], minlength=361).reshape(19, 19)
    return histogram


def comparing(root: Path, count: int) -> None:
    ground_truth, guesses = root / "gtFine/val/ulm", root / "out"
    for folder in (ground_truth, guesses):
        folder.mkdir(parents=True)
    for index in range(count):
        label = cv2.resize(make_scene(1, index, 0, 512, 1024)[1], (2048, 1024), interpolation=cv2.INTER_NEAREST)
        Image.fromarray(RAW[label]).save(ground_truth / f"ulm_{index:06d}_000019_gtFine_labelIds.png")
        Image.fromarray(np.roll(label, 9, 1)).save(guesses / f"ulm_{index:06d}_000019_leftImg8bit.png")
    pairs = sorted(ground_truth.iterdir()), sorted(guesses.iterdir())
    began = time.perf_counter()
    expected = originals_iou(*pairs)
    base = (time.perf_counter() - began) / count
    times = []
    for _ in range(3):
        began = time.perf_counter()
        matrix = score_folders(root / "gtFine/val", guesses, "cityscapes", CITYSCAPES_19, runtime.cpu_count())
        times.append((time.perf_counter() - began) / count)
    assert (matrix.counts == expected).all()
    print(f"| originals' script | {base * 1000:.1f} ms | 1.00x |")
    print(f"| compute_iou.py, {runtime.cpu_count()} cores | {min(times) * 1000:.1f} ms | {base / min(times):.2f}x |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="full: only the crops of full-resolution images")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    Image.core.set_blocks_max(8)  # as the loader sets it; both ways profit
    print(runtime.environment())
    with tempfile.TemporaryDirectory() as folder:
        write_large(Path(folder) / "large", args.pairs)
        print(
            "\n| 1024x1024 crops | one try | | two tries | | four tries | | size |\n|---|---|---|---|---|---|---|---|"
        )
        full_resolution(Path(folder) / "large", args.pairs, args.rounds)
        if args.only == "full":
            return
        write_pairs(Path(folder) / "GTA5", args.pairs)
        print(
            "\n| reading 1914x1052 at 1280x720 | per pair | as uint8 | as float input | size |\n|---|---|---|---|---|"
        )
        loading(Path(folder) / "GTA5", args.pairs, args.rounds)
        print("\n| lossless 1280x720 | size | write | read |\n|---|---|---|---|")
        formats()
        print("\n| scoring 2048x1024 | per pair | speed |\n|---|---|---|")
        comparing(Path(folder) / "iou", args.pairs)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What a step takes with each rung of the memory ladder, counted as `tools/train.py --dry-run` counts it.

python benchmarks/memory.py [--only ROW] prints the table of docs/performance.md. Nothing of full size is run.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from paddle_adaptseg.core import runtime  # noqa: E402

runtime.set_cpu_threads()
runtime.import_paddle()

from paddle_adaptseg.config.loading import load_config  # noqa: E402
from paddle_adaptseg.training.memory import LIBRARIES, estimate  # noqa: E402
from paddle_adaptseg.training.start import build_state  # noqa: E402

FD = "method.feature_distance={things: [rider, train, bus], weight: 0.005, min_ratio: 0.75}"
MIT = "model={name: encode_decode, backbone: {name: mit_b5}, head: {name: daformer}}"
DINO = "model={name: encode_decode, backbone: {name: dinov2_vits14, image_size: 1024}, head: {name: light}}"
COLUMNS = {  # name: configuration, what is changed in it, its smaller backbone
    "AdaptSegNet, ResNet-101, 1280x720 and 1024x512": (
        "gta5_cityscapes/adaptsegnet_multi.yml", (), "model.depths=[3,4,6,3]"),
    "DAFormer, MiT-B5, two crops of 512x512": (
        "gta5_cityscapes/dacs_daformer.yml", (MIT, FD), "model.backbone.name=mit_b2"),
    "self-training, DINOv2 ViT-S, two crops of 1024x1024": (
        "gta5_cityscapes/dacs_daformer.yml", (DINO, "data.augment.crop=[1024,1024]"), ""),
}  # fmt: skip
HALF = ("data.batch_size=1", "schedule.iter_size=2")
ROWS = {
    "as it is": (),
    "mixed precision": ("run.precision=bf16",),
    "accumulation": HALF,
    "recomputation": ("run.recompute=true",),
    "accumulation and recomputation": (*HALF, "run.recompute=true"),
    "all three": (*HALF, "run.recompute=true", "run.precision=bf16"),
    "smaller backbone": None,
}


def counted(path: str, overrides: list[str]) -> str:
    """One cell: GB with what libraries take."""
    config = load_config(ROOT / "configs" / path, overrides)
    with runtime.fresh_names():
        state = build_state(config)
        found = estimate(state, config)
    del state
    gc.collect()
    return f"{(found.total + LIBRARIES) / 1e9:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a row's name")
    args = parser.parse_args()
    print(runtime.environment())
    print(f"\n| rung | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for row, changes in ROWS.items():
        if args.only not in ("", row):
            continue
        cells, began = [], time.perf_counter()
        for path, more, smaller in COLUMNS.values():
            chosen = changes if changes is not None else (smaller,) if smaller else None
            batch_of_one = not more and chosen is not None and HALF[0] in chosen
            if chosen is None or batch_of_one:
                cells.append("-")
            else:
                cells.append(counted(path, [*more, *chosen]))
        print(f"| {row} | {' | '.join(cells)} |", flush=True)
        print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What a step takes with each rung of the memory ladder, counted as `tools/train.py --dry-run` counts it.

python benchmarks/memory.py prints the table of docs/performance.md. Nothing of full size is run.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from paddle_adaptseg.core import runtime  # noqa: E402

runtime.set_cpu_threads()
runtime.import_paddle()

from paddle_adaptseg.config.loading import load_config, override  # noqa: E402
from paddle_adaptseg.training.memory import LIBRARIES, extended, run_small_steps  # noqa: E402
from paddle_adaptseg.training.start import build_state  # noqa: E402

FD = "method.feature_distance={things: [rider, train, bus], weight: 0.005, min_ratio: 0.75}"
MIT = "model={name: encode_decode, backbone: {name: mit_b5}, head: {name: daformer}}"
DINO = "model={name: encode_decode, backbone: {name: dinov2_vits14, image_size: 1024}, head: {name: light}}"
COLUMNS = {  # name: configuration, what is changed in it, its smaller backbone
    "AdaptSegNet, ResNet-101, 1280x720 and 1024x512": (
        "gta5_cityscapes/adaptsegnet_multi.yml", (), ""),
    "DAFormer, MiT-B5, two crops of 512x512": (
        "gta5_cityscapes/dacs_daformer.yml", (MIT, FD), "model.backbone.name=mit_b2"),
    "self-training, DINOv2 ViT-S, two crops of 1024x1024": (
        "gta5_cityscapes/dacs_daformer.yml", (DINO, "data.augment.crop=[1024,1024]"), ""),
    "MIC on HRDA, MiT-B5, two crops of 1024x1024": (
        "gta5_cityscapes/mic_hrda.yml", ("model.detail_batch=0",), "model.network.backbone.name=mit_b2"),
}  # fmt: skip
PARTS = ("data.batch_size=1", "schedule.iter_size=2")
ROWS = {
    "as it is": (),
    "accumulation": PARTS,
    "recomputation": ("run.recompute=true",),
    "accumulation and recomputation": (*PARTS, "run.recompute=true"),
    "smaller backbone": None,
}


def counted(path: str, overrides: list[str]) -> tuple[str, str]:
    """GB with what libraries take, in 32 bits and in mixed precision, which a CPU has not: on paper."""
    config = load_config(ROOT / "configs" / path, overrides)
    with runtime.fresh_names():
        state = build_state(config)
        small = run_small_steps(state, config)
    del state
    gc.collect()
    found = (extended(small, c).total for c in (config, override(config, "run.precision=bf16")))
    full, mixed = (f"{(total + LIBRARIES) / 1e9:.1f}" for total in found)
    return full, mixed


def main() -> None:
    print(runtime.environment())
    print(f"\n| rung | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for row, changes in ROWS.items():
        cells = []
        for path, more, smaller in COLUMNS.values():
            chosen = ((smaller,) if smaller else None) if changes is None else changes
            one_image = not more and chosen is not None and PARTS[0] in chosen  # it cannot be divided
            cells.append(("-", "-") if chosen is None or one_image else counted(path, [*more, *chosen]))
            print(f"{row}: {cells[-1]}", file=sys.stderr, flush=True)
        for name, values in zip((row, f"{row}, mixed precision"), zip(*cells)):
            print(f"| {name} | {' | '.join(values)} |", flush=True)


if __name__ == "__main__":
    main()

"""The toy pair: street scenes from (seed, domain, index), written in the folders and file formats of real data.

Source in the layout of GTA5, target in that of Cityscapes, so that the readers of real data read them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.core.labels import CITYSCAPES_19, CITYSCAPES_IDS
from paddle_adaptseg.core.progress import progress
from paddle_adaptseg.data.toy.render import render
from paddle_adaptseg.data.toy.scene import draw_scene

VERSION = 1  # raise it when the generator draws other images
GAME, CAMERA = 0, 1


@dataclass(frozen=True)
class ToySpec:
    """How many scenes of which size, from which seed."""

    seed: int = 0
    source: int = 300
    target: int = 300
    validation: int = 100
    height: int = 96
    width: int = 192


def make_scene(seed: int, index: int, domain: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene: RGB [H, W, 3] and train ids [H, W]."""
    rng = np.random.default_rng([seed, index, domain])
    return render(draw_scene(rng, height, width), camera=domain == CAMERA)


DEFAULT_ROOT, PARTS = Path("dataset/toy"), ("GTA5", "Cityscapes")


def ensure_toy(root: Sequence[str]) -> None:
    """Draw the default toy pair when `root`, a source's or target's, is of it and it is not there."""
    ours = tuple(root) in {(str(DEFAULT_ROOT / part),) for part in PARTS}
    if ours and not (DEFAULT_ROOT / "toy.json").is_file():
        write_toy_pair(DEFAULT_ROOT, ToySpec())


def write_toy_pair(root: Path, spec: ToySpec) -> bool:
    """Write the pair below `root` (GTA5/, Cityscapes/) unless it is there already; returns whether it was written."""
    manifest = root / "toy.json"
    text = json.dumps({"version": VERSION, **asdict(spec)}, indent=1)
    if manifest.is_file() and manifest.read_text(encoding="utf-8") == text:
        return False
    manifest.unlink(missing_ok=True)
    for part in PARTS:  # scenes of another specification, or of an interrupted call
        shutil.rmtree(root / part, ignore_errors=True)
    jobs = [("source", i) for i in range(spec.source)] + [("train", i) for i in range(spec.target)]
    jobs += [("val", i) for i in range(spec.validation)]
    for part, index in progress(jobs, "toy scenes", None):
        _write_one(root, part, index, spec)
    write_atomically(manifest, lambda handle: handle.write(text.encode()))
    return True


def _write_one(root: Path, part: str, index: int, spec: ToySpec) -> None:
    # The validation scenes are the same for every seed: scores of different seeds stay comparable.
    seed, domain = {"source": (2 * spec.seed, GAME), "train": (2 * spec.seed + 1, CAMERA), "val": (10**6, CAMERA)}[part]
    image, label = make_scene(seed, index, domain, spec.height, spec.width)
    if part == "source":
        image_path, label_path = (root / "GTA5" / folder / f"{index + 1:05d}.png" for folder in ("images", "labels"))
    else:
        base = Path(part) / "toyville" / f"toyville_{index:06d}_000019"
        image_path = root / "Cityscapes" / "leftImg8bit" / f"{base}_leftImg8bit.png"
        label_path = root / "Cityscapes" / "gtFine" / f"{base}_gtFine_labelIds.png"
    for path in (image_path, label_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(image_path)
    ids = Image.fromarray(_raw_ids()[label])
    if part == "source":  # GTA5 labels are palette PNGs whose indices are Cityscapes ids
        ids = ids.convert("P")
        ids.putpalette(_raw_palette())
    ids.save(label_path)


def _raw_ids() -> np.ndarray:
    return np.array(list(CITYSCAPES_IDS), np.uint8)  # in the order of CITYSCAPES_19


def _raw_palette() -> list[int]:
    palette = np.zeros((256, 3), np.uint8)
    palette[_raw_ids()] = CITYSCAPES_19.colours
    return palette.flatten().tolist()

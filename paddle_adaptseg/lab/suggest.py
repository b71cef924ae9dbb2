"""Which target images to label next: those of which a network is unsure and which do not resemble one another.

Every image has the mean entropy of its predictions and the mean of the network's last features. Images are taken one by
one: the next has the largest product of its entropy and its distance to the nearest image that is taken or labelled
already (k-center greedy, Sener and Savarese, ICLR 2018, weighed by uncertainty).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
import paddle
from PIL import Image, ImageDraw
from tqdm import tqdm

from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.data import label_space, open_labelled
from paddle_adaptseg.data.augment import normalise
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.reading import spread
from paddle_adaptseg.evaluation.visual import at_size, heat
from paddle_adaptseg.methods.losses import entropy_map
from paddle_adaptseg.models.layers import inference
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.weights.load import load_model

CELL, COLUMNS = (320, 160), 2  # size of a picture on the sheet, suggestions beside one another
TOGETHER = 8  # images read at once


@dataclass(frozen=True)
class Suggestion:
    """An image to label."""

    index: int
    name: str
    entropy: float
    distance: float  # to the nearest image that was taken before it


def suggest(
    origin: str | Path, count: int, folder: Path, overrides: Sequence[str] = (), limit: Optional[int] = None
) -> list[Suggestion]:
    """Choose images, and write labels.txt for data.target_labelled.list and the contact sheet into `folder`."""
    model, config = load_model(origin, overrides=overrides)
    files = DomainFiles(config.data.target, label_space(config), labelled=False, cache=config.data.cache)
    known = open_labelled(config.data, label_space(config)) if config.data.target_labelled else None
    names = {item.image.name for item in known.items} if known else set()
    indices = spread(len(files), limit)
    indices = sorted({*indices, *(i for i, item in enumerate(files.items) if item.image.name in names)})
    labelled = [place for place, index in enumerate(indices) if files.items[index].image.name in names]
    if not 0 < count <= len(indices) - len(labelled):
        raise ConfigError(f"--count must lie in 1..{len(indices) - len(labelled)}, the unlabelled images, not {count}")
    entropy, features = measure(model, config, files, indices)
    found = [
        Suggestion(indices[place], files.items[indices[place]].image.name, float(entropy[place]), distance)
        for place, distance in k_center(entropy, features, count, labelled)
    ]
    text = "".join(f"{each.name}  # entropy {each.entropy:.3f}, distance {each.distance:.3f}\n" for each in found)
    write_atomically(folder / "labels.txt", lambda handle: handle.write(text.encode()))
    sheet = contact_sheet(model, config, files, found)
    write_atomically(folder / "sheet.png", lambda handle: Image.fromarray(sheet).save(handle, "PNG"))
    return found


def k_center(
    entropy: np.ndarray, features: np.ndarray, count: int, labelled: Sequence[int] = ()
) -> Iterator[tuple[int, float]]:
    """Places [N] and features [N, D] to `count` places with their distances, in the order in which they are taken."""
    spread_out = features - features.mean(axis=0)
    spread_out /= np.sqrt((spread_out**2).sum(axis=1).mean()).clip(min=1e-12)  # 1: as far as an average image
    nearest = np.full(len(entropy), np.inf)

    def take(place: int) -> None:
        np.minimum(nearest, np.sqrt(((spread_out - spread_out[place]) ** 2).sum(axis=1)), out=nearest)

    for place in labelled:
        take(place)
    for _ in range(count):
        gain = entropy * np.where(np.isinf(nearest), 1.0, nearest)
        gain[list(labelled)] = -1.0
        place = int(np.argsort(-gain, kind="stable")[0])
        yield place, float(nearest[place]) if np.isfinite(nearest[place]) else 0.0
        take(place)
        entropy = np.where(np.arange(len(entropy)) == place, -1.0, entropy)


def measure(
    model: Segmenter, config: Config, files: DomainFiles, indices: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean entropy [N] and mean last features [N, D] of images."""
    entropy, features = [], []
    with inference(model), ThreadPoolExecutor(max(1, config.data.workers)) as pool:
        for start in tqdm(range(0, len(indices), TOGETHER), f"look at {files.title}", unit="batch", disable=None):
            for image in pool.map(files.image, indices[start : start + TOGETHER]):
                found, last = _entropy(model, config, image)
                entropy.append(float(found.mean()))
                features.append(last.mean(axis=[0, 2, 3]).numpy())
    return np.array(entropy), np.stack(features).astype(np.float64)


def _entropy(model: Segmenter, config: Config, image: np.ndarray) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The entropy of every pixel at the network's resolution [1, h, w], and its last features."""
    features = model.features(normalise(paddle.to_tensor(image[None]), config.data.pixels))
    return entropy_map(model.classify(features)["main"]), model.last_stage(features)


def contact_sheet(model: Segmenter, config: Config, files: DomainFiles, found: Sequence[Suggestion]) -> np.ndarray:
    """Every suggestion with its number, beside where the network is unsure (bright)."""
    cells = []
    with inference(model):
        for number, each in enumerate(found, 1):
            image = files.image(each.index)
            unsure = heat(_entropy(model, config, image)[0][0].numpy())
            cell = Image.fromarray(np.hstack([at_size(array, CELL, smooth=True) for array in (image, unsure)]))
            title = f"{number}  {each.name.rsplit('/', 1)[-1]}"
            ImageDraw.Draw(cell).text((4, 2), title, (255, 255, 0), stroke_width=2, stroke_fill=(0, 0, 0))
            cells.append(np.asarray(cell))
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % COLUMNS)
    return np.vstack([np.hstack(cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)])

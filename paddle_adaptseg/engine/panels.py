"""The pictures that a run logs: what the network makes of a few fixed images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Callable, Optional

import numpy as np
from paddle import Tensor

from paddle_adaptseg.config import Config, Pixels
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.faults import Fault
from paddle_adaptseg.errors import DataError
from paddle_adaptseg.evaluation.predictor import Predictor
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.visual import colourise, heat, panel

PANELS = 2  # fixed images of each domain that are drawn at every evaluation


def panels(
    model: Segmenter, files: DomainFiles, config: Config, meet: Optional[Callable[[Sequence[Fault]], object]] = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and panels (image, labels, ground truth, entropy) of the first images; `meet` takes up unusable ones."""
    predictor, space = Predictor(model, config.data.pixels), label_space(config)
    for index in range(min(PANELS, len(files))):
        try:
            image, truth = files.image(index), files.label(index, files.size)
        except DataError as error:
            if meet is None:
                raise
            meet([Fault(0, 0, files.items[index].image.name, str(error))])
            continue
        prediction, entropy = predictor.labels_and_entropy(image)
        yield str(index), panel(image, prediction, truth, entropy, space)


def training_panel(seen: Mapping[str, Tensor], config: Config) -> Optional[np.ndarray]:
    """Target image, its pseudo-labels, mixed image, its labels and their weights, of what a method saw last."""
    if "mixed_image" not in seen:
        return None
    space, pixels = label_space(config), config.data.pixels
    images = [unnormalised(seen[name][0], pixels) for name in ("target_image", "mixed_image")]
    labels = [colourise(seen[name][0].numpy().astype(np.uint8), space) for name in ("pseudo_label", "mixed_label")]
    return np.hstack([images[0], labels[0], images[1], labels[1], heat(seen["mixed_weight"][0].numpy())])


def unnormalised(image: Tensor, pixels: Pixels) -> np.ndarray:
    """RGB uint8 [H, W, 3] of network input [3, H, W]."""
    array = image.numpy().transpose(1, 2, 0) * np.array(pixels.std) + np.array(pixels.mean)
    array = np.clip(array.round(), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(array[:, :, ::-1]) if pixels.order == "bgr" else array

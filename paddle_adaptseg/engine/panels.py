"""The pictures that a run logs: what the network makes of a few fixed images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Callable, Optional

import numpy as np

from paddle_adaptseg.config import Config
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.faults import Fault
from paddle_adaptseg.errors import DataError
from paddle_adaptseg.evaluation.predictor import Predictor
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.visual import panel

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

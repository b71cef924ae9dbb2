"""Confusion counts where the network computes: on a GPU neither logits nor labels cross to the host, only counts.

On a CPU upsample.py and metrics.py are faster and stay in use; of the same labels both make the same counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

import numpy as np
import paddle
from paddle import Tensor
from tqdm import tqdm

from paddle_adaptseg import metrics
from paddle_adaptseg.config import Data
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.reading import read_ahead
from paddle_adaptseg.data.transforms import normalise
from paddle_adaptseg.models.segmenter import Segmenter

VALUES = 256  # of a uint8


def on_gpu() -> bool:
    """Whether networks compute on a GPU."""
    return paddle.get_device().startswith("gpu")


def pair_counts(one: Tensor, other: Tensor) -> Tensor:
    """metrics.pair_counts on the device: how often each pair of values in 0..255 occurs [256, 256] int64."""
    pairs = one.astype("int64").flatten() * VALUES + other.astype("int64").flatten()
    return paddle.bincount(pairs, minlength=VALUES**2).reshape([VALUES, VALUES])


def counted_pairs(one: Tensor, other: Tensor) -> np.ndarray:
    """The same on the host, counted where it is faster."""
    return pair_counts(one, other).numpy() if on_gpu() else metrics.pair_counts(one.numpy(), other.numpy())


def count_all(
    model: Segmenter, files: DomainFiles, indices: Sequence[int], data: Data, check: Callable[[], object]
) -> np.ndarray:
    """Pairs [256, 256] of truth and prediction at the truth's resolution over images; `check` is called after each."""
    total = paddle.zeros([VALUES, VALUES], "int64")
    samples = read_ahead(files, indices, workers=data.workers)
    for sample in tqdm(samples, "evaluate", len(indices), leave=False, unit="image", disable=None):
        image = normalise(paddle.to_tensor(sample.images[0][None]), data.pixels)
        label = model.predict(image, sample.truth.shape).argmax(axis=1)
        total += pair_counts(paddle.to_tensor(sample.truth), label)
        check()
    return total.numpy()

"""Batches whose images are padded to one size: the padding counts for no loss."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_adaptseg.data.batch import Areas


def image_parts(x: Tensor, areas: Areas) -> list[Tensor]:
    """A padded batch of maps [N, C, H, W] of any resolution as maps [1, C, h, w], one of each image without padding.

    Without areas the batch as it is, as a single part.
    """
    if areas is None:
        return [x]
    height, width = x.shape[2:]
    sizes = [(max(1, round(height * down)), max(1, round(width * right))) for down, right in areas]
    return [x[i : i + 1, :, :h, :w] for i, (h, w) in enumerate(sizes)]


def joined(x: Tensor, areas: Areas) -> Tensor:
    """All positions that are not padding, as one map [1, C, 1, positions]; without areas the maps as they are."""
    if areas is None:
        return x
    return paddle.concat([part.flatten(2).unsqueeze(2) for part in image_parts(x, areas)], axis=3)


def blanked(x: Tensor, areas: Areas) -> Tensor:
    """Maps with 0 in the padding, in the forward pass and in the gradient, as if they ended there."""
    if areas is None:
        return x
    height, width = x.shape[2:]
    parts = image_parts(x, areas)
    return paddle.concat([F.pad(p, [0, width - p.shape[3], 0, height - p.shape[2]]) for p in parts], axis=0)


def positions(x: Tensor, areas: Areas) -> Tensor | None:
    """Over how many positions a mean over joined() runs, for `Term.pixels`; None where all batches have the same."""
    return (
        None if areas is None else paddle.to_tensor(float(sum(p.shape[2] * p.shape[3] for p in image_parts(x, areas))))
    )

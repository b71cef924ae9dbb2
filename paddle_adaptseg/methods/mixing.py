"""ClassMix and block masks on the device, without copies to the host.

ClassMix: Olsson et al., WACV 2021; DACS (Tranheden et al., WACV 2021) pastes source classes into target images. Block
masks: MIC, Hoyer et al., CVPR 2023. The ignored value (255) counts as a class, as in the originals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

VALUES = 256  # values that a label may hold


def present_values(label: Tensor) -> Tensor:
    """Which values each label holds [N, 256] float32 (0 or 1); label [N, H, W] int64."""
    found = paddle.zeros([label.shape[0], VALUES])
    return paddle.put_along_axis(found, label.flatten(1), paddle.ones([1]), axis=1)


def choose_half(present: Tensor, ranks: Tensor) -> Tensor:
    """The ceil(k/2) of each row's k present values with the smallest random `ranks` (below 1) [N, 256] float32."""
    keys = paddle.where(present > 0, ranks, paddle.full_like(ranks, 2.0))
    place = keys.argsort(axis=1).argsort(axis=1).astype("float32")
    half = ((present.sum(axis=1, keepdim=True) + 1) / 2).floor()
    return present * (place < half).astype("float32")


def pasted_pixels(label: Tensor, chosen: Tensor) -> Tensor:
    """Where a label holds one of its image's chosen values [N, H, W] bool; chosen [N, 256]."""
    return (paddle.take_along_axis(chosen, label.flatten(1), axis=1) > 0).reshape(label.shape)


def paste(pasted: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Source where `pasted`, else target: images [N, 3, H, W] or maps [N, H, W]."""
    return paddle.where(pasted.unsqueeze(1).expand(source.shape) if source.ndim == 4 else pasted, source, target)


def block_grid(size: Sequence[int], block: int) -> tuple[int, int]:
    """Rows and columns of blocks; halves are rounded to even, so that blocks need not be exactly `block` wide."""
    return max(1, round(size[0] / block)), max(1, round(size[1] / block))


def block_mask(kept: np.ndarray, size: Sequence[int]) -> Tensor:
    """Kept blocks [N, rows, columns] at (height, width), by the nearest one [N, 1, H, W] float32."""
    grid = paddle.to_tensor(kept.astype(np.float32)).unsqueeze(1)
    return F.interpolate(grid, size=list(size), mode="nearest")

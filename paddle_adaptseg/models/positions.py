"""Position embeddings of a stored grid at another size, by DINOv2's two bicubic rules.

Without registers the original hands its resizing the scale (rows + 0.1) / stored instead of the size; with registers it
hands the size and smooths, with another cubic kernel. Both are products with two small matrices.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import paddle
from paddle import Tensor


def interpolated(grid: Tensor, rows: int, columns: int, offset: float, antialias: bool) -> Tensor:
    """A stored [M, M, width] as [rows * columns, width]."""
    stored, width = grid.shape[0], grid.shape[-1]
    down, right = (
        paddle.to_tensor(bicubic_matrix(stored, n, stored / (n + offset), antialias)) for n in (rows, columns)
    )
    tall = paddle.matmul(down, grid.reshape([stored, -1])).reshape([rows, stored, width])
    return paddle.matmul(right.unsqueeze(0).expand([rows, columns, stored]), tall).reshape([-1, width])


@lru_cache(maxsize=64)
def bicubic_matrix(old: int, new: int, scale: float, antialias: bool) -> np.ndarray:
    """What each of `old` samples adds to each of `new` ones [new, old]; a new sample is `scale` old ones wide.

    With `antialias` the kernel (a = -0.5) widens when shrinking and ends at the borders; otherwise (a = -0.75) the
    border samples repeat outside.
    """
    centres = (np.arange(new) + 0.5) * scale - 0.5
    if antialias:
        widened = max(scale, 1.0)
        matrix = _cubic((np.arange(old) - centres[:, None]) / widened, -0.5)
        return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        position = np.floor(centres) + tap
        column = position.clip(0, old - 1).astype(np.int64)
        np.add.at(matrix, (np.arange(new), column), _cubic(position - centres, -0.75))
    return matrix.astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

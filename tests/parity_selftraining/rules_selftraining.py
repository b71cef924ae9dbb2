"""Inputs of the self-training parity figures: numpy only, the same on every machine (RandomState is frozen)."""

import zlib

import numpy as np


def stream(text: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(text.encode()))


def values2(name: str, shape: tuple, salt: str) -> np.ndarray:
    """Value of the tensor `name` ('G.backbone.block1.0.attn.q.weight', ...), float32. The shape decides, the name only
    tells weight, bias and running statistics apart:
    4-D n*sqrt(2/fan_in); 2-D (linear, stored [out, in]) n*sqrt(1/in); 1-D weight (any norm) 1+0.1n; running_var 1+0.1|n|;
    everything else (biases, running_mean) 0.1n."""
    shape = tuple(shape)
    n = stream(f"{salt}:{name}").standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return (1 + 0.1 * np.abs(n)).astype(np.float32)
    if name.endswith("running_mean"):
        return (0.1 * n).astype(np.float32)
    if len(shape) == 4:
        return n * np.float32(np.sqrt(2.0 / (shape[1] * shape[2] * shape[3])))
    if len(shape) == 2:
        return n * np.float32(np.sqrt(1.0 / shape[1]))
    if name.endswith("weight"):
        return (1 + 0.1 * n).astype(np.float32)
    return (0.1 * n).astype(np.float32)


def batch2(step: int, salt: str, n: int, size: tuple, classes: int = 19, cell: int = 32):
    """(source image, source label, target image) of one step; images float32 n x 3 x H x W (already "normalised"), label
    int64 n x H x W. A label is made of cells of `cell` pixels, 15 % of its 8x8 blocks are redrawn, the top eighth is 255."""
    h, w = size
    rng = stream(f"{salt}:batch:{step}")
    source = rng.standard_normal((n, 3, h, w)).astype(np.float32)
    target = rng.standard_normal((n, 3, h, w)).astype(np.float32)
    cells = rng.randint(0, classes, (n, -(-h // cell), -(-w // cell)))
    blocks = rng.randint(0, classes, (n, h // 8, w // 8))
    redrawn = rng.uniform(size=(n, h // 8, w // 8)) < 0.15
    label = cells.repeat(cell, 1).repeat(cell, 2)[:, :h, :w]
    label = np.where(redrawn.repeat(8, 1).repeat(8, 2), blocks.repeat(8, 1).repeat(8, 2), label).astype(np.int64)
    label[:, : h // 8, :] = 255
    return source, label, target


def image2(salt: str, shape: tuple) -> np.ndarray:
    """The input image of a forward, gradient or evaluation figure."""
    return stream(f"{salt}:image").standard_normal(tuple(shape)).astype(np.float32)


def features2(salt: str, shapes: list) -> list:
    """The input feature maps of a decode-head figure, drawn one after the other from one stream."""
    rng = stream(f"{salt}:features")
    return [rng.standard_normal(tuple(s)).astype(np.float32) for s in shapes]


def label2(salt: str, n: int, size: tuple, classes: int = 19, cell: int = 32) -> np.ndarray:
    """The label of the gradient figure: that of batch2 at step 0."""
    return batch2(0, salt, n, size, classes, cell)[1]


# The three rules below only say where the recorded choices came from; a replay takes them from `given`.
def mix_stream(salt: str, step: int) -> np.random.RandomState:
    """Per image, in order: choice(len(classes), ceil(len(classes) / 2), replace=False) into the sorted classes of the batch."""
    return stream(f"{salt}:mix:{step}")


def crop_stream(salt: str, step: int, part: str) -> np.random.RandomState:
    """part 'seg', 'mix' or 'masked': randint(0, (margin_h + 1) // d) * d, then the same for the width."""
    return stream(f"{salt}:crop:{step}:{part}")


def mask_stream(salt: str, step: int) -> np.random.RandomState:
    """uniform(size=(n, 1, rows, columns)); a block is kept where the number is > ratio."""
    return stream(f"{salt}:mask:{step}")

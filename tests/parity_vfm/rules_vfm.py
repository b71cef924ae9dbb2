"""Inputs of the VFM-UDA / DINOv2 parity figures: numpy only, the same on every machine (RandomState is frozen)."""

import zlib

import numpy as np


def stream(text: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(text.encode()))


def values2(name: str, shape: tuple, salt: str) -> np.ndarray:
    """Value of the tensor `name` ('G.encoder.blocks.0.attn.qkv.weight', ...), float32; the same rule as in
    rules_selftraining.py. 4-D n*sqrt(2/(shape[1]*shape[2]*shape[3])) (also for the transposed convolutions, stored
    [in, out, 2, 2]); 2-D (linear [out, in], mask_token [1, dim]) n*sqrt(1/shape[1]); 1-D weight (any norm) 1+0.1n; everything else
    (biases, LayerScale gamma, cls_token, pos_embed, register_tokens) 0.1n."""
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


def _labels(rng, n, h, w, classes, cell):
    cells = rng.randint(0, classes, (n, -(-h // cell), -(-w // cell)))
    blocks = rng.randint(0, classes, (n, -(-h // 8), -(-w // 8)))
    redrawn = rng.uniform(size=blocks.shape) < 0.15
    label = cells.repeat(cell, 1).repeat(cell, 2)[:, :h, :w]
    blocks, redrawn = (a.repeat(8, 1).repeat(8, 2)[:, :h, :w] for a in (blocks, redrawn))
    return np.where(redrawn, blocks, label).astype(np.int64)


def batch3(step: int, salt: str, n: int, side: int, classes: int = 19, cell: int = 16, margins=None):
    """(source image, source label, target image, target label, target ignore mask) of one step. Images uint8 RGB
    n x 3 x side x side as the loader gives them (before /255 and normalisation); labels int64, the source's top eighth is 255; the
    mask is 255 in the margins [top, bottom, left, right] of each image (`margins`: one list per image, or None) and 0 elsewhere."""
    rng = stream(f"{salt}:batch3:{step}")
    source = rng.randint(0, 256, (n, 3, side, side)).astype(np.uint8)
    target = rng.randint(0, 256, (n, 3, side, side)).astype(np.uint8)
    source_label = _labels(rng, n, side, side, classes, cell)
    target_label = _labels(rng, n, side, side, classes, cell)
    source_label[:, : side // 8] = 255
    mask = np.zeros((n, side, side), np.int64)
    for m, (top, bottom, left, right) in zip(mask, margins or []):
        m[:top] = 255
        m[side - bottom :] = 255
        m[:, :left] = 255
        m[:, side - right :] = 255
    return source, source_label, target, target_label, mask


def image3(salt: str, shape: tuple) -> np.ndarray:
    """Input of a forward or gradient figure: float32, taken as already normalised."""
    return stream(f"{salt}:image").standard_normal(tuple(shape)).astype(np.float32)


def features3(salt: str, shape: tuple) -> np.ndarray:
    """Input feature map of a head figure, n x dim x rows x columns."""
    return stream(f"{salt}:features").standard_normal(tuple(shape)).astype(np.float32)


def label3(salt: str, n: int, size: tuple, classes: int = 19, cell: int = 16) -> np.ndarray:
    """Label of a gradient or evaluation figure; its top eighth is 255."""
    label = _labels(stream(f"{salt}:label"), n, size[0], size[1], classes, cell)
    label[:, : size[0] // 8] = 255
    return label


def picture3(salt: str, size: tuple) -> np.ndarray:
    """The photograph of an evaluation figure: uint8 h x w x 3 (RGB), 4-pixel cells with noise."""
    rng = stream(f"{salt}:picture")
    h, w = size
    cells = rng.randint(20, 236, (-(-h // 4), -(-w // 4), 3)).repeat(4, 0).repeat(4, 1)[:h, :w]
    return (cells + rng.randint(-20, 21, (h, w, 3))).astype(np.uint8)


# The rules below only say where the recorded choices came from; a replay takes them from `given`.
def flip_stream(salt: str, step: int) -> np.random.RandomState:
    """uniform(size=2n): the n source images, then the n target images; an image is flipped where the number is < 0.5."""
    return stream(f"{salt}:flip:{step}")


def mix_stream(salt: str, step: int) -> np.random.RandomState:
    """Per image, in order: choice(k, ceil(k / 2), replace=False) into the k sorted label values of the whole batch (255 is one)."""
    return stream(f"{salt}:mix:{step}")


def mask_stream(salt: str, step: int) -> np.random.RandomState:
    """uniform(size=(n, tokens)); a token is replaced by the mask token where the number is < ratio, kept otherwise."""
    return stream(f"{salt}:mask:{step}")

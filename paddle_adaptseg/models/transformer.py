"""What vision transformers share: attention, drop path, their initial values, and how maps become tokens."""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(width)) v, all [N, tokens, heads, width]; keys and values may have other tokens than queries.

    In half precision on a GPU it is Paddle's fused attention, which takes no other numbers.
    """
    if _is_fused(q):
        return F.scaled_dot_product_attention(q, k, v)
    scores = paddle.matmul(q.transpose([0, 2, 1, 3]) * q.shape[-1] ** -0.5, k.transpose([0, 2, 3, 1]))
    return paddle.matmul(F.softmax(scores), v.transpose([0, 2, 1, 3])).transpose([0, 2, 1, 3])


def _is_fused(x: Tensor) -> bool:
    """Whether Paddle has fused attention for it. From 3.3 on (`F.sdpa`) it chooses one that the GPU can run; before, it
    always takes flash attention, which fails below compute capability 8."""
    if not (paddle.in_dynamic_mode() and x.place.is_gpu_place() and x.dtype in (paddle.float16, paddle.bfloat16)):
        return False
    return hasattr(F, "sdpa") or paddle.device.cuda.get_device_capability()[0] >= 8


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[N, ..., channels] to [N, tokens, heads, channels / heads]."""
    return x.reshape([0, -1, heads, x.shape[-1] // heads])


def reshape_like(x: Tensor, other: Tensor) -> Tensor:
    """In another tensor's shape, which a traced program may learn only when it runs."""
    shape = list(other.shape)
    return x.reshape(shape if all(isinstance(n, int) and n > 0 for n in shape) else paddle.shape(other))


def channels_last(x: Tensor) -> Tensor:
    """[N, C, h, w] to [N, h, w, C], on whose last axis linear layers and norms act."""
    return x.transpose([0, 2, 3, 1])


def channels_first(x: Tensor) -> Tensor:
    """[N, h, w, C] to [N, C, h, w]."""
    return x.transpose([0, 3, 1, 2])


class DropPath(nn.Layer):
    """In training leaves a residual branch out for a share of the images (stochastic depth, Huang et al. 2016)."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = paddle.rand([x.shape[0]] + [1] * (x.ndim - 1)) >= self.rate
        return x * (kept.astype(x.dtype) / (1.0 - self.rate))


def drop_rates(rate: float, blocks: int) -> list[float]:
    """Rates of all blocks: from 0 at the first linearly to `rate` at the last."""
    return [rate * index / max(blocks - 1, 1) for index in range(blocks)]


def linear(fan_in: int, fan_out: int) -> nn.Linear:
    """A linear layer with the initial values of transformers."""
    return nn.Linear(fan_in, fan_out, weight_attr=truncated_init(), bias_attr=zeros())


def convolution(fan_in: int, fan_out: int, kernel: int, stride: int, padding: int = 0, groups: int = 1) -> nn.Conv2D:
    """A convolution with bias; its initial deviation follows the number of outputs that an input reaches."""
    spread = nn.initializer.Normal(0.0, math.sqrt(2.0 * groups / (kernel * kernel * fan_out)))
    weight = ParamAttr(initializer=spread)
    return nn.Conv2D(fan_in, fan_out, kernel, stride, padding, 1, groups, weight_attr=weight, bias_attr=zeros())


def truncated_init(std: float = 0.02) -> ParamAttr:
    """Weights from a normal distribution without its tails."""
    return ParamAttr(initializer=nn.initializer.TruncatedNormal(0.0, std))


def zeros() -> ParamAttr:
    """Weights that start at 0."""
    return ParamAttr(initializer=nn.initializer.Constant(0.0))

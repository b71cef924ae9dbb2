"""Layers of transformers and their heads that oneDNN computes where it can; else they are Paddle's (layers.py)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Optional

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.cpu import tokens
from paddle_adaptseg.cpu.convolution import joined
from paddle_adaptseg.cpu.switch import SESSIONS, on_cpu, takes_over
from paddle_adaptseg.models.dinov2 import MLP, SelfAttention
from paddle_adaptseg.models.layers import Concat
from paddle_adaptseg.models.mit import EfficientAttention, MixFFN
from paddle_adaptseg.models.transformer import attention

LEAST = 2**14  # numbers; with fewer it takes longer to ask oneDNN than to compute
LEAST_SCORES = 2**20  # with fewer, computing them again saves little memory


class FastLayerNorm(nn.LayerNorm):
    """Layer norm over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        y = _attempt_norm(self, x)
        return nn.LayerNorm.forward(self, x) if y is None else y


class FastLinear(nn.Linear):
    """A linear layer with its bias."""

    def forward(self, x: Tensor) -> Tensor:
        y = _attempt_linear(self, x)
        return nn.Linear.forward(self, x) if y is None else y


class FastMLP(MLP):
    """Two linear layers and a GELU as one operation."""

    def forward(self, x: Tensor) -> Tensor:
        y = _attempt_mlp(self, x)
        return MLP.forward(self, x) if y is None else y


class FastMixFFN(MixFFN):
    """Two linear layers, a depthwise convolution and a GELU as one operation."""

    def forward(self, x: Tensor) -> Tensor:
        y = _attempt_mix(self, x)
        return MixFFN.forward(self, x) if y is None else y


@paddle.jit.not_to_static
def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1]
    ours = paddle.in_dynamic_mode() and scores >= LEAST_SCORES and takes_over(q, k, v)
    return tokens.attention(q, k, v) if ours else attention(q, k, v)


class FastEfficientAttention(EfficientAttention):
    """Attention by blocks."""

    attend = staticmethod(_attend)


class FastSelfAttention(SelfAttention):
    """Attention by blocks."""

    attend = staticmethod(_attend)


class FastConcat(Concat):
    """Where no gradient is wanted, maps are copied to their place as soon as they are made, and let go."""

    def forward(self, maps: Iterator[Tensor]) -> Tensor:
        y = _attempt_concat(self.channels, maps)
        return Concat.forward(self, maps) if y is None else y


FAST_TOKENS: Mapping[type, type] = {
    Concat: FastConcat,
    nn.LayerNorm: FastLayerNorm,
    nn.Linear: FastLinear,
    MLP: FastMLP,
    MixFFN: FastMixFFN,
    EfficientAttention: FastEfficientAttention,
    SelfAttention: FastSelfAttention,
}


@paddle.jit.not_to_static
def _large(x: Tensor) -> bool:
    """Whether it is worth while; never while a program is traced, where sizes are no numbers."""
    return paddle.in_dynamic_mode() and x.size >= LEAST


@paddle.jit.not_to_static
def _attempt_concat(channels: int, maps: Iterator[Tensor]) -> Optional[Tensor]:
    if not paddle.in_dynamic_mode() or paddle.is_grad_enabled() or not SESSIONS:
        return None
    first = next(maps)
    every = itertools.chain([first], maps)
    return joined(channels, every) if on_cpu(first) else paddle.concat(list(every), axis=1)


@paddle.jit.not_to_static
def _attempt_norm(norm: nn.LayerNorm, x: Tensor) -> Optional[Tensor]:
    if norm.weight is None or norm.bias is None or list(norm._normalized_shape) != [x.shape[-1]]:
        return None
    if not _large(x) or not takes_over(x, norm.weight, norm.bias):
        return None
    return tokens.normalised(x, norm.weight, norm.bias, norm._epsilon)


@paddle.jit.not_to_static
def _attempt_linear(layer: nn.Linear, x: Tensor) -> Optional[Tensor]:
    if x.ndim < 2 or not _large(x) or layer.bias is None or not takes_over(x, layer.weight, layer.bias):
        return None
    return tokens.linear(x, layer.weight, layer.bias)


@paddle.jit.not_to_static
def _attempt_mlp(layer: MLP, x: Tensor) -> Optional[Tensor]:
    parts = (layer.fc1, layer.fc2)
    if not _large(x) or not _untouched(*parts):
        return None
    (first, second) = ((part.weight, part.bias) for part in parts)
    return tokens.mlp(x, first, second) if takes_over(x, *first, *second) else None


@paddle.jit.not_to_static
def _attempt_mix(layer: MixFFN, x: Tensor) -> Optional[Tensor]:
    parts = (layer.fc1, layer.fc2, layer.dwconv)
    if not _large(x) or x.ndim != 4 or not _untouched(*parts):
        return None
    first, second, kernel = ((part.weight, part.bias) for part in parts)
    return tokens.mlp(x, first, second, kernel) if takes_over(x, *first, *second, *kernel) else None


def _untouched(*layers: nn.Layer) -> bool:
    """Whether nothing else happens when layers are called, and all have a bias."""
    return all(
        not layer._forward_pre_hooks
        and not layer._forward_post_hooks
        and "forward" not in vars(layer)
        and layer.bias is not None
        for layer in layers
    )

"""The Mix Transformer, SegFormer's backbone (Xie et al., NeurIPS 2021): four stages and no position embeddings.

Inside, maps are [N, height, width, channels], because linear layers and norms act on the last axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.models.transformer import (
    DropPath,
    attention,
    channels_first,
    channels_last,
    convolution,
    drop_rates,
    linear,
    reshape_like,
    split_heads,
)

_NARROW, _WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
MIT_SIZES: Mapping[str, Mapping[str, Any]] = {
    "mit_b0": {"embed_dims": _NARROW, "depths": (2, 2, 2, 2)},
    "mit_b1": {"embed_dims": _WIDE, "depths": (2, 2, 2, 2)},
    "mit_b2": {"embed_dims": _WIDE, "depths": (3, 4, 6, 3)},
    "mit_b3": {"embed_dims": _WIDE, "depths": (3, 4, 18, 3)},
    "mit_b4": {"embed_dims": _WIDE, "depths": (3, 8, 27, 3)},
    "mit_b5": {"embed_dims": _WIDE, "depths": (3, 6, 40, 3)},
}
PATCHES = ((7, 4), (3, 2), (3, 2), (3, 2))  # kernel and stride of each stage's patch embedding
EPSILON = 1e-6  # of the blocks' and stages' norms; those in patch embeddings and reductions keep the usual 1e-5


class PatchEmbedding(nn.Layer):
    """Overlapping patches [N, C, h, w] to tokens [N, h / stride, w / stride, width]."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = convolution(channels, width, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(channels_last(self.proj(x)))


class EfficientAttention(nn.Layer):
    """Self-attention whose keys and values come from a map that is `reduction` times smaller."""

    attend = staticmethod(attention)

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"model.backbone: {heads} attention heads do not divide {width} channels")
        self.heads, self.reduction = heads, reduction
        self.q, self.kv, self.proj = linear(width, width), linear(width, 2 * width), linear(width, width)
        if reduction > 1:
            self.sr, self.norm = convolution(width, width, reduction, reduction), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        if self.reduction > 1:
            seen = self.norm(channels_last(self.sr(channels_first(x))))
        k, v = self.kv(seen).chunk(2, axis=-1)
        q, k, v = (split_heads(part, self.heads) for part in (self.q(x), k, v))
        return self.proj(reshape_like(self.attend(q, k, v), x))


class MixFFN(nn.Layer):
    """Two linear layers with a depthwise 3x3 convolution between them, whose padding tells where a pixel is."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = linear(width, hidden), linear(hidden, width)
        self.dwconv = convolution(hidden, hidden, 3, 1, 1, groups=hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(channels_last(self.dwconv(channels_first(self.fc1(x))))))


class MixBlock(nn.Layer):
    """Attention and Mix-FFN, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, ratio: float, reduction: int, drop: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, EPSILON), EfficientAttention(width, heads, reduction)
        self.norm2, self.mlp = nn.LayerNorm(width, EPSILON), MixFFN(width, int(width * ratio))
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class MixTransformer(nn.Layer):
    """An image to the features of four stages, at a 4th, 8th, 16th and 32nd of its size; `widths` are their channels.

    `sr_ratios`: by how much each stage's attention reduces keys and values. `drop_path`: its last block's rate.
    """

    def __init__(
        self,
        embed_dims: tuple[int, int, int, int] = _NARROW,
        num_heads: tuple[int, int, int, int] = (1, 2, 5, 8),
        mlp_ratios: tuple[float, float, float, float] = (4.0, 4.0, 4.0, 4.0),
        depths: tuple[int, int, int, int] = (2, 2, 2, 2),
        sr_ratios: tuple[int, int, int, int] = (8, 4, 2, 1),
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        self.widths = tuple(embed_dims)
        rates, channels = drop_rates(drop_path, sum(depths)), 3
        for index, (width, (kernel, stride)) in enumerate(zip(embed_dims, PATCHES)):
            own, rates = rates[: depths[index]], rates[depths[index] :]
            shape = width, num_heads[index], mlp_ratios[index], sr_ratios[index]
            setattr(self, f"patch_embed{index + 1}", PatchEmbedding(channels, width, kernel, stride))
            setattr(self, f"block{index + 1}", nn.LayerList([MixBlock(*shape, rate) for rate in own]))
            setattr(self, f"norm{index + 1}", nn.LayerNorm(width, EPSILON))
            channels = width

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        stages = []
        for index in range(1, 5):
            tokens = getattr(self, f"patch_embed{index}")(x)
            for block in getattr(self, f"block{index}"):
                tokens = block(tokens)
            x = channels_first(getattr(self, f"norm{index}")(tokens))
            stages.append(x)
        return tuple(stages)

"""SegFormer's head (Xie et al., NeurIPS 2021): every stage to one width and size, then mixed pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable

from paddle import ParamAttr, Tensor, nn

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.models.deeplabv3plus import conv_norm
from paddle_adaptseg.models.layers import NORMS, Concat, NormPolicy, normal_init, resize_like
from paddle_adaptseg.models.transformer import channels_first, channels_last


class StageEmbedding(nn.Layer):
    """A linear layer on the channels of a stage [N, C, h, w]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        spread = ParamAttr(initializer=nn.initializer.Uniform(-(channels**-0.5), channels**-0.5))
        self.proj = nn.Linear(channels, width, weight_attr=spread, bias_attr=spread)

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(self.proj(channels_last(x)))


EMBEDDINGS: Mapping[str, Callable[[int, int, NormPolicy], nn.Layer]] = {
    "linear": lambda channels, width, norm: StageEmbedding(channels, width),
    "conv": lambda channels, width, norm: conv_norm(channels, width, 1, norm),
}


class SegFormerHead(nn.Layer):
    """From the features of four stages to logits of the first one's size.

    `embedding`: what brings a stage to the common width: a linear layer, or (mmsegmentation) a convolution, norm and
    ReLU.
    """

    def __init__(
        self, classes: int, widths: Sequence[int], embed_dim: int = 256, dropout: float = 0.1, norm: str = "batch",
        embedding: str = "linear",
    ) -> None:  # fmt: skip
        super().__init__()
        self.keywords: dict[str, Any] = {
            "widths": widths, "dropout": dropout, "norm": norm, "embedding": embedding,
        }  # fmt: skip
        policy = lookup(NORMS, norm, "model.head.norm")
        make = lookup(EMBEDDINGS, embedding, "model.head.embedding")
        self.linear_c = nn.LayerList([make(width, embed_dim, policy) for width in widths])
        self.join = Concat(embed_dim * len(widths))
        self.linear_fuse = conv_norm(self.join.channels, embed_dim, 1, policy)
        self.dropout = nn.Dropout2D(dropout)
        self.linear_pred = nn.Conv2D(embed_dim, classes, 1, weight_attr=normal_init())

    def like(self, outputs: int, width: int) -> SegFormerHead:
        """A narrower head for other outputs."""
        return SegFormerHead(outputs, embed_dim=width, **self.keywords)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        maps = (resize_like(embed(x), stages[0], False) for embed, x in zip(self.linear_c, stages))
        return self.linear_pred(self.dropout(self.linear_fuse(self.join(maps))))

"""DAFormer's head (Hoyer et al., CVPR 2022): context-aware fusion of all stages at the finest one's size.

The paper's fusion is `sepaspp`, a pyramid of dilated depthwise-separable convolutions; the others are its ablations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paddle import Tensor, nn

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.models.deeplabv3plus import ImagePooling, conv_norm
from paddle_adaptseg.models.isa import InterlacedAttention
from paddle_adaptseg.models.layers import NORMS, Concat, NormPolicy, normal_init, resize_like
from paddle_adaptseg.models.segformer import StageEmbedding


def separable(fan_in: int, fan_out: int, norm: NormPolicy, dilation: int) -> nn.Sequential:
    """A dilated 3x3 convolution of each channel by itself, then a 1x1 convolution; norm and ReLU after both."""
    return nn.Sequential(
        conv_norm(fan_in, fan_in, 3, norm, dilation, groups=fan_in), conv_norm(fan_in, fan_out, 1, norm)
    )


class ContextFusion(nn.Layer):
    """Dilated convolutions side by side, then mixed by a 3x3 convolution; with `pool` the image's mean beside them."""

    def __init__(
        self, fan_in: int, width: int, norm: NormPolicy, dilations: Sequence[int], depthwise: bool, pool: bool
    ) -> None:
        super().__init__()
        self.image_pool = ImagePooling(fan_in, width, norm) if pool else None
        self.aspp_modules = nn.LayerList()
        for dilation in dilations:
            if depthwise and dilation > 1:
                self.aspp_modules.append(separable(fan_in, width, norm, dilation))
            else:
                self.aspp_modules.append(conv_norm(fan_in, width, 1 if dilation == 1 else 3, norm, dilation))
        channels = (len(dilations) + pool) * width
        self.join, self.bottleneck = Concat(channels), conv_norm(channels, width, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        first = [] if self.image_pool is None else [self.image_pool]
        return self.bottleneck(self.join(branch(x) for branch in [*first, *self.aspp_modules]))


# fusion -> a layer from (channels in, channels out, norm, the head's keywords)
FUSIONS: Mapping[str, Callable[..., nn.Layer]] = {
    "sepaspp": lambda i, o, norm, dilations, pool, **_: ContextFusion(i, o, norm, dilations, True, pool),
    "aspp": lambda i, o, norm, dilations, pool, **_: ContextFusion(i, o, norm, dilations, False, pool),
    "conv": lambda i, o, norm, kernel, **_: conv_norm(i, o, kernel, norm),
    "isa": lambda i, o, norm, isa_channels, down_factor, **_: InterlacedAttention(
        i, o, norm, isa_channels, down_factor
    ),
}


class DAFormerHead(nn.Layer):
    """From the features of four stages to logits of the first one's size.

    `dilations` and `pool` are those of the fusions sepaspp and aspp, `kernel` that of conv, the last two isa's.
    """

    def __init__(
        self,
        classes: int,
        widths: Sequence[int],
        channels: int = 256,
        embed_dims: int = 256,
        fusion: str = "sepaspp",
        dilations: tuple[int, ...] = (1, 6, 12, 18),
        pool: bool = False,
        kernel: int = 1,
        isa_channels: int = 128,
        down_factor: tuple[int, int] = (8, 8),
        dropout: float = 0.1,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        make, policy = lookup(FUSIONS, fusion, "model.head.fusion"), lookup(NORMS, norm, "model.head.norm")
        options: dict[str, Any] = {"kernel": kernel, "isa_channels": isa_channels, "down_factor": down_factor}
        self.keywords = {"widths": widths, "fusion": fusion, **options, "dropout": dropout, "norm": norm}  # for like()
        options.update(dilations=dilations, pool=pool)
        self.embed_layers = nn.LayerList([StageEmbedding(width, embed_dims) for width in widths])
        self.join = Concat(embed_dims * len(widths))
        self.fuse_layer = make(self.join.channels, channels, policy, **options)
        self.dropout = nn.Dropout2D(dropout)
        self.conv_seg = nn.Conv2D(channels, classes, 1, weight_attr=normal_init())

    def like(self, outputs: int, width: int) -> DAFormerHead:
        """A narrower head for other outputs; a 1x1 convolution stands for dilated ones."""
        fusion = "conv" if "aspp" in self.keywords["fusion"] else self.keywords["fusion"]
        return DAFormerHead(outputs, channels=width, embed_dims=width, **{**self.keywords, "fusion": fusion})

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        maps = (resize_like(embed(x), stages[0], False) for embed, x in zip(self.embed_layers, stages))
        return self.conv_seg(self.dropout(self.fuse_layer(self.join(maps))))

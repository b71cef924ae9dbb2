"""The heads of both transformer benchmarks in plain PyTorch, from the papers; parameters are named as ours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def conv_norm(fan_in: int, fan_out: int, kernel: int, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(fan_in, fan_out, kernel, 1, dilation * (kernel // 2), dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(fan_out), nn.ReLU())


class Fusion(nn.Module):
    def __init__(self, fan_in: int, width: int) -> None:
        super().__init__()
        wide = [
            nn.Sequential(conv_norm(fan_in, fan_in, 3, d, fan_in), conv_norm(fan_in, width, 1)) for d in (6, 12, 18)
        ]
        self.aspp_modules = nn.ModuleList([conv_norm(fan_in, width, 1), *wide])
        self.bottleneck = conv_norm(4 * width, width, 3)

    def forward(self, x):
        return self.bottleneck(torch.cat([branch(x) for branch in self.aspp_modules], 1))


class StageEmbedding(nn.Module):
    def __init__(self, fan_in: int, width: int = 256) -> None:
        super().__init__()
        self.proj = nn.Linear(fan_in, width)

    def forward(self, x):
        return self.proj(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])


def gathered(embeddings, stages):
    """Every stage embedded, at the size of the first, side by side."""
    maps = [embed(x) for embed, x in zip(embeddings, stages)]
    size = maps[0].shape[2:]
    return torch.cat([maps[0], *(F.interpolate(x, size=size, mode="bilinear") for x in maps[1:])], 1)


class DAFormerHead(nn.Module):
    """DAFormer's; the attention of HRDA is one whose fusion is a 1x1 convolution."""

    def __init__(self, widths, classes: int, narrow: bool = False) -> None:
        super().__init__()
        self.embed_layers = nn.ModuleList([StageEmbedding(width) for width in widths])
        self.fuse_layer = conv_norm(1024, 256, 1) if narrow else Fusion(1024, 256)
        self.conv_seg = nn.Conv2d(256, classes, 1)

    def forward(self, stages):
        return self.conv_seg(self.fuse_layer(gathered(self.embed_layers, stages)))


class SegFormerHead(nn.Module):
    def __init__(self, widths, classes: int) -> None:
        super().__init__()
        width = 256 if widths[0] == 32 else 768
        self.linear_c = nn.ModuleList([StageEmbedding(fan_in, width) for fan_in in widths])
        self.linear_fuse, self.linear_pred = conv_norm(4 * width, width, 1), nn.Conv2d(width, classes, 1)

    def forward(self, stages):
        return self.linear_pred(self.linear_fuse(gathered(self.linear_c, stages)))


class ChannelNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LightHead(nn.Module):
    def __init__(self, widths, classes: int) -> None:
        super().__init__()
        width = widths[-1]
        half, quarter = width // 2, width // 4
        self.upscale = nn.Sequential(
            nn.ConvTranspose2d(width, half, 2, 2, bias=False), ChannelNorm(half, 1e-6), nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2, bias=False), ChannelNorm(quarter, 1e-6),
            nn.Conv2d(quarter, quarter, 3, 1, 1, bias=False), ChannelNorm(quarter, 1e-6),
        )  # fmt: skip
        self.out = nn.Conv2d(quarter, classes, 1, bias=False)

    def forward(self, stages):
        return self.out(self.upscale(stages[-1]))


HEADS = {"daformer": DAFormerHead, "segformer": SegFormerHead, "light": LightHead}

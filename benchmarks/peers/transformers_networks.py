"""The networks of both transformer benchmarks in plain PyTorch, from the papers; parameters are named as ours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import transformers_common as common
from torch import nn
from transformers_heads import HEADS

MIT = {"mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)), "mit_b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
       "mit_b5": ((64, 128, 320, 512), (3, 6, 40, 3))}  # fmt: skip


class Embedding(nn.Module):
    """Overlapping patches to tokens."""

    def __init__(self, fan_in: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(fan_in, width, kernel, stride, kernel // 2), nn.LayerNorm(width)

    def forward(self, x):
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), x.shape[2:]


class Attention(nn.Module):
    """Attention to a map that is `reduction` times smaller."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.sr = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        if reduction > 1:
            self.norm = nn.LayerNorm(width)

    def forward(self, x, size):
        n, tokens, width = x.shape
        seen = x
        if self.sr is not None:
            seen = self.sr(x.transpose(1, 2).reshape(n, width, *size)).flatten(2).transpose(1, 2)
            seen = self.norm(seen)
        q = self.q(x).reshape(n, tokens, self.heads, -1).transpose(1, 2)
        k, v = self.kv(seen).reshape(n, seen.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(n, tokens, width))


FUSED = [False]  # PyTorch's scaled_dot_product_attention instead of its separate operators


def attend(q, k, v):
    if FUSED[0]:
        return F.scaled_dot_product_attention(q, k, v)
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v


class MixFFN(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dwconv = nn.Conv2d(4 * width, 4 * width, 3, 1, 1, groups=4 * width)

    def forward(self, x, size):
        y = self.fc1(x)
        y = y.transpose(1, 2).reshape(y.shape[0], -1, *size)
        return self.fc2(F.gelu(self.dwconv(y).flatten(2).transpose(1, 2)))


class MixBlock(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn, self.mlp = Attention(width, heads, reduction), MixFFN(width)

    def forward(self, x, size):
        x = x + self.attn(self.norm1(x), size)
        return x + self.mlp(self.norm2(x), size)


class MixTransformer(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        (self.widths, depths), fan_in = MIT[name], 3
        for index, (width, depth) in enumerate(zip(self.widths, depths)):
            kernel, stride = (7, 4) if index == 0 else (3, 2)
            blocks = [MixBlock(width, (1, 2, 5, 8)[index], (8, 4, 2, 1)[index]) for _ in range(depth)]
            setattr(self, f"patch_embed{index + 1}", Embedding(fan_in, width, kernel, stride))
            setattr(self, f"block{index + 1}", nn.ModuleList(blocks))
            setattr(self, f"norm{index + 1}", nn.LayerNorm(width, 1e-6))
            fan_in = width

    def forward(self, x):
        stages = []
        for index in range(1, 5):
            tokens, size = getattr(self, f"patch_embed{index}")(x)
            for block in getattr(self, f"block{index}"):
                tokens = block(tokens, size)
            tokens = getattr(self, f"norm{index}")(tokens)
            x = tokens.transpose(1, 2).reshape(x.shape[0], -1, *size).contiguous()
            stages.append(x)
        return stages


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(n, tokens, width))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class ViTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn, self.mlp, self.ls1, self.ls2 = SelfAttention(width, heads), MLP(width), Scale(width), Scale(width)

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Patches(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 14, 14)

    def forward(self, x):
        return self.proj(x)


class DINOv2(nn.Module):
    """ViT-S/14 with positions of a 37x37 grid, on an image enlarged to the multiple of 14 below 1.1 times its side."""

    def __init__(self, name: str, width: int = 384, heads: int = 6, depth: int = 12) -> None:
        super().__init__()
        self.widths = (width,)
        self.patch_embed = Patches(width)
        self.cls_token, self.mask_token = (nn.Parameter(torch.zeros(s)) for s in ((1, 1, width), (1, width)))
        self.pos_embed = nn.Parameter(torch.zeros(1, 37 * 37 + 1, width))
        self.blocks = nn.ModuleList([ViTBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, 1e-6)

    def positions(self, rows: int):
        grid = self.pos_embed[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=(rows + 0.1) / 37, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], 1)

    def forward(self, image, kept=None):
        rows = int(image.shape[2] * 1.1 // 14)
        x = F.interpolate(image, size=(14 * rows, 14 * rows), mode="bilinear")
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        if kept is not None:
            x = torch.where(kept.flatten(1).unsqueeze(2), x, self.mask_token.unsqueeze(0))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.positions(rows)
        for block in self.blocks:
            x = block(x)
        return [self.norm(x)[:, 1:].transpose(1, 2).reshape(len(x), -1, rows, rows)]


class Network(nn.Module):
    """A backbone and its head; `features` are kept for the feature distance."""

    def __init__(self, name: str, classes: int, head: str = "") -> None:
        super().__init__()
        vision = name.startswith("dinov2")
        self.backbone = DINOv2(name) if vision else MixTransformer(name)
        head = head or ("light" if vision else "daformer")
        self.heads = nn.ModuleDict({"main": HEADS[head](self.backbone.widths, classes)})

    def logits(self, image, kept=None):
        """At the network's own resolution."""
        self.features = self.backbone(image) if kept is None else self.backbone(image, kept)
        return self.heads["main"](self.features)

    def forward(self, image, kept=None):
        return F.interpolate(self.logits(image, kept), size=image.shape[2:], mode="bilinear")


def fill(network: nn.Module) -> None:
    """Every parameter's value by the common rule; ours keep a linear layer's weights as [inputs, outputs]."""
    linear = {name for name, m in network.named_modules() if isinstance(m, nn.Linear)}
    for name, parameter in network.named_parameters():
        transposed = name.endswith("weight") and name.rsplit(".", 1)[0] in linear
        shape = tuple(parameter.shape)[::-1] if transposed else tuple(parameter.shape)
        value = torch.from_numpy(common.weights(name, shape))
        parameter.data = value.t().contiguous() if transposed else value

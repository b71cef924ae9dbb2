"""DINOv2's vision transformers (Oquab et al., TMLR 2024), and their variants with registers (Darcet et al., ICLR 2024).

Names of tensors are the original ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn

from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.models.layers import resize
from paddle_adaptseg.models.positions import interpolated
from paddle_adaptseg.models.transformer import (
    DropPath,
    attention,
    drop_rates,
    linear,
    reshape_like,
    split_heads,
    truncated_init,
    zeros,
)

_WIDTHS = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "g": (1536, 40, 24)}
_FFN = {"g": {"ffn": "swiglu"}}
_REGISTERS = {"registers": 4, "offset": 0.0, "antialias": True}
DINOV2_SIZES: Mapping[str, Mapping[str, Any]] = {
    f"dinov2_vit{letter}14{suffix}": {
        "width": width,
        "depth": depth,
        "num_heads": heads,
        **_FFN.get(letter, {}),
        **more,
    }
    for letter, (width, depth, heads) in _WIDTHS.items()
    for suffix, more in (("", {}), ("_reg", _REGISTERS))
}
EPSILON = 1e-6


class SelfAttention(nn.Layer):
    """Self-attention of tokens [N, L, width]."""

    attend = staticmethod(attention)

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"model.backbone: {heads} attention heads do not divide {width} channels")
        self.heads, self.qkv, self.proj = heads, linear(width, 3 * width), linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, axis=-1))
        return self.proj(reshape_like(self.attend(q, k, v), x))


class MLP(nn.Layer):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = linear(width, int(width * ratio)), linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Layer):
    """A gated MLP (Shazeer, arXiv:2002.05202) of as many parameters, its width rounded up to a multiple of 8."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8
        self.w12, self.w3 = linear(width, 2 * hidden), linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, axis=-1)
        return self.w3(F.silu(gate) * value)


FFNS: Mapping[str, type[nn.Layer]] = {"mlp": MLP, "swiglu": SwiGLU}


class LayerScale(nn.Layer):
    """A learnt factor for each channel."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        start_attr = ParamAttr(initializer=nn.initializer.Constant(start))
        self.gamma = self.create_parameter([width], attr=start_attr)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Layer):
    """Attention and MLP, each behind a norm, scaled, and beside a shortcut."""

    def __init__(self, width: int, heads: int, ratio: float, ffn: type[nn.Layer], scale: float, drop: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, EPSILON), SelfAttention(width, heads)
        self.ls1, self.ls2 = LayerScale(width, scale), LayerScale(width, scale)
        self.norm2, self.mlp = nn.LayerNorm(width, EPSILON), ffn(width, ratio)
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop(self.ls2(self.mlp(self.norm2(x))))


class PatchEmbedding(nn.Layer):
    """Patches side by side to [N, width, rows, columns]."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2D(3, width, patch, patch, weight_attr=truncated_init(), bias_attr=zeros())

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class DINOv2(nn.Layer):
    """An image to maps of patch tokens after the blocks `layers` (none: after the last); `widths` are their channels.

    An image is first resized so that its sides are multiples of a patch: to the next ones, or with `image_size` (the
    crops that training sees) as VFM-UDA does, its shorter side to the multiple below 1.1 times that.
    """

    fixed_size = True  # position embeddings are resized by matrices that are made for a size

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        ffn: str = "mlp",
        registers: int = 0,
        patch: int = 14,
        stored_grid: int = 37,
        offset: float = 0.1,
        antialias: bool = False,
        layer_scale: float = 1.0,
        drop_path: float = 0.0,
        layers: tuple[int, ...] = (),
        image_size: int = 0,
    ) -> None:
        super().__init__()
        if ffn not in FFNS:
            raise ConfigError(f"model.backbone.ffn must be one of {', '.join(FFNS)}, not '{ffn}'")
        if any(not 0 <= layer < depth for layer in layers):
            raise ConfigError(f"model.backbone.layers must be blocks 0 to {depth - 1}, not {list(layers)}")
        self.patch, self.stored_grid, self.rule = patch, stored_grid, (offset, antialias)
        self.image_size, self.layers = image_size, tuple(sorted(layers)) or (depth - 1,)
        self.widths, self.registers = (width,) * len(self.layers), registers
        self.patch_embed = PatchEmbedding(width, patch)
        self.cls_token = self._tokens([1, 1, width])
        self.pos_embed = self._tokens([1, 1 + stored_grid**2, width])
        self.mask_token = self._tokens([1, width])
        if registers:
            self.register_tokens = self._tokens([1, registers, width])
        shape = width, num_heads, mlp_ratio, FFNS[ffn], layer_scale
        self.blocks = nn.LayerList([Block(*shape, rate) for rate in drop_rates(drop_path, depth)])
        self.norm = nn.LayerNorm(width, EPSILON)

    def _tokens(self, shape: Sequence[int]) -> Tensor:
        return self.create_parameter(list(shape), attr=truncated_init())

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """The size to which an image is resized."""
        if not self.image_size:
            return -(-height // self.patch) * self.patch, -(-width // self.patch) * self.patch
        side = max(self.patch, int(self.image_size * 1.1 // self.patch * self.patch))
        shorter = min(height, width)
        tall, wide = (round(n * side / shorter / self.patch) * self.patch for n in (height, width))
        return tall, wide

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of an image's patch tokens."""
        tall, wide = self.working_size(height, width)
        return tall // self.patch, wide // self.patch

    def positions(self, rows: int, columns: int) -> Tensor:
        """The embeddings of CLS token and patches [1, 1 + rows * columns, width]."""
        if rows == columns == self.stored_grid:
            return self.pos_embed
        grid = self.pos_embed[0, 1:].reshape([self.stored_grid, self.stored_grid, -1])
        return paddle.concat([self.pos_embed[:, :1], interpolated(grid, rows, columns, *self.rule).unsqueeze(0)], 1)

    def tokens(self, image: Tensor, kept: Optional[Tensor] = None) -> list[Tensor]:
        """Tokens after each of `layers`, before the final norm: CLS, registers, patches row by row.

        Where `kept` [N, rows, columns] is 0 the mask token stands for the patch.
        """
        image = resize(image, self.working_size(*image.shape[2:]), align_corners=False)
        x = self.patch_embed(image)
        rows, columns = x.shape[2:]
        x = x.flatten(2).transpose([0, 2, 1])
        if kept is not None:
            share = kept.astype(x.dtype).flatten(1).unsqueeze(2)
            x = x * share + self.mask_token.unsqueeze(0) * (1.0 - share)
        first = self.cls_token.expand([x.shape[0], -1, -1])
        x = paddle.concat([first, x], axis=1) + self.positions(rows, columns)
        if self.registers:
            registers = self.register_tokens.expand([x.shape[0], -1, -1])
            x = paddle.concat([x[:, :1], registers, x[:, 1:]], axis=1)
        found = []
        for index, block in enumerate(self.blocks[: self.layers[-1] + 1]):
            x = block(x)
            if index in self.layers:
                found.append(x)
        return found

    def forward(self, image: Tensor, kept: Optional[Tensor] = None) -> tuple[Tensor, ...]:
        rows, columns = self.grid(*image.shape[2:])
        patches = [self.norm(x)[:, 1 + self.registers :] for x in self.tokens(image, kept)]
        return tuple(x.transpose([0, 2, 1]).reshape([0, -1, rows, columns]) for x in patches)

"""The network as one program from an RGB picture to class indices: normalising before it, resizing and argmax after.

What a user feeds is what a decoder gives (uint8, height x width x 3, RGB); nothing about means, channel order or label
upsampling is left to get wrong outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.config import Pixels
from paddle_adaptseg.models.layers import resize_like
from paddle_adaptseg.models.segmenter import Segmenter


class LabelProgram(nn.Layer):
    """uint8 [1, H, W, 3] RGB to int32 [1, H, W]; `size` (height, width) is fixed, or None for any size."""

    def __init__(self, network: Segmenter, pixels: Pixels, size: Optional[Sequence[int]]) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.reverse = pixels.order == "bgr"
        self.register_buffer("mean", paddle.to_tensor(pixels.mean, "float32").reshape([1, 3, 1, 1]))
        self.register_buffer("deviation", paddle.to_tensor(pixels.std, "float32").reshape([1, 3, 1, 1]))

    def spec(self) -> paddle.static.InputSpec:
        """What is fed."""
        height, width = self.size or (-1, -1)
        return paddle.static.InputSpec([1, height, width, 3], "uint8", "image")

    def forward(self, image: Tensor) -> Tensor:
        x = image.astype("float32").transpose([0, 3, 1, 2])  # Paddle 2.6 traces no transpose of uint8
        if self.reverse:
            x = paddle.flip(x, axis=[1])
        x = (x - self.mean) / self.deviation
        logits = self.network.logits(x)["main"]
        return resize_like(logits, x, self.network.align_corners).argmax(axis=1).astype("int32")


class PlainGroupNorm(nn.Layer):
    """Group norm from elementary operations: paddle2onnx 2.1 turns Paddle 3's own one into NaN, and
    1.3 converts this one wrongly, but Paddle 2.6's own one rightly."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.groups, self.epsilon = norm._num_groups, norm._epsilon

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(1).reshape([1, self.groups, -1])
        y = y - y.mean(axis=-1, keepdim=True)
        y = y * paddle.rsqrt((y * y).mean(axis=-1, keepdim=True) + self.epsilon)
        return y.reshape(paddle.shape(x)) * self.weight.reshape([1, -1, 1, 1]) + self.bias.reshape([1, -1, 1, 1])


def plain_norms(layer: nn.Layer) -> None:
    """Replace every group norm below a layer by its elementary form."""
    for name, child in list(layer.named_children()):
        if isinstance(child, nn.GroupNorm):
            setattr(layer, name, PlainGroupNorm(child))
        else:
            plain_norms(child)

"""HRDA around a network, in plain PyTorch, written from the paper; parameters are named as ours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers_heads import DAFormerHead
from transformers_networks import Network

STRIDE = 4  # pixels of an image for each logit of a detail; the context has one for twice as many


def enlarged(x, size):
    return F.interpolate(x, size=tuple(size), mode="bilinear")


class HRDA(nn.Module):
    """The image at half its size, and detail crops of `side` pixels."""

    def __init__(self, name: str, classes: int, side: int) -> None:
        super().__init__()
        self.network, self.side = Network(name, classes), side
        self.attention = DAFormerHead(self.network.backbone.widths, classes, narrow=True)

    @property
    def backbone(self):
        return self.network.backbone

    def context(self, image):
        """Logits of the half-size image and how much the detail counts there; features for the feature distance."""
        logits = self.network.logits(F.avg_pool2d(image, 2))
        self.features = self.network.features
        return logits, self.attention(self.features).sigmoid()

    def join(self, context, attention, detail, size):
        """Logits at image size."""
        grid = detail.shape[2:]
        return enlarged(enlarged(attention, grid) * detail + enlarged((1 - attention) * context, grid), size)

    def forward(self, image):
        """The detail of the whole image, in windows that overlap by half."""
        context, attention = self.context(image)
        side, half, (height, width) = self.side, self.side // 2, image.shape[2:]
        places = [(y, x) for y in range(0, height - half, half) for x in range(0, width - half, half)]
        parts = self.network.logits(torch.cat([image[:, :, y : y + side, x : x + side] for y, x in places]))
        cells = side // STRIDE
        total = parts.new_zeros(len(image), parts.shape[1] + 1, height // STRIDE, width // STRIDE)
        for (y, x), part in zip(places, parts.split(len(image))):
            seen = total[:, :, y // STRIDE : y // STRIDE + cells, x // STRIDE : x // STRIDE + cells]
            seen[:, :-1] += part
            seen[:, -1:] += 1
        return self.join(context, attention, total[:, :-1] / total[:, -1:], image.shape[2:])

    def with_detail(self, image, top: int, left: int):
        """Logits at the image's size, and of the crop at (top, left) at the crop's."""
        context, attention = self.context(image)
        detail = self.network.logits(image[:, :, top : top + self.side, left : left + self.side])
        inside = torch.zeros_like(attention)
        y, x, cells = top // (2 * STRIDE), left // (2 * STRIDE), self.side // (2 * STRIDE)
        inside[:, :, y : y + cells, x : x + cells] = 1
        (height, width), (rows, columns) = (n // STRIDE for n in image.shape[2:]), detail.shape[2:]
        y, x = top // STRIDE, left // STRIDE
        placed = F.pad(detail, (x, width - x - columns, y, height - y - rows))
        main = self.join(context, attention * inside, placed, image.shape[2:])
        return main, enlarged(detail, (self.side, self.side))

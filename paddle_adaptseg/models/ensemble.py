"""Several networks as one: the weighted mean of their class probabilities (AdvEnt + MinEnt in Vu et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.models.segmenter import Segmenter


class Ensemble(Segmenter):
    """Members must predict the same classes; weights need not sum to 1."""

    def __init__(self, members: Sequence[Segmenter], weights: Sequence[float] = ()) -> None:
        super().__init__()
        weights = list(weights) or [1.0] * len(members)
        if len(weights) != len(members) or min(weights) < 0 or sum(weights) <= 0:
            raise ConfigError(f"{len(members)} models need as many weights of 0 or more, not {weights}")
        self.members = nn.LayerList(list(members))
        self.weights = [w / sum(weights) for w in weights]

    def predict(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Logarithms of the averaged probabilities, so that softmax gives the average back."""
        parts = [w * F.softmax(m.predict(image, size), axis=1) for m, w in zip(self.members, self.weights)]
        return sum(parts).clip(min=1e-30).log()

    def forward(self, image: Tensor, size: Optional[tuple[int, int]] = None) -> dict[str, Tensor]:
        return {"main": self.predict(image, size or tuple(image.shape[2:]))}

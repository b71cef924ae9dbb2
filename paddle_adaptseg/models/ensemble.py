"""Several networks whose class probabilities are averaged with weights (AdvEnt + MinEnt in Vu et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

from paddle import nn

from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.models.segmenter import Segmenter


class Ensemble(nn.Layer):
    """Members must predict the same classes; weights need not sum to 1. evaluation.predictor does the averaging."""

    def __init__(self, members: Sequence[Segmenter], weights: Sequence[float] = ()) -> None:
        super().__init__()
        weights = list(weights) or [1.0] * len(members)
        if len(weights) != len(members) or min(weights) < 0 or sum(weights) <= 0:
            raise ConfigError(f"{len(members)} models need as many weights of 0 or more, not {weights}")
        self.members = nn.LayerList(list(members))
        self.weights = [w / sum(weights) for w in weights]


Network = Union[Segmenter, Ensemble]  # what can predict

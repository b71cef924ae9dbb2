"""Pure functions from logits to scalars. Softmax runs over axis 1 everywhere (Paddle's default is the last axis).

AdaptSegNet: Tsai et al., CVPR 2018. LS-GAN: Mao et al., ICCV 2017. Self-information: Vu et al., CVPR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Callable

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_adaptseg.labels import IGNORE

SOURCE, TARGET = 0.0, 1.0  # what a critic answers for each domain


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over labelled pixels; logits [N, C, H, W], label [N, H, W] with IGNORE. 0 when nothing is labelled."""
    return F.cross_entropy(logits, label.unsqueeze(1), ignore_index=IGNORE, axis=1)


def vanilla_gan(verdict: Tensor, domain: float) -> Tensor:
    """Binary cross entropy of a critic's logits against one domain."""
    return F.binary_cross_entropy_with_logits(verdict, paddle.full_like(verdict, domain))


def least_squares_gan(verdict: Tensor, domain: float) -> Tensor:
    """Mean squared distance of a critic's output from one domain."""
    return ((verdict - domain) ** 2).mean()


GAN_LOSSES: Mapping[str, Callable[[Tensor, float], Tensor]] = {"vanilla": vanilla_gan, "ls": least_squares_gan}


def softmax(logits: Tensor) -> Tensor:
    """Class probabilities [N, C, H, W]."""
    return F.softmax(logits, axis=1)


def self_information(logits: Tensor) -> Tensor:
    """Weighted self-information -p log p / log C [N, C, H, W]; finite at p = 0 through log-softmax."""
    log_p = F.log_softmax(logits, axis=1)
    return -(log_p.exp() * log_p) / math.log(logits.shape[1])


REPRESENTATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"softmax": softmax, "self_information": self_information}


def entropy_map(logits: Tensor) -> Tensor:
    """Normalised entropy of every pixel [N, H, W], 0 (sure) to 1 (uniform)."""
    return self_information(logits).sum(axis=1)

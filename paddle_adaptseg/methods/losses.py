"""Pure functions from logits to scalars. Softmax runs over axis 1 everywhere (Paddle's default is the last axis).

On a CPU Paddle's softmax takes every logit for at least the largest less 64, and its logarithm and its cross entropy
inherit that. Here they are put together from the logarithm of the sum of exp(x - max), which is exact.

AdaptSegNet: Tsai et al., CVPR 2018. LS-GAN: Mao et al., ICCV 2017. Self-information: Vu et al., CVPR 2019.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Callable, Optional

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_adaptseg.core.labels import IGNORE

FOCAL_MARGIN = 1e-9
SOURCE, TARGET = 0.0, 1.0  # what a critic answers for each domain


def labelled(label: Tensor) -> Tensor:
    """How many pixels carry a label: what cross_entropy and focal_cross_entropy are means over."""
    return (label != IGNORE).sum()


def _below_the_largest(logits: Tensor) -> Tensor:
    """Logits less the largest of their pixel."""
    largest = functools.reduce(paddle.maximum, logits.detach().unbind(axis=1)).unsqueeze(1)
    return logits - largest.expand(logits.shape)  # broadcasting itself is slow on a CPU


def _softmax(logits: Tensor) -> Tensor:
    if not logits.place.is_cpu_place():
        return F.softmax(logits, axis=1)
    powers = _below_the_largest(logits).exp()
    return powers / powers.sum(axis=1, keepdim=True).expand(logits.shape)


def _log_softmax(logits: Tensor) -> Tensor:
    if not logits.place.is_cpu_place():
        return F.log_softmax(logits, axis=1)
    below = _below_the_largest(logits)
    return below - below.exp().sum(axis=1, keepdim=True).log().expand(logits.shape)


def _cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    known = label != IGNORE
    weight = known.astype(logits.dtype)
    if not logits.place.is_cpu_place():
        # Paddle 2.6's own mean asks on the host whether anything is ignored, and so waits for the device.
        each = F.cross_entropy(logits, label.unsqueeze(1), ignore_index=IGNORE, axis=1, reduction="none").squeeze(1)
    else:
        below = _below_the_largest(logits)
        each = below.exp().sum(axis=1).log() - of_label(below, label)
    return (each * weight).sum() / weight.sum().clip(min=1.0)


PLAIN: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {"softmax": _softmax, "log_softmax": _log_softmax, "cross_entropy": _cross_entropy}
)
# What costs most of a loss; where networks are accelerated, these are too (cpu/).
PIXELWISE: dict[str, Callable[..., Tensor]] = dict(PLAIN)


def softmax(logits: Tensor) -> Tensor:
    """Class probabilities [N, C, H, W]."""
    return PIXELWISE["softmax"](logits)


def log_softmax(logits: Tensor) -> Tensor:
    """Their logarithms."""
    return PIXELWISE["log_softmax"](logits)


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over labelled pixels; logits [N, C, H, W], label [N, H, W] with IGNORE. 0 when nothing is labelled."""
    return PIXELWISE["cross_entropy"](logits, label)


def of_label(x: Tensor, label: Tensor) -> Tensor:
    """x [N, C, H, W] at each pixel's class [N, H, W]; at the first class where there is no label."""
    chosen = label * (label != IGNORE).astype(label.dtype)
    return paddle.take_along_axis(x, chosen.unsqueeze(1), axis=1).squeeze(1)


def vanilla_gan(output: Tensor, domain: float) -> Tensor:
    """Binary cross entropy of a critic's logits against one domain."""
    return F.binary_cross_entropy_with_logits(output, paddle.full_like(output, domain))


def least_squares_gan(output: Tensor, domain: float) -> Tensor:
    """Mean squared distance of a critic's output from one domain."""
    return ((output - domain) ** 2).mean()


GAN_LOSSES: Mapping[str, Callable[[Tensor, float], Tensor]] = {"vanilla": vanilla_gan, "ls": least_squares_gan}


def focal_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """CLAN's segmentation loss: mean of -(1 - p)^2 log p over labelled pixels; 0 when nothing is labelled.

    As in the original, p is held within [1e-9, 1 - 1e-9], and what lies outside gets no gradient.
    """
    weight = (label != IGNORE).astype(logits.dtype)
    log_p = of_label(log_softmax(logits), label).clip(math.log(FOCAL_MARGIN), math.log1p(-FOCAL_MARGIN))
    return -(((1 - log_p.exp()) ** 2) * log_p * weight).sum() / weight.sum().clip(min=1.0)


def weighted_bce(output: Tensor, domain: float, weight: Optional[Tensor]) -> Tensor:
    """Mean binary cross entropy of a critic's logits against one domain, every pixel with its weight."""
    return F.binary_cross_entropy_with_logits(output, paddle.full_like(output, domain), weight=weight)


def cosine(one: Tensor, other: Tensor, axis: Optional[int] = None) -> Tensor:
    """Cosine similarity along an axis, or of the flattened tensors."""
    if axis is None:
        one, other, axis = one.flatten(), other.flatten(), 0
    return F.cosine_similarity(one, other, axis=axis)


def self_information(logits: Tensor) -> Tensor:
    """Weighted self-information -p log p / log C [N, C, H, W]; finite at p = 0 through log-softmax."""
    log_p = log_softmax(logits)
    return -(log_p.exp() * log_p) / math.log(logits.shape[1])


REPRESENTATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"softmax": softmax, "self_information": self_information}


def entropy_map(logits: Tensor) -> Tensor:
    """Normalised entropy of every pixel [N, H, W], 0 (certain) to 1 (uniform)."""
    return self_information(logits).sum(axis=1)


def mean_entropy(logits: Tensor, ratio: float = 1.0) -> Tensor:
    """Mean normalised entropy; with a ratio below 1 only of that share of an image's pixels, the least certain."""
    entropy = entropy_map(logits).flatten(1)
    if ratio < 1.0:
        entropy = entropy.topk(max(1, int(ratio * entropy.shape[1])), axis=1)[0]
    return entropy.mean()


def max_square(logits: Tensor) -> Tensor:
    """-mean(p^2) / 2 over pixels and classes: its gradient grows with certainty only linearly."""
    return -(softmax(logits) ** 2).mean() / 2


def class_weights(p: Tensor, ratio: float) -> Tensor:
    """Weight [N, 1, H, W] of every pixel: 1 / max(count^ratio * total^(1 - ratio), 1), count: pixels of its class."""
    predicted = F.one_hot(p.argmax(axis=1), p.shape[1])  # [N, H, W, C]
    count = predicted.sum(axis=[1, 2])
    weight = 1.0 / (count**ratio * count.sum(axis=1, keepdim=True) ** (1 - ratio)).clip(min=1.0)
    return (predicted * weight.unsqueeze(1).unsqueeze(1)).sum(axis=-1).unsqueeze(1).detach()


def iw_max_square(logits: Tensor, ratio: float = 0.2) -> Tensor:
    """Max squares with every pixel weighted by how rare its predicted class is in the image."""
    p = softmax(logits)
    return -(class_weights(p, ratio) * p**2).sum() / (p.shape[0] * p.shape[1])


def iw_entropy(logits: Tensor, ratio: float = 0.2) -> Tensor:
    """Normalised entropy weighted like iw_max_square."""
    information = self_information(logits)
    return (class_weights(softmax(logits), ratio) * information).sum() / (logits.shape[0] * logits.shape[1])


def hard_labels(p: Tensor, confident: Tensor) -> Tensor:
    """The predicted class [N, H, W] where `confident`, else IGNORE."""
    return paddle.where(confident, p.argmax(axis=1), paddle.full_like(confident.astype("int64"), IGNORE)).detach()


def hard_label(logits: Tensor, threshold: float = 0.95) -> tuple[Tensor, Tensor]:
    """Cross entropy with the network's predictions where their confidence is above `threshold`, and how many are."""
    p = softmax(logits)
    label = hard_labels(p, p.max(axis=1) > threshold)
    return cross_entropy(logits, label), labelled(label)


def pixel_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross entropy of every pixel [N, H, W], 0 where the label is IGNORE."""
    return F.nll_loss(log_softmax(logits), label, ignore_index=IGNORE, reduction="none")


MEANS = ("all", "valid")


def weighted_cross_entropy(logits: Tensor, label: Tensor, weight: Optional[Tensor] = None, mean: str = "all") -> Tensor:
    """Mean of weight [N, H, W] times cross entropy over all pixels (ignored ones count as 0), or over labelled ones."""
    loss = pixel_cross_entropy(logits, label)
    loss = loss if weight is None else loss * weight
    return loss.mean() if mean == "all" else loss.sum() / labelled(label).astype(loss.dtype).clip(min=1.0)


def covered(logits: Mapping[str, Tensor], level: str, x: Tensor) -> Tensor:
    """Labels or weights [N, H, W] where a level has logits: on its box, or on the whole image."""
    box = getattr(logits, "boxes", {}).get(level)
    return x if box is None else box.of(x)


def level_loss(
    logits: Mapping[str, Tensor], level: str, label: Tensor, weight: Optional[Tensor] = None, mean: str = "all"
) -> Tensor:
    """weighted_cross_entropy of a level, with labels and weights where it has logits."""
    weight = None if weight is None else covered(logits, level, weight)
    return weighted_cross_entropy(logits[level], covered(logits, level, label), weight, mean)

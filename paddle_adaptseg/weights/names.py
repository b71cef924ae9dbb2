"""Names of tensors in the originals' weights to ours, as rules applied in turn."""

from __future__ import annotations

import re
from collections.abc import Mapping

Rules = tuple[tuple[str, str], ...]

STATISTICS: Rules = ((r"\.running_mean$", "._mean"), (r"\.running_var$", "._variance"))

ORIGINAL_NAMES: Mapping[str, Rules] = {
    "deeplabv2_resnet": (
        (r"^(conv1|bn1|layer[1-4])\.", r"backbone.\1."),
        (r"^layer5\.conv2d_list\.", "heads.aux.branches."),
        (r"^layer6\.conv2d_list\.", "heads.main.branches."),
        *STATISTICS,
    ),
    "deeplabv2_resnet_twin": (
        (r"^(conv1|bn1|layer[1-4])\.", r"backbone.\1."),
        (r"^layer5\.conv2d_list\.", "heads.first.branches."),
        (r"^layer6\.conv2d_list\.", "heads.second.branches."),
        *STATISTICS,
    ),
    "deeplabv2_vgg16": (
        (r"^features\.", "backbone."),
        (r"^classifier\.conv2d_list\.", "heads.main.branches."),
    ),
    "discriminator": (
        (r"^conv1\.", "0."),
        (r"^conv2\.", "2."),
        (r"^conv3\.", "4."),
        (r"^conv4\.", "6."),
        (r"^classifier\.", "8."),
    ),
}


def rename(name: str, kind: str) -> str:
    """Our name of an original tensor."""
    return apply(ORIGINAL_NAMES[kind], name)


def apply(rules: Rules, name: str) -> str:
    """A name after all rules, each applied to the result of the one before."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name

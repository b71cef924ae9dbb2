"""Names of tensors in the originals' weights to ours, as rules applied in turn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Callable, Union

Rules = tuple[tuple[str, Union[str, Callable[[re.Match], str]]], ...]

STATISTICS: Rules = ((r"\.running_mean$", "._mean"), (r"\.running_var$", "._variance"))

# PaddleSeg's ResNet_vd: bb_<stage>_<block>.conv<n>._conv and ._batch_norm, all numbers from zero.
_RESNET_VD: Rules = (
    *((rf"^conv1_{n + 1}\._conv\.", f"backbone.stem.{3 * n}.") for n in range(3)),
    *((rf"^conv1_{n + 1}\._batch_norm\.", f"backbone.stem.{3 * n + 1}.") for n in range(3)),
    *((rf"^bb_{n}_(\d+)\.", rf"backbone.layer{n + 1}.\1.") for n in range(4)),
    *((rf"\.conv{n}\._conv\.", f".conv{n + 1}.") for n in (2, 1, 0)),
    *((rf"\.conv{n}\._batch_norm\.", f".bn{n + 1}.") for n in (2, 1, 0)),
    (r"\.short\._conv\.", ".downsample.0."),
    (r"\.short\._batch_norm\.", ".downsample.1."),
)

# Inside the transformers and heads of mmsegmentation.
_MMSEG: Rules = (
    (r"\.dwconv\.dwconv\.", ".dwconv."),
    (r"\.linear_c([1-4])\.", lambda found: f".linear_c.{int(found.group(1)) - 1}."),
    (r"\.depthwise_conv\.", ".0."),
    (r"\.pointwise_conv\.", ".1."),
    (r"\.image_pool\.1\.", ".image_pool.project."),
)

ORIGINAL_NAMES: Mapping[str, Rules] = {
    "resnet_vd": _RESNET_VD,
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
    # mmsegmentation, and with it DAFormer; the backbone's names are ours
    "deeplabv2_resnet_v1c": (
        (r"^decode_head\.aspp_modules\.(\d+)\.conv\.", r"heads.main.branches.\1."),
        *STATISTICS,
    ),
    # pytorch-deeplab-xception, and with it Adversarial_DA_Exp
    "deeplabv3plus_resnet": (
        (r"^aspp\.aspp1\.", "pyramid.parts.0."),
        (r"^aspp\.aspp2\.", "pyramid.parts.1."),
        (r"^aspp\.aspp3\.", "pyramid.parts.2."),
        (r"^aspp\.aspp4\.", "pyramid.parts.3."),
        (r"\.atrous_conv\.", ".0."),
        (r"(parts\.\d)\.bn\.", r"\1.1."),
        (r"^aspp\.global_avg_pool\.1\.", "pyramid.parts.4.project.0."),
        (r"^aspp\.global_avg_pool\.2\.", "pyramid.parts.4.project.1."),
        (r"^aspp\.conv1\.", "pyramid.mix.0.0."),
        (r"^aspp\.bn1\.", "pyramid.mix.0.1."),
        (r"^decoder\.conv1\.", "decoder.reduce.0."),
        (r"^decoder\.bn1\.", "decoder.reduce.1."),
        (r"^decoder\.last_conv\.([01])\.", r"decoder.refine.0.\1."),
        (r"^decoder\.last_conv\.4\.", "decoder.refine.2.0."),
        (r"^decoder\.last_conv\.5\.", "decoder.refine.2.1."),
        (r"^decoder\.last_conv\.8\.", "heads.main.1."),
        *STATISTICS,
    ),
    # mmsegmentation's SegFormer, DAFormer and the programs built on it; and VFM-UDA, whose encoder has DINOv2's names
    "encode_decode": (
        (r"^decode_head\.", "heads.main."),
        *_MMSEG,
        (r"^(heads\..*)\.conv\.", r"\1.0."),
        (r"^(heads\..*)\.bn\.", r"\1.1."),
        (r"^encoder\.", "backbone."),
        (r"^(upscale|out)\.", r"heads.main.\1."),
        *STATISTICS,
    ),
    # HRDA on a network of mmsegmentation's family, and MIC's
    "hrda": (
        (r"^decode_head\.head\.", "network.heads.main."),
        (r"^decode_head\.scale_attention\.", "attention."),
        (r"^backbone\.", "network.backbone."),
        (r"^(network\.heads\.main|attention)\.aspp_modules\.(\d+)\.conv\.", r"\1.branches.\2."),
        *_MMSEG,
        (r"^((network\.heads|attention)\..*)\.conv\.", r"\1.0."),
        (r"^((network\.heads|attention)\..*)\.bn\.", r"\1.1."),
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

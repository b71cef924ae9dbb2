"""The origin of a weights file, recognised by names and shapes; our names for them, and what they were trained with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Callable, Optional

import numpy as np

from paddle_adaptseg.weights.kind import REST, TORCHVISION_PIXELS, Arrays, Kind, has
from paddle_adaptseg.weights.mmseg_kinds import MMSEG_KINDS
from paddle_adaptseg.weights.names import ORIGINAL_NAMES, STATISTICS, apply
from paddle_adaptseg.weights.paddleseg_kinds import PADDLESEG_KINDS
from paddle_adaptseg.weights.transformer_kinds import TRANSFORMER_KINDS

_BACKBONE = (r"^(conv1|bn1|layer[1-4])\.", r"backbone.\1.")
_FEATURES = (r"^features\.", "backbone.")
_VGG_SHIFT = tuple((rf"^features\.{n}\.", f"backbone.{n - 1}.") for n in (24, 26, 28))  # pool4 is gone


def _head_width(arrays: Arrays, head: str) -> int:
    array = arrays.get(f"{head}.conv2d_list.0.weight")
    return 0 if array is None or array.ndim != 4 else array.shape[1]


def _deeplab(aux: int, main: int) -> Callable[[Arrays], bool]:
    return lambda arrays: (_head_width(arrays, "layer5"), _head_width(arrays, "layer6")) == (aux, main)


KINDS: Mapping[str, Kind] = {
    **MMSEG_KINDS,  # these three before "ours": some say backbone.* or stem.*, but have another head or other stages
    **TRANSFORMER_KINDS,
    **PADDLESEG_KINDS,
    # Before "ours": both say backbone.*, but only these have a pyramid called aspp.
    "v3plus": Kind(
        "DeepLabV3+ ResNet of pytorch-deeplab-xception (Adversarial_DA_Exp)",
        has("aspp.aspp1.atrous_conv.weight", "decoder.last_conv.8.weight"),
        ORIGINAL_NAMES["deeplabv3plus_resnet"],
        model={"name": "deeplabv3plus_resnet", "stride_in": "3x3"},
    ),
    "ours": Kind(
        "weights of this project",
        lambda arrays: any(name.startswith(("backbone.", "heads.", "stem.", "network.")) for name in arrays),
    ),
    "paddleseg_resnet_vd": Kind(
        "ImageNet ResNet_vd of PaddleSeg and PaddleClas: RGB mean and deviation, deep stem, averaged shortcuts",
        has("conv1_1._conv.weight", "bb_0_0.short._conv.weight"),
        ORIGINAL_NAMES["resnet_vd"],
        leave_out=r"^(out|fc)\.",
        absent=REST,
        model={"name": "deeplabv2_resnet", "stride_in": "3x3", "variant": "vd"},
        pixels=TORCHVISION_PIXELS,
    ),
    "initial": Kind(
        "AdaptSegNet's initial ResNet-101 (ImageNet and COCO); its 21-class head is left out",
        has("Scale.conv1.weight"),
        ((r"^Scale\.", ""), _BACKBONE, *STATISTICS),
        leave_out=r"^Scale\.layer5\.",
        absent=REST,
        model={"name": "deeplabv2_resnet"},
    ),
    "clan": Kind(
        "CLAN: two heads on the last stage",
        _deeplab(2048, 2048),
        ORIGINAL_NAMES["deeplabv2_resnet_twin"],
        model={"name": "deeplabv2_resnet_twin", "aspp_branches": 4},
    ),
    "multi": Kind(
        "DeepLabV2 ResNet with two levels (AdaptSegNet, ADVENT, MaxSquare)",
        _deeplab(1024, 2048),
        ORIGINAL_NAMES["deeplabv2_resnet"],
        model={"name": "deeplabv2_resnet"},
    ),
    "single": Kind(
        "DeepLabV2 ResNet with one level (AdaptSegNet single); it has no auxiliary head",
        _deeplab(2048, 0),
        (_BACKBONE, (r"^layer5\.conv2d_list\.", "heads.main.branches."), *STATISTICS),
        absent=r"^heads\.aux\.",
        model={"name": "deeplabv2_resnet", "aux": False},
    ),
    "single_last": Kind(
        "DeepLabV2 ResNet with its last level alone (ADVENT single); it has no auxiliary head",
        _deeplab(0, 2048),
        ORIGINAL_NAMES["deeplabv2_resnet"],
        absent=r"^heads\.aux\.",
        model={"name": "deeplabv2_resnet", "aux": False},
    ),
    "vgg": Kind(
        "DeepLabV2 VGG-16 (AdaptSegNet, ADVENT, CLAN)",
        has("features.0.weight", "classifier.conv2d_list.0.weight"),
        ORIGINAL_NAMES["deeplabv2_vgg16"],
        model={"name": "deeplabv2_vgg16"},
    ),
    "imagenet_resnet": Kind(
        "ImageNet ResNet of torchvision or paddle.vision: RGB mean and deviation, stride in the 3x3 convolution",
        has("conv1.weight", "layer4.0.conv3.weight", "fc.weight"),
        (_BACKBONE, *STATISTICS),
        leave_out=r"^fc\.",
        absent=REST,
        model={"name": "deeplabv2_resnet", "stride_in": "3x3"},
        pixels=TORCHVISION_PIXELS,
    ),
    "imagenet_mobilenetv2": Kind(
        "ImageNet MobileNetV2 of torchvision or paddle.vision: RGB mean and deviation",
        has("features.0.0.weight", "features.17.conv.2.weight"),
        ((r"^features\.", "backbone.features."), *STATISTICS),
        leave_out=r"^(classifier|features\.18)\.",
        absent=REST,
        model={"name": "deeplabv3plus_mobilenetv2"},
        pixels=TORCHVISION_PIXELS,
    ),
    "imagenet_vgg": Kind(
        "ImageNet VGG-16 of torchvision or paddle.vision: RGB mean and deviation; fc6, fc7 and head are missing",
        has("features.0.weight", "features.28.weight", "classifier.0.weight"),
        (*_VGG_SHIFT, _FEATURES),
        leave_out=r"^classifier\.",
        absent=r"^(heads|backbone\.(29|31))\.",
        model={"name": "deeplabv2_vgg16"},
        pixels=TORCHVISION_PIXELS,
    ),
}


# Their names are the network's own already, or another program's: nothing in them means what it means in ours.
AS_THEY_ARE = ("ours", "paddleseg", "paddleseg_backbone")


def identify(arrays: Arrays) -> Optional[str]:
    """The first kind that the names and shapes match."""
    return next((name for name, kind in KINDS.items() if kind.matches(arrays)), None)


def translate(arrays: Arrays, kind: str, branches: Optional[int] = None) -> dict[str, np.ndarray]:
    """Arrays under our names, without what has no place here and without pyramid branches beyond `branches`."""
    rules, leave_out, prepare = KINDS[kind].rules, re.compile(KINDS[kind].leave_out), KINDS[kind].prepare
    arrays, translated = prepare(arrays) if prepare else arrays, {}
    for original, array in arrays.items():
        if leave_out.search(original) or original.endswith("num_batches_tracked"):
            continue
        name = apply(rules, original)
        branch = re.search(r"\.branches\.(\d+)\.", name)
        if branches is None or branch is None or int(branch.group(1)) < branches or kind in AS_THEY_ARE:
            translated[name] = array
    return translated if kind in AS_THEY_ARE[1:] else _without_biases(translated)


def _without_biases(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """CLAN-paddle's shortcuts have a bias before their norm: shifting the norm's mean by it is the same, exactly."""
    for name in [n for n in arrays if n.endswith(".downsample.0.bias")]:
        mean = name.replace(".0.bias", ".1._mean")
        if mean in arrays and arrays[mean].shape == arrays[name].shape and arrays[name].dtype.kind == "f":
            arrays[mean] = arrays[mean] - arrays.pop(name)
    return arrays


def trained_branches(arrays: Arrays) -> Optional[int]:
    """2 when the third and fourth pyramid branch still have their initial spread of 0.01, else 4; None: no heads."""
    spreads = [
        float(np.std(arrays[name]))
        for name in arrays
        if re.search(r"conv2d_list\.[23]\.weight$", name) and not name.startswith("Scale.")
    ]
    if not spreads:
        return None
    return 2 if all(abs(spread - 0.01) < 2e-4 for spread in spreads) else 4

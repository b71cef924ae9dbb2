"""Segmentation networks by name."""

from __future__ import annotations

from paddle_adaptseg.config.conversion import Table, build
from paddle_adaptseg.config.schema import Component
from paddle_adaptseg.models.segmenter import Segmenter

MODELS: Table[type[Segmenter]] = Table(
    "paddle_adaptseg.models",
    {
        "deeplabv2_resnet": "deeplabv2:DeepLabV2ResNet",
        "deeplabv2_resnet_twin": "deeplabv2:TwinDeepLabV2ResNet",
        "deeplabv2_resnet_v1c": "resnet_v1c:DeepLabV2ResNetV1c",
        "deeplabv2_vgg16": "deeplabv2:DeepLabV2VGG16",
        "deeplabv3plus_resnet": "deeplabv3plus:DeepLabV3PlusResNet",
        "deeplabv3plus_mobilenetv2": "deeplabv3plus:DeepLabV3PlusMobileNetV2",
        "encode_decode": "encode_decode:EncodeDecode",
        "hrda": "hrda:HRDA",
        "paddleseg": "paddleseg:PaddleSegNetwork",
        "small": "small:SmallSegmenter",
        "small_twin": "small:TwinSmallSegmenter",
        "small_v3plus": "small:SmallV3Plus",
    },
)


def build_model(component: Component, classes: int) -> Segmenter:
    """The network a configuration names, with a head for `classes`."""
    return build(MODELS, component.name, component.params, "model", classes=classes)

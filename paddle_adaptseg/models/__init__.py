"""Segmentation networks by name."""

from __future__ import annotations

from paddle_adaptseg.config.conversion import build
from paddle_adaptseg.config.schema import Component
from paddle_adaptseg.models.deeplabv2 import DeepLabV2ResNet, DeepLabV2VGG16, TwinDeepLabV2ResNet
from paddle_adaptseg.models.deeplabv3plus import DeepLabV3PlusMobileNetV2, DeepLabV3PlusResNet
from paddle_adaptseg.models.encode_decode import EncodeDecode
from paddle_adaptseg.models.resnet_v1c import DeepLabV2ResNetV1c
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.models.small import SmallSegmenter, SmallV3Plus, TwinSmallSegmenter

MODELS: dict[str, type[Segmenter]] = {
    "deeplabv2_resnet": DeepLabV2ResNet,
    "deeplabv2_resnet_twin": TwinDeepLabV2ResNet,
    "deeplabv2_resnet_v1c": DeepLabV2ResNetV1c,
    "deeplabv2_vgg16": DeepLabV2VGG16,
    "deeplabv3plus_resnet": DeepLabV3PlusResNet,
    "deeplabv3plus_mobilenetv2": DeepLabV3PlusMobileNetV2,
    "encode_decode": EncodeDecode,
    "small": SmallSegmenter,
    "small_twin": TwinSmallSegmenter,
    "small_v3plus": SmallV3Plus,
}


def build_model(component: Component, classes: int) -> Segmenter:
    """The network a configuration names, with a head for `classes`."""
    return build(MODELS, component.name, component.params, "model", classes=classes)

"""What a configuration's method and network are called in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddle_adaptseg.config.schema import Config

METHODS = {
    "source_only": "Source only",
    "bn_adapt": "Batch-norm adaptation",
    "clan": "CLAN",
    "feature_adversarial": "Feature adversary",
    "self_training": "Self-training",
    "source_free": "Source-free adaptation",
    "distil": "Distillation",
}
PRIORS = {"entropy": "MinEnt", "max_square": "MaxSquare", "iw_max_square": "MaxSquare, image-weighted"}
ADDED = {"masked": "masked consistency", "feature_distance": "feature distance"}
NETWORKS = {
    "deeplabv2_resnet": "DeepLabV2 (ResNet)",
    "deeplabv2_resnet_twin": "DeepLabV2 (ResNet, twin heads)",
    "deeplabv2_resnet_v1c": "DeepLabV2 (ResNet-v1c)",
    "deeplabv2_vgg16": "DeepLabV2 (VGG-16)",
    "deeplabv3plus_resnet": "DeepLabV3+ (ResNet)",
    "deeplabv3plus_mobilenetv2": "DeepLabV3+ (MobileNetV2)",
    "small": "a small network",
    "small_twin": "a small network with twin heads",
    "small_v3plus": "a small DeepLabV3+",
}


def method_title(config: Config) -> str:
    """For example "AdaptSegNet, multi level" or "Self-training with masked consistency"."""
    name, params = config.method.name, config.method.params
    if name == "output_adversarial":
        title = "AdvEnt" if params.get("represent") == "self_information" else "AdaptSegNet"
        title += ", multi level" if len(params.get("weights", ())) > 1 else ", single level"
        title += ", LS-GAN" if params.get("gan") in ("LS", "ls") else ""
    elif name == "target_prior":
        title = PRIORS.get(str(params.get("target_loss")), "Target prior")
    else:
        title = METHODS.get(name, name)
    added = [text for key, text in ADDED.items() if params.get(key) is not None]
    return title + (f" with {' and '.join(added)}" if added else "")


def network_title(config: Config) -> str:
    """For example "DeepLabV2 (ResNet)"; a backbone and a head by their own names."""
    model = config.model.to_plain()
    return f"HRDA on {_title(model['network'])}" if model["name"] == "hrda" else _title(model)


def _title(model: Mapping[str, Any]) -> str:
    if model["name"] in NETWORKS:
        return NETWORKS[model["name"]]
    given = [part for part in (model.get("backbone"), model.get("head")) if isinstance(part, Mapping)]
    parts = [str(part.get("name", "")) for part in given]
    return " + ".join(filter(None, parts)) or model["name"]

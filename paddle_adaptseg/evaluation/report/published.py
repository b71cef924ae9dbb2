"""Published mean IoUs, and which of them belong to the same setting as an evaluation. One also has its classes.

The numbers are those of papers, repositories and leaderboards, each with where it was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paddle_adaptseg.config.schema import Config


@dataclass(frozen=True)
class Published:
    """One published number."""

    method: str
    miou: float
    source: str
    classes: tuple[float, ...] = ()  # IoU of each class in the network's order, where it was published


# Of the weights that AdaptSegNet released (GTA2Cityscapes_multi), road to bicycle.
_RELEASED = (
    86.46, 35.96, 79.92, 23.41, 23.27, 23.87, 35.24, 14.77, 83.35, 33.25,
    75.62, 58.49, 27.55, 73.65, 32.48, 35.42, 3.85, 30.05, 28.11,
)  # fmt: skip

_REPOSITORY, _BOARD, _BOARDS = "authors' repository", "MLSL's leaderboard", "public leaderboards"
_DAFORMER = "DAFormer's README (means of three seeds; the released weights are one of them)"
_REPORT = "a reproduction report and public leaderboards"
_MAXSQUARE = "MaxSquare's README (labels resized to 1024x512 or 1280x640)"

# (source, target, backbone, classes, resolution) -> numbers
_FULL, _TRAINING = "full", "training"
PUBLISHED: Mapping[tuple[str, str, str, int, str], tuple[Published, ...]] = {
    ("gta5", "cityscapes", "resnet101", 19, _FULL): (
        Published("source only", 36.6, "Hindawi 2022/1848857, table 1"),
        Published("AdaptSegNet, single level", 41.4, "AdaptSegNet, quoted in its issue 56"),
        Published("AdaptSegNet, multi level", 42.4, _REPOSITORY),
        Published("AdaptSegNet, released weights", 42.35, "the README of a Paddle port", _RELEASED),
        Published("AdaptSegNet, LS-GAN", 44.1, _REPOSITORY),
        Published("MinEnt", 42.3, _REPORT),
        Published("MinEnt, entropy range", 43.1, _REPORT),
        Published("AdvEnt", 43.8, _REPORT),
        Published("AdvEnt + MinEnt (ensemble)", 45.5, _REPORT),
        Published("CLAN", 43.2, _BOARD),
        Published("oracle", 65.1, _REPOSITORY),
    ),
    ("gta5", "cityscapes", "resnet101", 19, _TRAINING): (
        Published("source only (MaxSquare)", 36.9, _MAXSQUARE),
        Published("MinEnt (MaxSquare)", 42.2, _MAXSQUARE),
        Published("MaxSquare", 44.3, _MAXSQUARE),
        Published("MaxSquare, image-weighted", 45.2, _MAXSQUARE),
        Published("MaxSquare, image-weighted, multi", 46.4, _MAXSQUARE),
    ),
    ("gta5", "cityscapes", "vgg16", 19, _FULL): (
        Published("AdaptSegNet, single level", 35.0, _REPOSITORY),
        Published("AdvEnt", 36.1, _BOARDS),
        Published("CLAN", 36.6, _BOARD),
        Published("oracle", 61.8, _REPOSITORY),
    ),
    ("gta5", "cityscapes", "mit_b5", 19, _FULL): (
        Published("DAFormer", 68.3, _DAFORMER),
        Published("DAFormer, released weights", 68.85, _DAFORMER),
        Published("MIC on DAFormer", 70.6, "MIC's paper, quoted by MICDrop"),
        Published("HRDA", 73.8, "HRDA's README"),
        Published("MIC on HRDA", 75.9, "MIC's abstract"),
    ),
    ("gta5", "cityscapes", "dinov2_vitb14", 19, _FULL): (
        Published("VFM-UDA", 77.1, "computed: MIC on HRDA and the 1.2 more of its abstract"),
    ),
    ("synthia", "cityscapes", "mit_b5", 16, _FULL): (
        Published("DAFormer", 60.9, _DAFORMER),
        Published("HRDA", 65.8, "HRDA's README"),
        Published("MIC on HRDA", 67.3, "MIC's README"),
    ),
    ("synthia", "cityscapes", "resnet101", 13, _FULL): (
        Published("AdaptSegNet, multi level", 46.7, _BOARD),
        Published("AdvEnt", 47.6, _BOARDS),
        Published("AdvEnt + MinEnt (ensemble)", 48.0, _BOARDS),
        Published("CLAN", 47.8, _BOARD),
        Published("oracle", 71.7, "TLlib's table"),
    ),
    ("synthia", "cityscapes", "resnet101", 16, _FULL): (Published("AdvEnt + MinEnt (ensemble)", 41.2, _BOARDS),),
    ("synthia", "cityscapes", "resnet101", 16, _TRAINING): (
        Published("MaxSquare, image-weighted, multi", 41.4, _MAXSQUARE),
    ),
    ("synthia", "cityscapes", "resnet101", 13, _TRAINING): (
        Published("MaxSquare, image-weighted, multi", 48.2, _MAXSQUARE),
    ),
    ("synthia", "cityscapes", "vgg16", 13, _FULL): (
        Published("AdaptSegNet, single level", 37.6, _BOARD),
        Published("CLAN", 39.3, _BOARD),
    ),
}
IMAGES = 500  # of Cityscapes val; fewer are another setting


def published(config: Config, classes: int, images: int, training_size: bool) -> tuple[tuple[Published, ...], str]:
    """Numbers of the same setting, or none and the reason."""
    data = config.data
    backbone = _backbone(config)
    if backbone is None:
        return (), f"the network '{config.model.name}' of this configuration is none of the papers'"
    if images != IMAGES or data.validation.split != "val":
        return (), f"the papers score the {IMAGES} images of Cityscapes val, this evaluation {images}"
    if data.target_labelled is not None or list(data.all_sources()) != ["source"]:
        return (), "the papers train on one labelled source and no target label"
    source = data.all_sources()["source"].dataset
    setting = (source, data.validation.dataset, backbone, classes, _TRAINING if training_size else _FULL)
    if setting not in PUBLISHED:
        return (
            (),
            f"no number is on record for {setting[0]} to {setting[1]}, {backbone}, {classes} classes, {setting[4]}",
        )
    return PUBLISHED[setting], ""


def _backbone(config: Config) -> str | None:
    model = config.model.to_plain()
    model = model["network"] if model["name"] == "hrda" else model
    if model["name"] == "deeplabv2_vgg16":
        return "vgg16"
    backbone = model.get("backbone", {})
    known = set(backbone) <= {"name", "image_size"} and str(backbone.get("name")).startswith(("mit_", "dinov2_"))
    if model["name"] == "encode_decode" and known:
        return backbone["name"]
    deep = list(model.get("depths", (3, 4, 23, 3))) == [3, 4, 23, 3]
    return "resnet101" if deep and model["name"] in ("deeplabv2_resnet", "deeplabv2_resnet_twin") else None

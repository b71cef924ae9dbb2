"""Replays figures of networks alone: outputs and gradients of transformers and their heads.

Figures lie in tests/parity_selftraining and tests/parity_vfm, or in $PARITY_DIR (the folder of either, or one above
both). What a figure's `model` says decides; what is not known fails by its name.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from paddle_adaptseg.config.conversion import build
from paddle_adaptseg.config.schema import Component
from paddle_adaptseg.core import runtime
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.encode_decode import HEADS, EncodeDecode, build_backbone
from paddle_adaptseg.models.transformer import DropPath
from paddle_adaptseg.weights.names import rename

SHIPPED = Path(__file__).parent
RULES = {"selftraining": "rules_selftraining", "vfm": "rules_vfm"}
CLASSES = 19  # of a figure whose tensors do not say how many
CLASSIFIERS = ("linear_pred.weight", "conv_seg.weight", "aspp_modules.0.conv.weight", "out.weight")  # in this order
PROBE = 1e-4  # of an output's rms
GRADIENT_LOSS, GRADIENT, ZERO = 1e-5, 1e-3, 1e-6

Outputs = dict[str, np.ndarray]


def folders() -> list[Path]:
    """Where figures may lie."""
    given = os.environ.get("PARITY_DIR")
    roots = [Path(given), *Path(given).glob("parity_*")] if given else SHIPPED.glob("parity_*")
    return [path for path in roots if path.is_dir()]


def files(kind: str) -> list[Path]:
    """Files of networks: `forward` or `gradient`."""
    return [path for folder in folders() for path in sorted(folder.glob(f"{kind}_*.json")) if family(path) in RULES]


def family(path: Path) -> str:
    """selftraining or vfm."""
    return next((name for name in RULES if name in path.stem), "")


def parts(kind: str) -> list:
    """The networks of all files of a kind that are built here, as parameters of a test."""
    found = [(path, name, part) for path in files(kind) for name, part in read(path).items()]
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name, part in found if is_ours(part)]


def read(path: Path) -> dict[str, dict]:
    """The networks of a file."""
    return json.loads(path.read_text())["networks"]


def is_ours(part: dict) -> bool:
    """Whether a figure is of the networks here; the others are ResNet's and HRDA's."""
    model = part["model"]
    return not model.get("hrda") and model.get("backbone", {}).get("kind") != "resnet_v1c"


def classes_of(tensors: Mapping[str, list[int]]) -> int:
    """How many classes a figure's network tells apart: the outputs of its classifier, not of HRDA's attention."""
    own = {name: shape for name, shape in tensors.items() if "scale_attention" not in name}
    return next((own[n][0] for end in CLASSIFIERS for n in own if n.endswith(end)), CLASSES)


def rules(path: Path) -> ModuleType:
    """The module that makes a file's inputs, from beside it."""
    name = RULES[family(path)]
    own = path.with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(
        name, own if own.exists() else SHIPPED / f"parity_{family(path)}/{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def component(model: dict, image_size: int = 0) -> Component:
    """Our network of a figure's model."""
    sections: dict[str, Any] = {"head": {"name": "light"}}
    if "dim" in model:
        sections["backbone"] = dinov2(model, image_size)
    for section in ("backbone", "head"):
        if section in model:
            sections[section] = {
                "name": model[section]["kind"],
                **{k: v for k, v in model[section].items() if k != "kind"},
            }
    return Component("encode_decode", sections)


def dinov2(model: dict, image_size: int = 0) -> dict[str, Any]:
    """The section of a vision transformer."""
    names = {"dim": "width", "heads": "num_heads", "pos_grid": "stored_grid"}
    left = {names.get(k, k): v for k, v in model.items() if k != "hub"}
    return {"name": "dinov2", **left, "image_size": image_size}


def fill(
    layer: nn.Layer,
    tensors: Mapping[str, list[int]],
    salt: str,
    given: ModuleType,
    prefix: str = "",
    scale: Mapping[str, float] | None = None,
    alone: bool = False,
) -> None:
    """Give a layer the values of a figure; every tensor of it must have one, of its shape.

    `alone`: it is a backbone or head by itself, whose names begin with `prefix` in the network.
    """
    own, linear, found = layer.state_dict(), linear_weights(layer), {}
    for name, shape in tensors.items():
        value = given.values2(f"G.{prefix}{name}", tuple(shape), salt)
        ours = rename(prefix + name, "encode_decode")
        ours = ours.removeprefix("heads.main.").removeprefix("backbone.") if alone else ours
        found[ours] = value * np.float32((scale or {}).get(name, 1.0))
    missing, left = set(own) - set(found), set(found) - set(own)
    assert not missing, f"no values for {sorted(missing)}"
    assert all("conv_seg" in name for name in left), left  # SegFormer's unused classifier
    for name, parameter in own.items():
        value = found[name].T if name in linear else found[name]
        assert list(parameter.shape) == list(value.shape), name
        parameter.set_value(np.ascontiguousarray(value))


def linear_weights(layer: nn.Layer) -> set[str]:
    """The weights that Paddle stores as [in, out]."""
    return {f"{name}.weight" for name, part in layer.named_sublayers() if isinstance(part, nn.Linear)}


def set_mode(layer: nn.Layer, training: bool) -> None:
    """Batch statistics or running ones; nothing random."""
    for part in layer.sublayers(include_self=True):
        part.training = training and not isinstance(part, (nn.Dropout, nn.Dropout2D, DropPath))


def tensor(array: Any) -> paddle.Tensor:
    return paddle.to_tensor(np.asarray(array))


def run_backbone(part: dict, given: ModuleType) -> Outputs:
    backbone = build_backbone(Component.from_plain(component(part["model"]).params["backbone"], "backbone"))
    fill(backbone, part["tensors"], part["salt"], given, "backbone.", alone=True)
    set_mode(backbone, part["mode"] == "train")
    stages = backbone(tensor(given.image2(part["salt"], part["input"])))
    return {f"feature{index}": stage.numpy() for index, stage in enumerate(stages)}


def run_head(part: dict, given: ModuleType) -> Outputs:
    """A head of self-training's networks on maps of its own, or VFM-UDA's."""
    model = part["model"]
    if "dim" in model:
        return run_light_head(part, given)
    section = component(model).params["head"]
    params = {k: v for k, v in section.items() if k != "name"}
    head = build(
        HEADS, section["name"], params, "head", classes=classes_of(part["tensors"]), widths=part["in_channels"]
    )
    fill(head, part["tensors"], part["salt"], given, "decode_head.", alone=True)
    set_mode(head, part["mode"] == "train")
    stages = [tensor(x) for x in given.features2(part["salt"], part["features"])]
    return {"logits": head(stages).numpy()}


def run_light_head(part: dict, given: ModuleType) -> Outputs:
    head = build(HEADS, "light", {}, "head", classes=classes_of(part["tensors"]), widths=[part["model"]["dim"]])
    fill(head, part["tensors"], part["salt"], given, alone=True)
    features = given.features3(part["salt"], part["features"]) * np.float32(part.get("times", 1.0))
    upscaled = head.upscale(tensor(features))
    return {"upscaled": upscaled.numpy(), "logits": head.out(upscaled).numpy()}


def run_encode_decode(part: dict, given: ModuleType) -> Outputs:
    network = filled(part, given)
    set_mode(network, part["mode"] == "train")
    return {"logits": network(tensor(given.image2(part["salt"], part["input"])))["main"].numpy()}


def run_encoder(part: dict, given: ModuleType) -> Outputs:
    depth = part["model"]["depth"]
    layers = sorted({*part.get("intermediate", []), depth - 1})
    section = {**dinov2(part["model"]), "layers": layers}
    encoder = build_backbone(Component(section.pop("name"), section))
    fill(encoder, part["tensors"], part["salt"], given, "encoder.", part.get("scale", {}), alone=True)
    set_mode(encoder, part["mode"] == "train")
    image, kept = tensor(given.image3(part["salt"], part["input"])), kept_tokens(part)
    before = encoder.tokens(image, kept)[-1]
    after, registers = encoder.norm(before), part["model"]["registers"]
    found = {
        "x_prenorm": before,
        "x_norm_clstoken": after[:, 0],
        "x_norm_regtokens": after[:, 1 : 1 + registers],
        "x_norm_patchtokens": after[:, 1 + registers :],
        "pos_embed_interpolated": encoder.positions(*encoder.grid(*part["input"][2:])),
        **{f"intermediate{layer}": x for layer, x in zip(layers, encoder(image, kept))},
    }
    return {name: found[name].numpy() for name in part["outputs"]}


def run_network(part: dict, given: ModuleType) -> Outputs:
    """A vision transformer with the light head, resizing its input as the original does (`glue`: not at all)."""
    network, kept = filled(part, given), kept_tokens(part)
    set_mode(network, part["mode"] == "train")
    image = tensor(given.image3(part["salt"], part["input"]))
    size = network.backbone.working_size(*part["input"][2:])
    resized = F.interpolate(image, list(size), mode="bilinear", align_corners=False)
    found = {
        "logits": network(image, kept=kept)["main"],
        "features": network.features(image, kept)["main"],
        "resized": resized,
    }
    return {name: found[name].numpy() for name in part["outputs"]}


REPLAYS: Mapping[str, Callable[[dict, ModuleType], Outputs]] = {
    "backbone": run_backbone,
    "head": run_head,
    "encode_decode": run_encode_decode,
    "encoder": run_encoder,
    "network": run_network,
    "glue": run_network,
}


def filled(part: dict, given: ModuleType) -> EncodeDecode:
    """The whole network of a figure with its values."""
    image_size = part.get("img_size", 0) if part.get("what") == "network" else 0
    with runtime.fresh_names():
        network = build_model(component(part["model"], image_size), classes_of(part["tensors"]))
    fill(network, part["tensors"], part["salt"], given)
    return network


def kept_tokens(part: dict) -> paddle.Tensor | None:
    return tensor(np.array(part["kept"], np.float32)) if "kept" in part else None


def run_forward(path: Path, name: str) -> Outputs:
    """Outputs of a forward figure under its names."""
    part = read(path)[name]
    if part["what"] not in REPLAYS:
        pytest.fail(f"{name}: '{part['what']}' is not built yet")
    with paddle.no_grad():
        return REPLAYS[part["what"]](part, rules(path))


def run_gradient(path: Path, name: str) -> tuple[float, dict[str, np.ndarray | None]]:
    """Loss and gradients of a gradient figure, under its names; linear weights as it has them."""
    part, given = read(path)[name], rules(path)
    network, size = filled(part, given), part["input"][2:]
    set_mode(network, True)
    label = label_of(part, path, given)
    image = given.image3 if family(path) == "vfm" else given.image2
    logits = network(tensor(image(part["salt"], part["input"])), kept=kept_tokens(part))["main"]
    assert list(logits.shape[2:]) == list(size)
    loss = F.cross_entropy(logits, tensor(label), ignore_index=255, axis=1, reduction="sum")
    loss = loss / (int((label != 255).sum()) if family(path) == "vfm" else label.size)
    loss.backward()
    linear, found = linear_weights(network), {}
    own = dict(network.named_parameters())
    for name in part["tensors"]:
        parameter = own.get(rename(name, "encode_decode"))
        if parameter is not None and not parameter.stop_gradient:
            gradient = None if parameter.grad is None else parameter.grad.numpy().astype(np.float64)
            found[name] = gradient.T if gradient is not None and rename(name, "encode_decode") in linear else gradient
    return float(loss), found


def label_of(part: dict, path: Path, given: ModuleType) -> np.ndarray:
    rule = given.label3 if family(path) == "vfm" else given.label2
    return rule(part["salt"], part["input"][0], part["input"][2:], classes_of(part["tensors"]), part["label_cell"])

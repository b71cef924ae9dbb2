"""Replays the figures of self-training through the real training step, data rules and networks.

Figures lie in tests/parity_selftraining and parity_vfm, or in $PARITY_DIR (such a folder, or the one above both).
A file's content says of which kind it is, and what its `config` says decides; whatever is not known fails by its name.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest
from parity_networks import classes_of

from paddle_adaptseg.config.optim import AdamW, Optim
from paddle_adaptseg.config.schema import Component, Config, Data, Domain, RareClasses, Schedule
from paddle_adaptseg.core import runtime
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods import build_method
from paddle_adaptseg.methods.base import Clock
from paddle_adaptseg.methods.choices import Choices
from paddle_adaptseg.methods.mixing import present_values
from paddle_adaptseg.models import MODELS, build_model
from paddle_adaptseg.models.resnet import STAGES
from paddle_adaptseg.models.segmenter import Box, at_image_size
from paddle_adaptseg.training.optim import build_players, poly
from paddle_adaptseg.training.step import TrainState, train_step
from paddle_adaptseg.weights.names import rename

SHIPPED = Path(__file__).parent
GIVEN = os.environ.get("PARITY_DIR")
COMPARED = {0.5: "context", "all": "all"}  # HRDA's feature_scale
HRDA_KEYS = {"crop": "crop", "divisible": "divisible", "attention_classwise": "classwise",
             "attention_embed_dim": "attention_width"}  # fmt: skip
PASSES = {"source": "seg", "mixed": "mix", "masked": "masked"}  # names of a step's passes, and the figures'
LEVELS = {"main": "", "context": "_lr", "detail": "_hr"}  # names of levels, and what the figures add to a term's
IMAGES = {"separatetrg": "target", "separate": "one_of_each", "separatesrc": "source"}


class Tolerance(NamedTuple):
    """Suggested by the README for float32, per kind of network or figure."""

    loss: float = 1e-3
    weight: float = 2e-3  # of pseudo-labels, absolute
    change: float = 2e-2
    floor: float = 1e-5  # smaller changes are not compared
    rate: float = 1e-6
    pixels: float = 3e-3
    probe: float = 3e-4  # of the output's rms
    deep_probe: float = 3e-3  # ResNet-101
    gradient_loss: float = 1e-5
    gradient: float = 1.5e-2


TOLERANCE = Tolerance()
SAME_START = TOLERANCE._replace(loss=1e-2, change=5e-2)


def folders() -> list[Path]:
    """Where figures may lie."""
    return [Path(GIVEN), *sorted(Path(GIVEN).glob("parity_*"))] if GIVEN else sorted(SHIPPED.glob("parity_*"))


def all_files() -> list[Path]:
    """Every file of figures."""
    return [path for folder in folders() for path in sorted(folder.glob("*.json"))]


def load_rules(family: str = "selftraining"):
    """The module that makes the inputs of a family of figures; the shipped one where there is none beside them."""
    name = f"rules_{family}.py"
    path = next(
        (folder / name for folder in folders() if (folder / name).exists()), SHIPPED / f"parity_{family}" / name
    )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kind_of(figures: dict) -> str:
    """What a file holds."""
    if "steps" in figures and "model" in figures.get("config", {}):
        return "trajectory"
    if "sample_class_stats" in figures:
        return "rcs"
    if set(figures) == {"networks"}:
        parts = list(figures["networks"].values())
        return (
            "gradient"
            if "gradient" in parts[0]
            else "evaluation"
            if {"ori_shape", "picture"} & set(parts[0])
            else "forward"
        )
    return "components" if {"block_masks", "vit_in_img_size"} & set(figures) else "unknown"


def files(kind: str) -> list[Path]:
    """The figures of a kind."""
    return [path for path in all_files() if kind_of(json.loads(path.read_text())) == kind]


def parts(kind: str) -> list:
    """The networks of all files of a kind, as parameters of a test."""
    found = [
        (path, name, part) for path in files(kind) for name, part in json.loads(path.read_text())["networks"].items()
    ]
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name, part in found if is_ours(part["model"])]


def is_ours(model: dict) -> bool:
    """Whether a network is replayed here: HRDA's, and those on ResNet-v1c."""
    return bool(model.get("hrda")) or model.get("backbone", {}).get("kind") == "resnet_v1c"


def _resnet_v1c(model: dict) -> Component:
    backbone = model["backbone"]
    stages = {tuple(zip(backbone["strides"], backbone["dilations"])): None}
    stride = next((s for s, table in STAGES.items() if tuple(table) in stages), None)
    if stride is None:
        pytest.fail(f"resnet_v1c with strides {backbone['strides']} and dilations {backbone['dilations']} is not built")
    params = {"depths": backbone["depths"], "dilations": model["head"]["dilations"], "output_stride": stride}
    return Component("deeplabv2_resnet_v1c", params)


def _encode_decode(model: dict) -> Component:
    """Any backbone with any head: the figures' keys are the constructors'."""
    sections = {part: {"name": model[part]["kind"], **{k: v for k, v in model[part].items() if k != "kind"}}
                for part in ("backbone", "head")}  # fmt: skip
    return Component("encode_decode", sections)


def _hrda(model: dict) -> Component:
    """HRDA around the network that the rest of a figure's model says."""
    left = dict(model["hrda"])
    scales, scale = left.pop("scales"), left.pop("feature_scale")
    if scales != [0.5, 1] or scale not in COMPARED:
        pytest.fail(f"hrda with scales {scales} and feature_scale {scale} is not built")
    for key in ("hr_loss_weight", "lr_loss_weight"):  # weights of the method's levels: shares()
        left.pop(key)
    own = {HRDA_KEYS[key]: value for key, value in left.items() if key in HRDA_KEYS}
    if len(own) < len(left):
        pytest.fail(f"hrda with {sorted(set(left) - set(HRDA_KEYS))} is not known")
    network = component({key: value for key, value in model.items() if key != "hrda"})
    own.update(crop=own["crop"][::-1], compare=COMPARED[scale])  # ours is [width, height]
    return Component("hrda", {"network": network.to_plain(), **own})


def shares(model: dict, times: float = 1.0) -> dict[str, float]:
    """What each level of a model's network weighs; `times` multiplies that of the fused or only one."""
    hrda = model.get("hrda") or {}
    detail, context = hrda.get("hr_loss_weight", 0.0), hrda.get("lr_loss_weight", 0.0)
    others = {"context": context, "detail": detail}
    return {"main": times * (1.0 - detail - context), **{level: share for level, share in others.items() if share}}


def with_head_rate(model: Component, rate: float) -> Component:
    """The same network whose head learns so many times as fast as its backbone."""
    if model.name != "hrda":
        return Component(model.name, {**model.params, "head_rate": rate})
    return Component("hrda", {**model.params, "network": {**model.params["network"], "head_rate": rate}})


def component(model: dict) -> Component:
    """Our network of a figure's model."""
    key = model.get("backbone", {}).get("kind"), model.get("head", {}).get("kind")
    if model.get("hrda"):
        return _hrda(model)
    if key == ("resnet_v1c", "dlv2"):
        return _resnet_v1c(model)
    if "encode_decode" not in MODELS or None in key:
        pytest.fail(f"network {key[0]} with head {key[1]} is not built yet")
    return _encode_decode(model)


def fill(
    network: Any, kind: str, tensors: dict, prefix: str, salt: str, whole: bool = True
) -> dict[str, np.ndarray]:  # fmt: skip
    """Give a network, the `whole` of it, the figures' values; returns them under the figures' names, in our layout."""
    rules, own, values = load_rules(), network.state_dict(), {}
    linear = {f"{name}.weight" for name, part in network.named_sublayers() if isinstance(part, paddle.nn.Linear)}
    for name, shape in tensors.items():
        ours = rename(name, kind)
        if ours not in own and "conv_seg" in name:
            continue  # SegFormer's head has a classifier that nothing uses
        value = rules.values2(prefix + name, tuple(shape), salt)
        values[name] = np.ascontiguousarray(value.T) if ours in linear else value  # Paddle's are [in, out]
        own[ours].set_value(values[name])
    missing = set(own) - {rename(name, kind) for name in values}
    assert not (whole and missing), f"figures name no value for {sorted(missing)}"
    return values


def configuration(c: dict) -> Config:
    """Our configuration of a trajectory."""
    margins = np.maximum(c["pseudo_margins"] or [0] * 4, [c["ignore_top"], c["ignore_bottom"], 0, 0]).tolist()
    levels = shares(c["model"])
    method = {"seg_weights": levels, "weights": levels, "teacher": {"decay": c["alpha"]}, "augment": None,
              "pseudo_labels": {"threshold": c["threshold"], "margins": margins}}  # fmt: skip
    if c["fd"] is not None:
        fd = c["fd"]
        things = [number for number in fd["classes"] if number < c["classes"]]  # others no label has
        method["feature_distance"] = {"things": things, "weight": fd["lambda"], "min_ratio": fd["min_ratio"]}
    if c["mask"] is not None:
        method["masked"] = _masked(c, c["mask"], margins)
    model = component(c["model"])
    unused = Domain("gta5", "unused", "all", (1, 1))
    return Config(
        with_head_rate(model, c["head_lr_mult"]),
        Component("self_training", method),
        Data(unused, unused, unused, batch_size=c["n"]),
        Optim({"segmenter": AdamW(c["lr"], *c["betas"], c["wd"])}),
        Schedule(c["max_iters"], c["steps"], c["power"], c["warmup_iters"], c["warmup_ratio"]),
    )


def _masked(c: dict, mask: dict, margins: list) -> dict:
    if mask["mode"] not in IMAGES:
        pytest.fail(f"mask mode '{mask['mode']}' is not known")
    own = {}
    if (mask["alpha"], mask["threshold"]) != ("same", "same"):
        decay = c["alpha"] if mask["alpha"] == "same" else mask["alpha"]
        threshold = c["threshold"] if mask["threshold"] == "same" else mask["threshold"]
        own = {"teacher": {"decay": decay}, "pseudo_labels": {"threshold": threshold, "margins": margins}}
    return {"weights": shares(c["model"], mask["lambda"]), "ratio": mask["ratio"], "block": mask["block"],
            "augment": None, "images": IMAGES[mask["mode"]], **own}  # fmt: skip


def recorded_ranks(chosen: list[list[int]], label: Any) -> np.ndarray:
    """Ranks by which each image pastes the chosen values: those come first, then what its own label does not hold."""
    ranks = np.where(present_values(label).numpy() > 0, 0.9, 0.5).astype(np.float32)
    for row, values in zip(ranks, chosen):
        row[values] = 0.1
    return ranks


class Recorded(Choices):
    """The random choices that a figure's steps made."""

    def __init__(self, given: list[dict]) -> None:
        super().__init__()
        self.given = given

    def class_ranks(self, batch: Batch, clock: Clock) -> np.ndarray:
        chosen = self.given[clock.step]["classes"]
        self.step = clock.step
        return recorded_ranks(chosen, batch.source_label)

    def blocks(self, keys, grid, ratio) -> np.ndarray:
        kept = np.array(self.given[self.step]["blocks"], bool)
        assert kept.shape == (len(keys), *grid)
        return kept

    def box(self, segmenter, size, clock, name) -> Box:
        return Box(*self.given[clock.step]["crops"][PASSES[name]])


class Replay:
    """A trajectory: method and players from the figures' values, and what each step showed."""

    recorded = Recorded

    def __init__(self, case: dict) -> None:
        self.case, self.c = case, case["config"]
        self.config, self.rules = self.configuration(), load_rules()
        model, classes, self.kind = self.config.model, self.c["classes"], self.config.model.name
        segmenter = build_model(model, classes)
        pixels = self.config.data.pixels
        self.method = build_method(self.config.method, segmenter, classes, lambda: build_model(model, classes), pixels)
        for layer in self.method.sublayers():  # the figures were made without dropout and stochastic depth
            for key in ("p", "rate"):
                if type(layer).__name__.startswith("Drop") and hasattr(layer, key):
                    setattr(layer, key, 0.0)
        tensors, salt = case["tensors"], self.c["salt"]
        self.start = fill(self.method.segmenter, self.kind, tensors, "G.", salt)
        self.ours = {name: rename(name, self.kind) for name in self.start}
        for part in self.method.parts():
            part.loaded()
            if hasattr(part, "choices"):
                part.choices = self.method.choices if part is not self.method else self.recorded(case["given"])
        if self.c.get("fd") is not None:
            fill(self.method.additions["feature_distance"].fixed, self.kind, tensors, f"{self.c['fd']['imnet']}.", salt)
        self.state = TrainState(self.method, build_players(self.method, self.config))

    def configuration(self) -> Config:
        return configuration(self.c)

    def clock(self, number: int) -> Clock:
        return Clock(number, self.config.schedule.horizon, watch=True)

    def run(self) -> list[dict[str, Any]]:
        """Readings of every step."""
        return [self.step(number) for number in range(self.c["steps"])]

    def step(self, number: int) -> dict[str, Any]:
        c = self.c
        arrays = self.rules.batch2(number, c["salt"], c["n"], c["size"], c["classes"], c["label_cell"])
        batch, schedule = Batch(*map(paddle.to_tensor, arrays)), self.config.schedule
        report = train_step(self.state, self.clock(number), schedule, iter([batch]))
        shown = self.terms(report.losses)
        shown["fd_scales"] = sum(name.startswith("fd") for name in report.losses)
        shown["fd_cells"] = report.readings.get("health/feature_distance_cells")
        pseudo = self.method.teacher.labels(batch)
        shown.update(ps_weight=float(pseudo.share), ps_labels=self.counts(pseudo.label))
        masked = next((p for p in self.method.parts() if hasattr(p, "own")), None)
        if masked is not None and masked.own:
            own = masked.teacher.labels(batch)
            shown.update(mask_ps_weight=float(own.share), mask_ps_labels=self.counts(own.label))
        return {**shown, "lr": {key: self.rate(key, number) for key in self.case["groups"]}}

    def terms(self, losses: dict[str, float]) -> dict[str, float]:
        """The terms under the figures' names; feature distance is the sum over its scales."""
        shown: dict[str, float] = {}
        for name, value in losses.items():
            term, _, level = name.partition("_")
            key = term if term == "fd" else term + LEVELS[level]
            shown[key] = shown.get(key, 0.0) + value
        return shown

    def counts(self, label: Any) -> list[int]:
        return np.bincount(label.numpy().ravel(), minlength=self.c["classes"]).tolist()

    def rate(self, key: str, number: int) -> float:
        return self.state.players["segmenter"].lr * poly(number, self.config.schedule) * float(key.split(",")[0])

    def groups(self) -> dict[str, set[str]]:
        """Our tensors by "learning rate factor,weight decay factor"."""
        names, found = {p.name: n for n, p in self.method.segmenter.named_parameters()}, {}
        for group in self.method.players()["segmenter"]:
            found.setdefault(f"{group.lr_factor:g},{group.decay:g}", set()).update(
                names[p.name] for p in group.parameters
            )
        return found

    def change(self, network: Any) -> dict[str, np.ndarray]:
        """Every tensor's difference from the student's start, under the figures' names."""
        own = network.state_dict()
        return {n: own[rename(n, self.kind)].numpy().astype(np.float64) - v for n, v in self.start.items()}

    def networks(self) -> dict[str, Any]:
        """Student and teachers, by the figures' names."""
        found = {"student": self.method.segmenter, "teacher": self.method.teacher.network}
        masked = next((p for p in self.method.parts() if hasattr(p, "own")), None)
        if masked is not None and masked.own:
            found["mask_teacher"] = masked.teacher.network
        return found


def run_network(part: dict, name: str) -> tuple[dict[str, np.ndarray], int]:
    """Outputs of a forward figure under its names, and the depth of the network."""
    if part["what"] not in ("backbone", "features_and_logits", "encode_decode", "hrda_train", "hrda_eval"):
        pytest.fail(f"{name}: '{part['what']}' is not built yet")
    model, tensors, alone = part["model"], part["tensors"], part["what"] == "backbone"
    if alone:  # its tensors are named without a prefix; our network gets a head that is not looked at
        model, tensors = (
            {"head": {"kind": "dlv2", "dilations": [6]}, **model},
            {f"backbone.{n}": s for n, s in tensors.items()},
        )
    with runtime.fresh_names():
        ours = component(model)
        network = build_model(ours, classes_of(tensors))
        fill(network, ours.name, tensors, "G.", part["salt"], whole=not alone)
    for layer in network.sublayers(include_self=True):
        layer.training = part["mode"] == "train" and not type(layer).__name__.startswith("Drop")
    image = paddle.to_tensor(load_rules().image2(part["salt"], part["input"]))
    with paddle.no_grad():
        if part["what"].startswith("hrda"):
            return run_hrda(network, image, part), 0
        if part["what"] == "encode_decode":
            return {"logits": network(image)["main"].numpy()}, 0
        stages = network.backbone(image)
        outputs = {} if alone else {"logits": network.heads["main"](stages[-1]).numpy()}
    outputs.update({f"feature{i}": stage.numpy() for i, stage in enumerate(stages)})
    return outputs, sum(model["backbone"]["depths"])


def run_hrda(network: Any, image: paddle.Tensor, part: dict) -> dict[str, np.ndarray]:
    """Outputs of HRDA on a crop (`hrda_train`) or on windows, and the features and attention behind them."""
    box = Box(*part["crop"]) if part["what"] == "hrda_train" else None
    features = network.features(image, box)
    found = network.classify(features)
    outputs = {"fused": found["main"], "lr": found["context"], "hr": found["detail"]}
    outputs["attention"] = network.scale_attention(features)
    if box is None:
        outputs["logits"] = at_image_size(found, image.shape[2:], network.align_corners)["main"]
    else:
        outputs["scale0_feature3"] = network.last_stage(features)
        outputs["scale1_feature3"] = network.last_stage(features.detail)
    return {name: outputs[name].numpy() for name in part["outputs"]}


def run_gradient(part: dict) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of a gradient figure, under its names."""
    from paddle_adaptseg.methods.losses import weighted_cross_entropy

    ours, rules, classes = component(part["model"]), load_rules(), classes_of(part["tensors"])
    network = build_model(ours, classes)
    fill(network, ours.name, part["tensors"], "G.", part["salt"])
    network.train()
    label = rules.label2(part["salt"], part["input"][0], part["input"][2:], classes, part["label_cell"])
    logits = network(paddle.to_tensor(rules.image2(part["salt"], part["input"])))["main"]
    loss = weighted_cross_entropy(logits, paddle.to_tensor(label))
    loss.backward()
    own = dict(network.named_parameters())
    return float(loss), {n: own[rename(n, ours.name)].grad.numpy().astype(np.float64) for n in part["gradient"]}


def rare_rule(figures: dict, section: dict, **more: Any) -> RareClasses:
    """The rule of a sampling figure."""
    return RareClasses(min_pixels=figures["min_pixels"], min_crop_ratio=section["min_crop_ratio"], **more)


def sampling_counts(figures: dict) -> tuple[list[str], np.ndarray]:
    """Files and their pixels of each class [files, classes]."""
    names = [str(row["file"]).rsplit("/", 1)[-1] for row in figures["sample_class_stats"]]
    counts = np.zeros((len(names), 19), np.int64)
    for row, stats in zip(counts, figures["sample_class_stats"]):
        for key, pixels in stats.items():
            if key != "file":
                row[int(key)] = pixels
    return names, counts


def check_probe(tensor: Any, expected: dict) -> None:
    """Compare sum, norm and some values of a tensor."""
    array = tensor.numpy().astype(np.float64)
    assert list(array.shape) == expected["shape"]
    assert array.sum() == pytest.approx(expected["sum"], rel=1e-4, abs=1e-3)
    assert np.linalg.norm(array) == pytest.approx(expected["l2"], rel=1e-6)
    np.testing.assert_allclose(array.ravel()[expected["index"]], expected["value"], atol=1e-6)

"""Replays the figures of VFM-UDA through the runner of self-training: its `config` as values of our configuration.

A key of a figure's `config` that is not known fails by its name.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest
from parity_networks import component, dinov2, filled
from parity_self_training import TOLERANCE, Recorded, Replay, check_probe, load_rules, recorded_ranks
from PIL import Image

from paddle_adaptseg.config.optim import AdamW, Optim
from paddle_adaptseg.config.schema import Component, Config, Data, Domain, Eval, Pixels, Schedule
from paddle_adaptseg.core.labels import IGNORE
from paddle_adaptseg.data.augment import margin_sizes, normalise, resize_label
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.evaluation.metrics import ConfusionMatrix
from paddle_adaptseg.evaluation.options import PLAIN, windows
from paddle_adaptseg.evaluation.predictor import Predictor
from paddle_adaptseg.methods.augment import to_unit
from paddle_adaptseg.methods.mixing import choose_half, paste, pasted_pixels, present_values
from paddle_adaptseg.methods.teacher import Teacher
from paddle_adaptseg.models.dinov2 import DINOv2
from paddle_adaptseg.training.optim import poly
from paddle_adaptseg.training.step import train_step

PIXELS = Pixels("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
KNOWN = {
    *("salt", "classes", "n", "size", "img_size", "steps", "label_cell", "model", "lr", "lr_multiplier"),
    *("layerwise_lr_decay", "wd", "warmup_iters", "max_iters", "ema_alpha", "threshold", "token_mask_ratio", "margins"),
    "source_only",
}
GIVEN = {"flips", "classes", "kept"}


def schedule(warmup: int, total: int, stop: int) -> Schedule:
    """VFM-UDA's learning rate."""
    return Schedule(total, stop, 1.0, warmup, 1e-3, warmup_alone=True, batch_rule="sqrt")


def configuration(c: dict) -> Config:
    """Our configuration of a trajectory."""
    if set(c) - KNOWN:
        pytest.fail(f"config: {', '.join(sorted(set(c) - KNOWN))} not known")
    levels, masked = {"main": 1.0}, None
    if c["token_mask_ratio"] > 0:
        masked = {"mask": "tokens", "ratio": c["token_mask_ratio"], "augment": None}
    method = Component("self_training", {
        "seg_weights": levels, "weights": levels, "source_mean": "valid", "augment": None, "masked": masked,
        "teacher": {"decay": c["ema_alpha"], "ramp": 2, "update": "after"},
        "pseudo_labels": {"threshold": c["threshold"], "views": ["plain", "mirror"]},
    })  # fmt: skip
    if c.get("source_only"):
        method = Component("source_only", {"seg_weights": levels})
    rates = {"head_rate": 1.0, "backbone_rate": c["lr_multiplier"], "norm_decay": 1.0,
             "layer_decay": c["layerwise_lr_decay"]}  # fmt: skip
    backbone, head = dinov2(c["model"], c["img_size"]), component(c["model"]).params["head"]
    unused = Domain("gta5", "unused", "all", (1, 1))
    return Config(
        Component("encode_decode", {"backbone": backbone, "head": head, **rates}),
        method,
        Data(unused, unused, unused, batch_size=c["n"], pixels=PIXELS),
        Optim({"segmenter": AdamW(c["lr"], 0.9, 0.999, c["wd"])}),
        schedule(c["warmup_iters"], c["max_iters"], c["steps"]),
    )


class Tokens(Recorded):
    """The random choices of a figure's steps; its blocks are tokens."""

    def blocks(self, keys, grid, ratio) -> np.ndarray:
        kept = np.array(self.given[self.step]["kept"], bool)
        assert kept.shape == (len(keys), *grid)
        return kept


class VFMReplay(Replay):
    """A trajectory of VFM-UDA, or of its source-only baseline."""

    recorded = Tokens

    def __init__(self, case: dict) -> None:
        odd = {key for given in case["given"] for key in given} - GIVEN
        if odd:
            pytest.fail(f"given: {', '.join(sorted(odd))} not known")
        super().__init__(case)
        self.trained, self.mixed = set(), []
        player = self.state.players["segmenter"]
        player.step = lambda plain=player.step: (self.watch(player), plain())
        if self.adapts:
            self.method.mixed = lambda *given, plain=self.method.mixed: self.keep(plain(*given))

    @property
    def adapts(self) -> bool:
        return self.method.uses_target

    def configuration(self) -> Config:
        return configuration(self.c)

    def watch(self, player) -> None:
        """Which tensors have a gradient when the optimiser steps."""
        self.trained = {name.removeprefix("segmenter.") for name, _ in player.gradients()}

    def keep(self, mixed: tuple) -> tuple:
        self.mixed = mixed[:3]
        return mixed

    def batch(self, number: int) -> Batch:
        """What the loader hands on: images mirrored with their labels, the target's margins not."""
        c, flips = self.c, self.case["given"][number]["flips"]
        rules = load_rules("vfm")
        source, label, target, _, _ = rules.batch3(
            number, c["salt"], c["n"], c["size"], c["classes"], c["label_cell"], c["margins"]
        )
        assert self.adapts or len(set(flips["source"])) == 1, "one draw for all images of a batch"
        source, label = mirrored(source, flips["source"]), mirrored(label, flips["source"])
        if not self.adapts:
            return Batch(self.images(source), paddle.to_tensor(label), None)
        borders = tuple(map(tuple, [*c["margins"], *[[0] * 4] * c["n"]][: c["n"]])) if c["margins"] else None
        target = self.images(mirrored(target, flips["target"]))
        return Batch(self.images(source), paddle.to_tensor(label), target, target_borders=borders)

    def images(self, array: np.ndarray) -> paddle.Tensor:
        return normalise(paddle.to_tensor(np.ascontiguousarray(array.transpose(0, 2, 3, 1))), PIXELS)

    def step(self, number: int) -> dict[str, Any]:
        batch = self.batch(number)
        report = train_step(self.state, self.clock(number), self.config.schedule, iter([batch]))
        shown = {name.split("_")[0]: value for name, value in report.losses.items()}
        total = {"train_loss_source": shown["seg"]}
        if self.adapts:
            shown.setdefault("masked", 0.0)
            shown.update(self.adapted(batch, number))
            total.update(train_loss_mix=shown["mix"], loss_masked=shown["masked"])
            total["train_loss_total"] = sum(total.values())
        names = {ours: name for name, ours in self.ours.items()}
        absent = sorted(names[n] for n, _ in self.method.segmenter.named_parameters() if n not in self.trained)
        lr = {key: self.rate(key, number) for key in self.case["groups"]}
        return {**shown, "no_gradient": absent, "lr": lr, "logged": total}

    def adapted(self, batch: Batch, number: int) -> dict[str, Any]:
        """Readings of the pseudo-labels and of the mixed images."""
        pseudo = self.method.teacher.labels(batch)
        image, label, weight = self.mixed
        return {
            "ema_factor": self.method.teacher.follows.factor(number),
            "ps_weight": float(pseudo.share),
            "ps_weighted_pixels": (pseudo.weight > 0).sum(axis=[1, 2]).tolist(),
            "ps_labels": self.counts(pseudo.label),
            "mixed_image_sum": float(to_unit(image, PIXELS).astype("float64").sum()),
            "mixed_weight_sum": float(weight.astype("float64").sum()),
            "mixed_label_sum": int(label.sum()),
        }

    def groups(self) -> dict[str, set[str]]:
        """Our tensors by the figures' "learning rate factor,weight decay factor"."""
        found: dict[str, set[str]] = {key: set() for key in self.case["groups"]}
        for key, names in super().groups().items():
            factors = [float(x) for x in key.split(",")]
            keys = [k for k in found if np.allclose([float(x) for x in k.split(",")], factors, rtol=1e-5)]
            assert len(keys) == 1, f"a group with factors {key}, where the figures have {sorted(found)}"
            found[keys[0]] |= names
        return found

    def rate(self, key: str, number: int) -> float:
        """What the optimiser's groups with these factors learn at."""
        player, wanted = self.state.players["segmenter"], float(key.split(",")[0])
        rates = {g.lr_factor * player.lr * poly(number, self.config.schedule) for g in player.groups
                 if np.isclose(g.lr_factor, wanted, rtol=1e-5)}  # fmt: skip
        assert len(rates) == 1, f"no single learning rate with factor {wanted}"
        return rates.pop()

    def networks(self) -> dict[str, Any]:
        return super().networks() if self.adapts else {"student": self.method.segmenter}


def mirrored(array: np.ndarray, flags: list[int]) -> np.ndarray:
    """The flagged images of [N, ..., W] left to right."""
    return np.stack([x[..., ::-1] if flag else x for x, flag in zip(array, flags)])


def replay_of(case: dict) -> Replay:
    """The replay of a trajectory."""
    return (VFMReplay if "ema_alpha" in case["config"] else Replay)(case)


def input_sides(sides: dict) -> None:
    for image_size, side in sides.items():
        network = DINOv2(width=4, depth=1, num_heads=1, image_size=int(image_size))
        assert network.working_size(int(image_size), int(image_size)) == (side, side), image_size


def rate_factors(tables: dict) -> None:
    for key, factors in tables.items():
        warmup, total = map(int, key.split(","))
        own = {step: poly(int(step), schedule(warmup, total, total)) for step in factors}
        assert own == pytest.approx(factors, rel=TOLERANCE.rate, abs=1e-12), key


def ema_factors(factors: dict) -> None:
    teacher = Teacher(0.999, ramp=2, update="after")
    assert {step: teacher.factor(int(step)) for step in factors} == pytest.approx(factors, rel=1e-9)


def ignore_margins(sizes: dict) -> None:
    for key, rows in sizes.items():
        height, width = map(int, key.split("x"))
        assert list(margin_sizes((width, height), (0.03, 0.25, 0.03, 0.03))) == rows, key


def normalised(part: dict) -> None:
    image = load_rules("vfm").batch3(0, part["salt"], 1, 16)[0]
    check_probe(normalise(paddle.to_tensor(image.transpose(0, 2, 3, 1).copy()), PIXELS), part["outputs"]["normalized"])


def classmix(part: dict) -> None:
    n, side, classes, cell = (part[key] for key in ("n", "side", "classes", "cell"))
    images = load_rules("vfm").batch3(0, part["salt"], n, side, classes, cell)
    source, label, target, pseudo, _ = (paddle.to_tensor(x.astype(np.int64)) for x in images)
    ranks = recorded_ranks(part["classes_pasted"], label)
    present = present_values(label).max(axis=0, keepdim=True).expand([n, 256])
    pasted = pasted_pixels(label, choose_half(present, paddle.to_tensor(ranks)))
    weight = paddle.full(label.shape, part["weight"])
    check_probe(paste(pasted, source, target).astype("float32") / 255, part["outputs"]["image"])
    check_probe(paste(pasted, (label != IGNORE).astype(weight.dtype), weight), part["outputs"]["weight"])
    counts = np.bincount(paste(pasted, label, pseudo).numpy().ravel(), minlength=256)
    assert [*counts[:classes], counts[IGNORE]] == part["label_counts"]


def intersections(part: dict) -> None:
    rules, absent = load_rules("vfm"), part["absent"]
    label = rules.label3(part["salt"], 1, part["size"], 19, part["cell"])[0]
    prediction = rules.label3(f"{part['salt']}p", 1, part["size"], 19, part["prediction_cell"])[0]
    prediction = np.where(np.arange(label.size).reshape(label.shape) % 3 > 0, label, prediction)
    prediction[np.isin(prediction, [*absent, IGNORE])] = 0
    label[np.isin(label, absent)] = IGNORE
    matrix = ConfusionMatrix(19)
    matrix.update(label.astype(np.uint8), prediction.astype(np.uint8))
    np.testing.assert_allclose(np.nan_to_num(matrix.iou()), part["iou"], atol=1e-9)
    assert matrix.miou_of_all() == pytest.approx(part["miou"], abs=1e-9)


COMPONENTS = {"vit_in_img_size": input_sides, "lr_factor": rate_factors, "ema_factor": ema_factors,
              "ignore_margins": ignore_margins, "normalize": normalised, "classmix": classmix,
              "iou": intersections}  # fmt: skip


class Scored(NamedTuple):
    """What an evaluation of a picture shows."""

    resized: np.ndarray
    windows: list[list[int]]
    probability: np.ndarray
    label: np.ndarray
    matrix: ConfusionMatrix


def score_picture(part: dict) -> Scored:
    """VFM-UDA's evaluation of a picture by our predictor: windows of the crops' size, probabilities averaged."""
    rules, side = load_rules("vfm"), part["img_size"]
    picture, label = rules.picture3(part["salt"], part["picture"]), rules.label3(
        part["salt"], 1, part["picture"], 19, part["label_cell"]
    )[0].astype(np.uint8)  # fmt: skip
    label[np.isin(label, part.get("absent", []))] = IGNORE
    height, width = (round(n * (side / min(part["picture"]))) for n in part["picture"])
    image = np.asarray(Image.fromarray(picture).resize((width, height), Image.BILINEAR))
    label = resize_label(label, (width, height))
    options = PLAIN.within(Eval((side, side), (side // 2, side // 2), "softmax"))
    network = filled({**part, "what": "network"}, rules)
    predictor = Predictor(network, PIXELS, options, size=(height, width))
    logits, matrix = predictor.scaled_logits(image), ConfusionMatrix(19)
    matrix.update(label, np.asarray(logits.labels((height, width))))
    places = [[r.start, r.stop, c.start, c.stop] for r, c in windows((height, width), options.window, options.stride)]
    return Scored(image, places, np.asarray(logits.probabilities((height, width))), label, matrix)

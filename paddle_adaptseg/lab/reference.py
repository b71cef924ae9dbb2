"""What every key of a configuration means, and docs/configuration.md, which is written from it.

Types and defaults are read from the dataclasses and constructors that are the schema; only meanings stand here. A test
asserts that every key has one and that none is left over.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Union

from paddle_adaptseg.config.loading import to_plain
from paddle_adaptseg.config.optim import OPTIMISERS, Optim
from paddle_adaptseg.config.schema import Component, Config, Domain, Roots, Stages, Switch
from paddle_adaptseg.core.labels import LABEL_SPACES
from paddle_adaptseg.data.catalog import DATASETS, OwnClass, OwnDataset
from paddle_adaptseg.data.decode import LABELS
from paddle_adaptseg.lab import reference_self_training
from paddle_adaptseg.methods import ADDITIONS, GIVEN, METHODS
from paddle_adaptseg.methods.base import Ramp
from paddle_adaptseg.methods.losses import GAN_LOSSES, REPRESENTATIONS
from paddle_adaptseg.methods.prior import PRIORS
from paddle_adaptseg.models import MODELS
from paddle_adaptseg.models.encode_decode import BACKBONES, HEADS
from paddle_adaptseg.models.layers import NORMS
from paddle_adaptseg.models.meanings import PART_KEYWORDS


def _one_of(names: typing.Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


DOMAIN = "data.<domain>."  # stands for each of data.source, data.target and data.validation
_DOMAIN = {
    "dataset": f"{_one_of(DATASETS)}, or a YAML file of your own",
    "root": "folder, zip archive, pattern of them, or a list; several act as one",
    "split": "one of that [data set's](datasets.md#the-rows) splits",
    "size": "width and height at which the network sees its images",
    "list": "text file that names the images to use, one a line; empty: all; without patterns, "
    "[images and their labels](paddleseg.md#data)",
    "exclude": "text file that names images to leave out",
    "only": "fields of the pattern and their allowed values: `{city: [aachen]}`",
    "without": "fields of the pattern and values to leave out",
}

MEANINGS: Mapping[str, str] = {
    **{DOMAIN + key: text for key, text in _DOMAIN.items()},
    "data.classes": f"what the network predicts: {_one_of(LABEL_SPACES)}, or a data set's YAML file",
    "data.protocols": "class sets to report; the first decides which checkpoint is best; empty: all classes",
    "data.cache": "folder of what `tools/prepare.py` stored; used where it is up to date",
    "data.pixels.order": "`bgr` (Caffe's weights) or `rgb` (torchvision's and Paddle's)",
    "data.pixels.mean": "subtracted from 0..255, in the order above",
    "data.pixels.std": "divided by, after the mean",
    "data.augment.mirror": "mirror half of the images",
    "data.augment.scale": "range of a random factor on the size; what is larger is cut, what is smaller padded",
    "data.augment.crop": "width and height of a random cut",
    "data.augment.jitter": "brightness, contrast and saturation each vary by up to this share",
    "data.augment.blur": "chance of a Gaussian blur",
    **reference_self_training.RARE_CLASSES,
    "data.batch_size": "images of each domain in a batch",
    "data.workers": "loader processes; 0 reads in the training process; changes no result",
    "data.timeout": "seconds that loader workers may take for a batch",
    "data.quarantine": "unusable training items that are [replaced](reliability.md) and listed; one more stops the run",
    "plugins": "modules, or `.py` files, of [your own](extending.md) that register methods, networks, data sets",
    "schedule.horizon": "step at which the learning rate would reach 0: `lr * (1 - step / horizon) ^ power`",
    "schedule.stop": "step at which training stops",
    "schedule.power": "exponent of the decay",
    "schedule.warmup": "steps over which the learning rate first grows",
    "schedule.warmup_ratio": "0: it grows from 0; otherwise the decayed learning rate is multiplied by a factor that "
    "grows from this to 1",
    "schedule.iter_size": "batches whose gradients are summed into one step",
    "run.output": "folder of the run",
    "run.seed": "seed of initial weights, order of data and random changes",
    "run.device": "`auto`, `cpu`, `gpu` or `gpu:1`",
    "run.log_every": "steps between lines of the log",
    "run.eval_every": "steps between evaluations; 0: never",
    "run.save_every": "steps between checkpoints",
    "run.keep": "how many of the last full states stay (the best stays too; weights stay of every checkpoint)",
    "run.restore_from": "starting weights: a file, or a run's folder (`FOLDER@latest`, `FOLDER@12000`)",
    "run.restore_partial": "load what fits although tensors are missing or left over, and list them",
    "run.restore_labelled": "start from weights that have seen labels of Cityscapes or ADE20K, which is no adaptation",
    "run.max_hours": "end this session with a checkpoint after so many hours; 0: no limit",
    "run.on_nonfinite": "`stop`, or `skip`: undo a step whose losses or gradients are not finite, and continue",
    "run.max_nonfinite": "steps that may be skipped in a run",
    "run.precision": "fp32, bf16 or fp16: mixed precision, on a GPU",
    "run.loss_scale": "by which fp16's losses are multiplied and its gradients divided",
    "run.recompute": "blocks keep only their input and run forward again for their gradient: less memory, more time; "
    "true, or a list of stages: `[layer3]` of a ResNet, `[stage3]` of the small networks",
    "run.accelerate": "`auto`, `on` or `off`: on a CPU, [oneDNN](performance.md) computes blocks and losses; "
    "`PADDLE_ADAPTSEG_ACCELERATE=off` in the environment goes before it",
    "run.deterministic": "also choose deterministic cuDNN kernels",
    "run.cudnn_autotune": "time cuDNN's kernels once for each size and take the fastest; null: unless deterministic",
    "run.timeout": "seconds that one of [several processes](scaling.md) waits for the others before it ends",
    "run.sync_norm": "batch statistics over the images of all ranks; needs GPUs",
    "run.baseline": "folder of a source-only run; evaluations then report the difference from it",
}
OPTIMISER_KEYS: Mapping[str, str] = {
    "lr": "learning rate, before the schedule's factor and those of parameter groups",
    "momentum": "share of the last update that the next one keeps",
    "beta1": "decay of the first moment",
    "beta2": "decay of the second moment",
    "weight_decay": "its coefficient, before the factors of parameter groups",
}
# Keywords of networks and methods mean the same wherever they occur.
KEYWORDS: Mapping[str, str] = {
    **PART_KEYWORDS,
    "depths": "blocks of the four stages: `[3, 4, 23, 3]` is ResNet-101, `[3, 4, 6, 3]` ResNet-50",
    "norm": _one_of(NORMS),
    "aspp_branches": "pyramid branches that act: 2 as in AdaptSegNet's released weights, or 4",
    "head_rate": "learning rate of the heads as a multiple of the backbone's",
    "stride_in": "convolution of a block that strides: `1x1` (Caffe) or `3x3` (torchvision, Paddle)",
    "aux": "whether there is an auxiliary head",
    "variant": "`plain`, or `vd`: deep stem and averaged shortcuts (PaddleSeg)",
    "output_stride": "8 or 16: how much smaller than the image the last features are",
    "width": "channels: of the pyramid and decoder (DeepLabV3+), of the first stage (small), of the tokens (dinov2)",
    "seg_weights": "weight of the source's cross entropy on each level",
    "weights": "weight of the adaptation's loss on each level; a level without a key has none",
    "gan": f"the discriminators' objective: {_one_of(GAN_LOSSES)}",
    "represent": f"input of the discriminators: {_one_of(REPRESENTATIONS)}",
    "discriminator_width": "channels of a discriminator's first layer",
    "discriminator_scale": "size of the discriminators' maps as a share of the image; 1 in the papers",
    "ramp": "`{start, steps}`: adaptation weighs 0 before `start`, then grows to 1 within `steps`",
    "target_loss": _one_of(PRIORS),
    "options": "keywords of the target loss: `{ratio: 0.2}`, `{threshold: 0.95}`",
    "guidance": "train the auxiliary head where the confidence of either head is above this",
    "preheat": "steps of the plain adversarial loss before it is weighted by the heads' disagreement",
    "lambda_adv": "weight of the adversarial loss",
    "lambda_weight": "weight of what keeps the two heads apart",
    "lambda_local": "how much more disagreeing pixels weigh",
    "epsilon": "how much agreeing pixels weigh",
    **reference_self_training.KEYWORDS,
}
OWN: Mapping[str, str] = {
    "images": "patterns of image files below the root; of several the first that matches counts",
    "labels": "patterns of their labels, with the same fields",
    "classes": "the classes, in the order of the network's outputs",
    "splits": "values of `{split}`",
    "title": "what reports call it",
    "decode": _one_of(LABELS),
    "ignored": "ids that may occur and are no class",
    "classes[].name": "name of the class",
    "classes[].ids": "ids in the label files that mean it",
    "classes[].colour": "red, green and blue of its pixels in colour images",
}


def type_text(hint: Any) -> str:
    """An annotation in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Union:
        return f"{type_text(next(a for a in args if a is not type(None)))}, or nothing"
    if origin is tuple:
        inside = f"{type_text(args[0])}, ..." if args[-1] is Ellipsis else ", ".join(map(type_text, args))
        return f"[{inside}]"
    if origin is not None or hint is Ramp or dataclasses.is_dataclass(hint):
        return "mapping"
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", Roots: "text or list",
             Stages: "true, false or list", Switch: "auto, on or off"}  # fmt: skip
    return names.get(hint, "mapping")


def fields(cls: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, type and default of everything below a dataclass; components and optimisers have tables of their own."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, key = hints[field.name], f"{path}{field.name}"
        if hint in (Component, Optim):
            continue
        if dataclasses.is_dataclass(hint):
            if hint is not Domain or field.name == "source":  # the others are alike
                yield from fields(hint, DOMAIN if hint is Domain else f"{key}.")
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        yield key, type_text(hint), _default(default, dataclasses.MISSING)
        if typing.get_origin(hint) is Union and dataclasses.is_dataclass(typing.get_args(hint)[0]):
            yield from fields(typing.get_args(hint)[0], f"{key}.")


def keywords(cls: Any) -> Iterator[tuple[str, str, str]]:
    """Key, type and default of what a network's or method's constructor takes from a configuration."""
    hints = typing.get_type_hints(cls.__init__)
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name not in ("self", "widths", *GIVEN) and parameter.kind is not parameter.VAR_KEYWORD:
            yield name, type_text(hints[name]), _default(parameter.default, parameter.empty)


def _default(value: Any, none: Any) -> str:
    return "required" if value is none else f"`{json.dumps(to_plain(value))}`"


def _table(rows: typing.Iterable[tuple[str, str, str]], meanings: Mapping[str, str]) -> list[str]:
    lines = ["| Key | Type | Default | Meaning |", "|---|---|---|---|"]
    return lines + [f"| `{key}` | {kind} | {default} | {meanings[key]} |" for key, kind, default in rows]


OPTIM = (
    "`optim` sets the optimiser and learning rate of each player: `{segmenter: {name: adamw, lr: 6e-5}}`.",
    "Without a name `segmenter` has `sgd` and every other player `adam`. Another name replaces all keys at once.",
    "`legacy_updates: true` on `sgd` is the same as `name: legacy_sgd`.",
)
SECTIONS = {"schedule": "schedule: learning rate, warm-up and number of steps"}
TABLES: tuple[tuple[str, Mapping[str, Any], Callable, Mapping[str, str]], ...] = (
    ("optim", OPTIMISERS, fields, OPTIMISER_KEYS),
    ("model", MODELS, keywords, KEYWORDS),
    ("model.backbone", BACKBONES, keywords, KEYWORDS),
    ("model.head", HEADS, keywords, KEYWORDS),
    ("method", METHODS, keywords, KEYWORDS),
    ("added to any method", ADDITIONS, keywords, KEYWORDS),
    ("value", reference_self_training.VALUES, fields, reference_self_training.VALUE_KEYS),
)


def configuration_page() -> str:
    """docs/configuration.md."""
    lines = [
        "# Configuration",
        "",
        "Written from the dataclasses and constructors that check configurations, by `make pages`.",
        "",
        "A configuration is a YAML file. Its `base:` files are merged from left to right, then the file itself, then",
        "`-o key=value` from the command line. An unknown key, a wrong type or an impossible value is one line that",
        "names the file and the key. Every run saves its resolved configuration as `config.yml`, itself a valid file.",
        "",
        "```yaml",
        "base: [../_base_/data/gta5_cityscapes.yml, ../_base_/model/deeplabv2_resnet101.yml]",
        "method: {name: source_only, seg_weights: {main: 1.0}}",
        "run: {output: checkpoint/mine}",
        "```",
        "",
        "`<domain>` stands for `source` (labelled), `target` (unlabelled) and `validation` (labelled, only evaluated).",
        "Any key can be set on the command line: `-o data.source.root=/data/GTA5 schedule.stop=1000`.",
    ]
    everything = list(fields(Config))
    for section in dict.fromkeys(key.split(".")[0] for key, _, _ in everything):
        lines += ["", f"## {SECTIONS.get(section, section)}", ""]
        lines += _table([row for row in everything if row[0].split(".")[0] == section], MEANINGS)
    lines += ["", "## optim", "", *OPTIM]
    for section, table, rows, meanings in TABLES:
        for name, cls in table.items():
            lines += ["", f"## {section}: {name}", "", (inspect.getdoc(cls) or "").splitlines()[0], ""]
            lines += _table(rows(cls), meanings)
    lines += ["", "## A data set of your own", ""]
    lines += ["The YAML file that `dataset:` may name ([example](datasets.md)).", ""]
    own = [*fields(OwnDataset), *fields(OwnClass, "classes[].")]
    return "\n".join([*lines, *_table(own, OWN)]) + "\n"

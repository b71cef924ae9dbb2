"""A user's own folders adapted in one command: a configuration is written and trained, and the result reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from paddle_adaptseg.config.loading import SHIPPED
from paddle_adaptseg.config.yamltree import write_tree
from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import ConfigError, suggest
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.lab.own_data import class_table, ignored_ids, images_below, pairs_of, working_size, write_list
from paddle_adaptseg.weights.kinds import identify
from paddle_adaptseg.weights.load import find_weights
from paddle_adaptseg.weights.reader import read_weights


@dataclass(frozen=True)
class Recipe:
    """What is trained: base files below configs/_base_, keys beside them, and pixels of an image on a GPU."""

    title: str
    bases: tuple[str, ...]
    keys: Mapping[str, Any]
    steps: int
    pixels: int
    weights: tuple[str, ...] = ()  # kinds of start weights (weights/kinds.py) that it is for


MARGINS_OFF = {"pseudo_labels": {"margins": [0, 0, 0, 0]}}
ADVERSARY = {"weights": {"main": 0.03, "aux": 0.006}, "discriminator_width": 16, "discriminator_scale": 0.5}
RECIPES: Mapping[str, Recipe] = {
    "small": Recipe(
        "AdaptSegNet on a small network, which needs no start weights",
        ("model/small.yml", "method/adaptsegnet_multi.yml", "schedule/toy.yml"),
        {"method": ADVERSARY, "data": {"pixels": {"order": "rgb", "mean": [120, 120, 120], "std": [60, 60, 60]},
                                       "augment": {"mirror": True}, "batch_size": 4}},
        2000,
        192 * 96,
    ),
    "dacs": Recipe(
        "DACS on DeepLabV2 with ResNet-101",
        ("model/deeplabv2_resnet101.yml", "method/dacs.yml", "schedule/dacs.yml"),
        {"model": {"aux": False}},
        40_000,
        1024 * 512,
        ("initial", "imagenet_resnet"),
    ),
    "daformer": Recipe(
        "DAFormer's network and step with rare-class sampling",
        ("model/daformer_mit_b5.yml", "method/daformer_step.yml", "schedule/daformer.yml"),
        {"method": MARGINS_OFF, "data": {"rare_classes": {}}},
        40_000,
        1024 * 512,
        ("mit", "hf_segformer"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What `adapt` and `init` were given."""

    source_images: Path
    source_labels: Path
    target: Path
    output: Path
    classes: str = ""
    target_validation: Optional[tuple[Path, Path]] = None  # images and labels of the target, only for scores
    recipe: str = ""
    weights: str = ""
    size: Optional[tuple[int, int]] = None
    steps: int = 0


def write_project(request: Request) -> tuple[Path, list[str]]:
    """Write `adapt.yml`, the data set's YAML file and its lists; returns the configuration and what was chosen."""
    folder = request.output / "data"
    name = request.recipe or _recipe_for(request.weights)
    if name not in RECIPES:
        raise ConfigError(f"--recipe: unknown '{name}': {suggest(name, RECIPES)}")
    recipe = RECIPES[name]
    labels = images_below(request.source_labels)
    images = images_below(request.source_images)
    pairs, target = pairs_of(images, labels), images_below(request.target)
    table = class_table(request.classes, [label for _, label in pairs], folder / "classes.yml")
    _write_dataset(folder / "dataset.yml", table)
    size = request.size or working_size(target, recipe.pixels)
    write_list(folder / "source.txt", pairs)
    write_list(folder / "target.txt", [(image,) for image in target])
    scored = _validation(request, folder, target)
    steps = request.steps or recipe.steps
    lines = [
        f"source: {len(pairs)} of {len(images)} images have a label, such as {pairs[0][0].name} and {pairs[0][1].name}",
        f"target: {len(target)} images; {scored}",
        f"classes: {', '.join(str(row.get('name')) for row in table)}",
        f"recipe: {name} ({recipe.title}), {steps} steps at {size[0]}x{size[1]}",
    ]
    path = request.output / "adapt.yml"
    tree = _tree(request, recipe, size, steps)
    text = "".join(f"# {line}\n" for line in lines) + write_tree(tree)
    write_atomically(path, lambda handle: handle.write(text.encode()))
    return path, lines


def _recipe_for(weights: str) -> str:
    """The recipe that start weights are for; without weights the small one."""
    if not weights:
        return "small"
    kind = identify(read_weights(find_weights(weights)).arrays)
    found = next((name for name, recipe in RECIPES.items() if kind in recipe.weights), None)
    if found is None:
        raise ConfigError(f"no recipe of `adapt` starts from '{weights}' ({kind or 'an unknown kind'}): name --recipe")
    return found


def _write_dataset(path: Path, table: Sequence[Mapping]) -> None:
    tree = {"title": "own data", "classes": list(table), "ignored": ignored_ids(table)}
    text = write_tree(tree).encode()
    write_atomically(path, lambda handle: handle.write(text))


def _validation(request: Request, folder: Path, target: Sequence[Path]) -> str:
    """Write the list that evaluation reads; says what it holds."""
    if request.target_validation is None:
        write_list(folder / "validation.txt", [(image,) for image in target])
        return "no labels to score with, so the report does without"
    images, labels = (images_below(part) for part in request.target_validation)
    pairs = pairs_of(images, labels)
    write_list(folder / "validation.txt", pairs)
    return f"scored on {len(pairs)} labelled images"


def _tree(request: Request, recipe: Recipe, size: Sequence[int], steps: int) -> dict[str, Any]:
    """The configuration as plain keys."""
    data = request.output / "data"
    domain = {"dataset": str(data / "dataset.yml"), "root": "/", "split": "all"}
    domains = {
        n: {**domain, "size": list(size), "list": str(data / f"{n}.txt")} for n in ("source", "target", "validation")
    }
    every, scored = max(1, steps // 5), request.target_validation is not None
    tree: dict[str, Any] = {"base": [str(SHIPPED / "_base_" / base) for base in recipe.bases]}
    for section in ("model", "method"):
        if section in recipe.keys:
            tree[section] = dict(recipe.keys[section])
    tree["data"] = {**recipe.keys.get("data", {}), **domains, "classes": str(data / "dataset.yml")}
    if recipe.pixels > size[0] * size[1] and recipe.weights:
        tree["data"]["augment"] = {"crop": [min(512, size[0]), min(512, size[1])], "mirror": True}
    if "adaptsegnet_multi" in " ".join(recipe.bases):
        tree["method"]["ramp"] = {"start": steps * 4 // 9}
    tree["schedule"] = {"horizon": steps, "stop": steps}
    tree["run"] = {"output": str(request.output / "run"), "eval_every": every if scored else 0, "save_every": every}
    if request.weights:
        tree["run"]["restore_from"] = request.weights
    if runtime.cpu_count() < 3:
        tree["data"]["workers"] = 1
    return tree

"""The examples on docs/extending.md are short, and what they add trains from the YAML that stands under them."""

from __future__ import annotations

import re
import shutil

import pytest
from conftest import ROOT, tiny_overrides

from paddle_adaptseg import models
from paddle_adaptseg.configfile import load_config, to_plain
from paddle_adaptseg.data import catalog
from paddle_adaptseg.engine import fit
from paddle_adaptseg.methods import prior
from paddle_adaptseg.yamltree import parse_tree, write_tree

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
EXAMPLES = {
    "A loss on target predictions": (prior, "PRIORS"),
    "A network": (models, "MODELS"),
    "A data set": (catalog, "DATASETS"),
}


def example(title: str) -> tuple[str, str]:
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    (code,), (yaml,) = (re.findall(rf"```{kind}\n(.*?)```", section, re.S) for kind in ("python", "yaml"))
    return code, yaml


@pytest.mark.parametrize("title", EXAMPLES)
def test_what_an_example_adds_trains(title, toy_root, tmp_path, monkeypatch):
    code, yaml = example(title)
    assert code.count("\n") < 40
    scope: dict = {}
    exec(compile(code, "docs/extending.md", "exec"), scope)
    module, table = EXAMPLES[title]
    monkeypatch.setattr(module, table, {**getattr(module, table), **scope["NEW"]})
    overrides = tiny_overrides(toy_root, tmp_path / "run")
    if title == "A data set":
        make_drives(toy_root, tmp_path / "dataset/drives")
        monkeypatch.chdir(tmp_path)
        overrides = [text for text in overrides if not text.startswith("data.target.")]
    if title == "A network":
        overrides = [text for text in overrides if not text.startswith("model.")]
    base, shown = to_plain(load_config(ROOT / "configs/toy/adaptsegnet_single.yml")), parse_tree(yaml, "yaml")
    path = tmp_path / "config.yml"
    replaced = {"model", "method"} & set(shown)  # a component is replaced whole, the rest merged
    path.write_text(write_tree({k: v for k, v in base.items() if k not in replaced}))
    (tmp_path / "mine.yml").write_text(f"base: [{path}]\n{yaml}")
    config = load_config(tmp_path / "mine.yml", [*overrides, "schedule.stop=2", "run.eval_every=2"])
    assert fit(config).step == 2


def make_drives(toy, root) -> None:
    """The toy pair's target images in the layout of the example."""
    for image in (toy / "Cityscapes/leftImg8bit/train").rglob("*.png"):
        to = root / "frames/train/monday" / image.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, to)

"""A dry run builds what training builds, lists what is absent, and leaves no trace."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import ROOT
from forked import tool

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.config.schema import Roots
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.data.pairs import list_items
from paddle_adaptseg.training import plan as plan_module
from paddle_adaptseg.training.plan import plan_run
from paddle_adaptseg.training.run import fit


def test_a_whole_setting_is_told_and_nothing_is_written(tiny, tmp_path):
    plan = plan_run(tiny("toy/adversarial_v3plus", "schedule.stop=6"))
    text = plan.text()
    assert plan.problems == [] and text.endswith("0 problems; nothing was trained or written")
    assert "model: small_v3plus with main" in text and "discriminators: " in text
    assert "source: 6 images of GTA5" in text and "an epoch is 3 steps, 2.0 epochs in all" in text
    assert "start: from random weights" in text and not (tmp_path / "run").exists()


def test_everything_absent_is_listed_at_once_with_the_rest_of_the_plan(tiny, tmp_path):
    absent = [f"data.{d}.root={tmp_path / 'absent'}" for d in ("source", "target", "validation")]
    weights = (f"run.restore_from={tmp_path / 'no.pth'}", f"run.baseline={tmp_path / 'none'}")
    plan = plan_run(tiny("toy/adaptsegnet_multi", *absent, *weights))
    assert len(plan.problems) == 5 and "expected" in plan.problems[0] and "images/{name}.png" in plan.problems[0]
    assert "steps: 6 of a horizon of 8" in plan.text() and "5 problems" in plan.text()
    unread = plan_run(tiny("toy/source_only", *absent, "run.eval_every=0"))
    assert len(unread.problems) == 1, "source only reads neither the target nor, without evaluation, the validation"


def test_a_wrong_configuration_is_an_error_and_no_plan(tiny):
    with pytest.raises(ConfigError, match="this model has no level 'aux'"):
        plan_run(tiny("toy/adversarial_v3plus", "method.seg_weights.aux=0.1"))


def test_the_start_is_loaded_as_training_would_load_it(tiny, tmp_path):
    config = tiny("toy/source_only", "schedule.stop=2", "run.eval_every=0")
    fit(config)
    assert "start: resumes in" in plan_run(config, resume="latest").text()
    (problem,) = plan_run(config).problems
    assert "already holds a run at step 2" in problem
    assert "start: from random weights (what is there is dropped)" in plan_run(config, overwrite=True).text()
    (problem,) = plan_run(tiny("toy/source_only", f"run.restore_from={tmp_path / 'run'}", "model.width=16",
                               f"run.output={tmp_path / 'other'}")).problems  # fmt: skip
    assert "does not fit the model" in problem and not (tmp_path / "other").exists()


def test_the_tool_exits_with_1_when_anything_is_absent(tmp_path):
    done = tool("train", "--dry-run", "--checkpoint-dir", tmp_path / "run", "--data-dir", "absent", "--random-seed", 3)
    assert done.returncode == 1 and done.stderr == ""
    assert "PROBLEM data folder or archive 'absent' does not exist" in done.stdout
    assert not (tmp_path / "run").exists()


def test_the_between_city_pair_finds_its_images_by_city_and_keeps_the_scored_ones_out(tmp_path):
    data = load_config(ROOT / "configs/cityscapes_between/adversarial_v2_single.yml").data
    cities = [*data.source.only["city"], *data.target.only["city"]]
    scored = (ROOT / data.validation.list).read_text().split()
    names = [name.replace("_leftImg8bit", "") for name in scored] + [f"{city}_999999_000019" for city in cities]
    for name in names:
        for kind, end in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
            path = tmp_path / kind / "train" / name.split("_")[0] / f"{name}_{end}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    counts = {}
    for part, labelled in (("source", True), ("target", False), ("validation", True)):
        domain = replace(getattr(data, part), root=Roots([str(tmp_path)]))
        lists = {key: str(ROOT / getattr(domain, key)) for key in ("list", "exclude") if getattr(domain, key)}
        counts[part] = len(list_items(replace(domain, **lists), labelled).items)
    assert counts == {"source": 9, "target": 9, "validation": 90}


def test_a_plan_goes_on_where_memory_cannot_be_counted(tiny, monkeypatch):
    def none_left(*_):
        raise MemoryError("(ResourceExhausted) Fail to alloc memory")

    monkeypatch.setattr(plan_module, "estimate", none_left)
    assert "memory: not counted" in plan_run(tiny("toy/source_only")).text()

"""What practice asks for: no source, several sources, a few target labels, and a small network out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import ROOT, tiny_overrides
from test_resume import assert_same_run, interrupted  # noqa: F401 (a fixture)

from paddle_adaptseg.config.loading import load_config, override
from paddle_adaptseg.core.errors import ConfigError, DataError
from paddle_adaptseg.data import TrainData, open_validation
from paddle_adaptseg.training.plan import plan_run
from paddle_adaptseg.training.run import fit


@pytest.fixture(scope="module")
def start(toy_root, tmp_path_factory) -> Path:
    """A network that was trained on the source for a few steps."""
    folder = tmp_path_factory.mktemp("start") / "run"
    config = load_config(ROOT / "configs/toy/source_only.yml", tiny_overrides(toy_root, folder))
    fit(override(config, "schedule.stop=2", "run.eval_every=0"))
    return folder


@pytest.fixture
def free(toy_root, tmp_path, start):
    """A source-free configuration without any data.source."""

    def build(*overrides: str):
        small = [text for text in tiny_overrides(toy_root, tmp_path / "run") if not text.startswith("data.source.")]
        own = [f"run.restore_from={start}", "method.pseudo_labels.threshold=0.1", "method.entropy=0.1", "run.keep=9"]
        return load_config(ROOT / "configs/toy/source_free.yml", [*small, *own, *overrides])

    return build


def resumes(config, tmp_path, interrupted):  # noqa: F811
    fit(override(config, f"run.output={tmp_path / 'straight'}"))
    interrupted(config, at=5)
    assert fit(config, resume="latest").step == 6
    assert_same_run(tmp_path / "straight", tmp_path / "run", 6)


@pytest.mark.parametrize("model", ["model.norm=group", "model.norm=batch"])
def test_a_run_without_a_source_is_resumed_bit_for_bit(free, tmp_path, interrupted, model):  # noqa: F811
    given = [model, "run.restore_partial=true"] if model.endswith("batch") else [model]
    resumes(free(*given), tmp_path, interrupted)


def test_without_a_source_no_file_of_one_is_looked_for(free, tmp_path):
    config = free()
    assert config.data.all_sources() == {}
    plan = plan_run(config)
    assert plan.problems == [] and "source:" not in plan.text() and "target: 5 images" in plan.text()
    batch = next(TrainData(config, True, with_source=False).batches(0))
    assert batch.source_image is None and batch.source_label is None and len(batch) == 2


@pytest.mark.parametrize("setting, message", [
    (["run.restore_from="], "starts from a trained network: give its weights with run.restore_from"),
    (["data.rare_classes={}"], "data.rare_classes draws source images, and 'source_free' reads no source"),
    (["method.feature_distance={things: [road]}"], "method.feature_distance looks at source images"),
    (["method.masked={images: source}"], "method.masked.images=source masks source images"),
    (["method.teacher.modes={norms: eval}"], "method.teacher.modes.norms contradicts method.statistics=target"),
    (["method.entropy=-1"], "entropy and diversity must be 0 or more"),
])  # fmt: skip
def test_settings_that_contradict_a_run_without_source_are_one_line(free, setting, message):
    with pytest.raises(ConfigError, match=message) as caught:
        fit(free(*setting))
    assert "\n" not in str(caught.value)


def test_a_method_that_trains_on_a_source_says_that_there_is_none(tiny):
    with pytest.raises(ConfigError, match="trains on a labelled source: give data.source, or data.sources"):
        fit(override(tiny("toy/source_only"), "data.source=null"))

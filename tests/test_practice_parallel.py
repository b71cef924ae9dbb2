"""Runs without a source, with target labels, with two sources and of a student: two processes compute what one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import ROOT
from test_parallel import CLOSE, LOW, STEPS, run_tasks, settings

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.training.checkpoint import load_state, state_path
from paddle_adaptseg.training.run import fit

pytestmark = pytest.mark.skipif(not paddle.distributed.is_available(), reason="this Paddle has no paddle.distributed")
SIZE = "split: all, size: [96, 48]"
MODES = {
    "source_free": ("toy/source_free", [LOW, "run.restore_from=WEIGHTS", "method.entropy=0.1", "method.diversity=0.1"]),
    "distil": ("toy/distil", ["method.teacher_weights=WEIGHTS", "method.seg_weights={main: 1.0}",
                              "method.taught_on=both", "optim.segmenter.name=sgd", "optim.segmenter.lr=0.02"]),
    "target_labelled": ("toy/self_training", [LOW, "method.ramp.start=0", "data.target_labelled={count: 3}"]),
    "sources": ("toy/source_only", ["data.source=null", *(
        f"data.sources.{name}={{dataset: gta5, root: ROOT/GTA5, share: {share}, {SIZE}}}" for name, share in
        (("one", 2), ("other", 1)))]),
}  # fmt: skip


def overrides_of(name: str, root: Path, output: Path, weights: Path, batch: int) -> list[str]:
    own = [text.replace("WEIGHTS", str(weights)).replace("ROOT", str(root)) for text in MODES[name][1]]
    small = settings(root, output, batch, *own, "model.norm=group")
    return [text for text in small if name not in ("source_free", "sources") or not text.startswith("data.source.")]


@pytest.fixture(scope="module")
def weights(toy_root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "run"
    fit(load_config(ROOT / "configs/toy/source_only.yml", settings(toy_root, folder, 2, "schedule.stop=1")))
    return folder


@pytest.fixture(scope="module")
def together(toy_root, weights, tmp_path_factory) -> dict:
    """All modes by two processes, in one launch."""
    folder = tmp_path_factory.mktemp("two")
    said = run_tasks(folder, [
        ["train", {"config": f"{ROOT}/configs/{config}.yml",
                   "overrides": overrides_of(name, toy_root, folder / name, weights, 1)}]
        for name, (config, _) in MODES.items()])  # fmt: skip
    return {"folder": folder, **dict(zip(MODES, said))}


@pytest.mark.parametrize("name", MODES)
def test_two_processes_with_one_image_equal_one_process_with_two(together, toy_root, weights, tmp_path, name):
    assert together[name] == [str(STEPS)] * 2
    overrides = overrides_of(name, toy_root, tmp_path / "run", weights, 2)
    fit(load_config(ROOT / f"configs/{MODES[name][0]}.yml", overrides))
    for step in range(1, STEPS + 1):
        one = load_state(state_path(tmp_path / "run", step)).arrays
        two = load_state(state_path(together["folder"] / name, step)).arrays
        assert one.keys() == two.keys()
        for key, array in one.items():
            np.testing.assert_allclose(two[key], array, rtol=0, atol=CLOSE, err_msg=f"step {step}: {key}")

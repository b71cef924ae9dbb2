"""What practice asks for: no source, several sources, a few target labels, and a small network out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import ROOT, tiny_overrides
from test_resume import assert_same_run, interrupted  # noqa: F401 (a fixture)

from paddle_adaptseg.config.loading import load_config, override
from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core.errors import ConfigError, UserError
from paddle_adaptseg.data import TrainData
from paddle_adaptseg.data.augment import normalise
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods.base import Clock, Trained
from paddle_adaptseg.methods.distil import Distil, divergence
from paddle_adaptseg.training.plan import plan_run
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.training.start import build_state


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


@pytest.fixture
def distil(tiny, start):
    """A student of the network in `start`."""

    def build(*overrides: str):
        return tiny("toy/distil", f"method.teacher_weights={start}", "run.keep=9", *overrides)

    return build


@pytest.mark.parametrize("more", [
    [], ["method.taught_on=target", "data.source=null"], ["method.augment={}", "method.seg_weights={main: 1.0}"],
], ids=["both", "target", "colours_and_labels"])  # fmt: skip
def test_a_student_is_resumed_bit_for_bit_and_its_teacher_never_changes(distil, tmp_path, interrupted, more):  # noqa: F811
    config = distil(*[text for text in more if not text.startswith("data.source")])
    config = override(config, *[text for text in more if text.startswith("data.source")])
    resumes(config, tmp_path, interrupted)
    state = build_state(config)
    assert not [name for name in state.method.state_dict() if name.startswith("teacher")]
    taught = [p for p in state.method.teacher.parameters() if not p.stop_gradient]
    assert taught == [] and not any(layer.training for layer in state.method.train().teacher.sublayers())


def test_the_plan_says_how_small_the_student_is(distil, tmp_path):
    text = plan_run(distil()).text()
    assert "teacher 0.06 M parameters (0.2 MB), student 0.06 M parameters" in text and "0 problems" in text


def test_a_student_learns_to_agree_with_its_teacher(distil, tmp_path):
    fit(distil("schedule.stop=8", "optim.segmenter.lr=0.05", "run.eval_every=0"))
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = [line["loss/distil_target_main"] for line in lines]
    assert losses[-1] < losses[0]


def test_a_teacher_with_other_pixels_sees_the_same_image():
    class Seeing(paddle.nn.Layer):
        levels, seg_weights = ("main",), {}

        def forward(self, image):
            self.image = image
            return {"main": image}

    student, teacher = Pixels("rgb", (120, 120, 120), (60, 60, 60)), Pixels()
    image = paddle.to_tensor(np.random.default_rng(0).integers(0, 256, [1, 8, 8, 3]).astype("uint8"))
    network = Seeing()
    network.groups = list
    method = Distil(network, lambda path: Trained(Seeing(), teacher, ("a",)), student, 0, ("a",), "x", {"main": 1.0})
    given = Batch(normalise(image, student), None, normalise(image, student))
    method.taught(given.target_image, "target", given, None, Clock(0, 1))
    assert np.abs(method.teacher.image.numpy() - normalise(image, teacher).numpy()).max() < 1e-3


def test_the_divergence_is_that_of_the_definition():
    one, other = paddle.randn([2, 3, 4, 4]), paddle.randn([2, 3, 4, 4])
    p, q = (paddle.nn.functional.softmax(x / 2, axis=1).numpy() for x in (other, one))
    assert abs(float(divergence(one, other, 2.0)) - 4 * (p * np.log(p / q)).sum(1).mean()) < 1e-5
    assert abs(float(divergence(one, one))) < 1e-6


@pytest.mark.parametrize("setting, message", [
    (["method.taught_on=target", "method.seg_weights={main: 1.0}"], "method.taught_on=target never reads"),
    (["method.temperature=0"], "method.temperature must be above 0, not 0.0"),
    (["method.taught_on=source"], "method.taught_on: unknown 'source'"),
    (["data.classes=synthia_16"], "predicts other classes \\(19\\) than data.classes \\(16\\)"),
    (["method.teacher_weights=nowhere.pdparams"], "weights 'nowhere.pdparams' do not exist"),
])  # fmt: skip
def test_settings_that_contradict_a_distillation_are_one_line(distil, setting, message):
    with pytest.raises(UserError, match=message) as caught:
        fit(distil(*setting))
    assert "\n" not in str(caught.value)

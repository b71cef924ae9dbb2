"""What practice asks for: no source, several sources, a few target labels, and a small network out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import ROOT, tiny_overrides
from forked import tool
from PIL import Image
from test_resume import assert_same_run, interrupted  # noqa: F401 (a fixture)
from test_tools import script

from paddle_adaptseg.config.loading import load_config, override
from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core.errors import ConfigError, DataError, UserError
from paddle_adaptseg.core.labels import CITYSCAPES_19
from paddle_adaptseg.data import TrainData, label_space
from paddle_adaptseg.data.augment import normalise
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.data.target_labelled import labelled_listing
from paddle_adaptseg.deploy.contract import trained_on
from paddle_adaptseg.deploy.export import export_model
from paddle_adaptseg.evaluation import command
from paddle_adaptseg.evaluation.checkpoints import DomainEvaluator
from paddle_adaptseg.evaluation.measure import evaluate
from paddle_adaptseg.evaluation.predictor import PLAIN
from paddle_adaptseg.lab.suggest import k_center
from paddle_adaptseg.methods.base import Clock, Trained
from paddle_adaptseg.methods.distil import Distil, divergence
from paddle_adaptseg.methods.losses import softmax
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
        own = [f"run.restore_from={start}", "method.pseudo_labels.threshold=0.1", "method.entropy=0.1",
               "method.balance=0.5", "run.keep=9"]  # fmt: skip
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


def test_a_run_without_a_source_is_evaluated_reported_and_exported(free, tmp_path):
    fit(free("schedule.stop=2", "run.eval_every=2"))
    said: list = []
    command.evaluate_request(command.Request((str(tmp_path / "run"),), report=str(tmp_path / "report")), said.append)
    assert (tmp_path / "report/index.html").is_file() and any("target mIoU" in str(line) for line in said)
    with pytest.raises(ConfigError, match="has no source to evaluate on"):
        command.evaluate_request(command.Request((str(tmp_path / "run"),), domains=("target", "source")), print)
    export_model(tmp_path / "run", tmp_path / "exported", size=[96, 192])
    assert "no source, cityscapes without" in (tmp_path / "exported/README.md").read_text()


@pytest.mark.parametrize("setting, message", [
    (["run.restore_from="], "starts from a trained network: give its weights with run.restore_from"),
    (["data.rare_classes={}"], "data.rare_classes draws source images, and 'source_free' reads no source"),
    (["method.feature_distance={things: [road]}"], "method.feature_distance looks at source images"),
    (["method.masked={images: source}"], "method.masked.images=source masks source images"),
    (["method.teacher.modes={norms: eval}"], "method.teacher.modes.norms contradicts method.statistics=target"),
    (["method.entropy=-1"], "entropy, diversity and balance must be 0 or more"),
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
    ["method.taught_on=both"], ["method.taught_on=target", "data.source=null"],
    ["method.taught_on=both", "method.augment={}", "method.seg_weights={main: 1.0}", "method.views=[plain, vivid]",
     "method.surest=1"],
], ids=["both", "target", "colours_views_and_labels"])  # fmt: skip
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
    fit(distil("schedule.stop=8", "optim.segmenter.lr=0.01", "run.eval_every=0"))
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = [line["loss/distil_target_main"] for line in lines]
    assert losses[-1] < losses[0]


def test_a_teacher_with_other_pixels_sees_the_same_image():
    class Seeing(paddle.nn.Layer):
        levels, seg_weights, cropped = ("main",), {}, ()

        def forward(self, image):
            self.image = image
            return {"main": image}

        def main(self, image):
            return self.forward(image)["main"]

    student, teacher = Pixels("rgb", (120, 120, 120), (60, 60, 60)), Pixels()
    image = paddle.to_tensor(np.random.default_rng(0).integers(0, 256, [1, 8, 8, 3]).astype("uint8"))
    network = Seeing()
    network.groups = list
    method = Distil(network, lambda path: Trained(Seeing(), teacher, ("a",)), student, 0, ("a",), "x", {"main": 1.0})
    given = Batch(normalise(image, student), None, normalise(image, student))
    method.taught(given.target_image, "target", given, None, Clock(0, 1))
    assert np.abs(method.teacher.image.numpy() - normalise(image, teacher).numpy()).max() < 1e-3


def test_a_teacher_may_label_from_several_views(distil):
    method = build_state(distil("method.views=[plain, mirror]", "method.surest=0")).method
    image = paddle.randn([1, 3, 48, 96])
    mirrored = softmax(method.teacher.main(image.flip(axis=[-1]))).flip(axis=[-1])
    mean = (softmax(method.teacher.main(image)) + mirrored) / 2
    np.testing.assert_allclose(softmax(method.wanted(image, None)).numpy(), mean.numpy(), atol=1e-5)


def test_the_divergence_is_that_of_the_definition():
    one, other = paddle.randn([2, 3, 4, 4]), paddle.randn([2, 3, 4, 4])
    p, q = (paddle.nn.functional.softmax(x / 2, axis=1).numpy() for x in (other, one))
    assert abs(float(divergence(one, other, 2.0)) - 4 * (p * np.log(p / q)).sum(1).mean()) < 1e-5
    assert abs(float(divergence(one, one))) < 1e-6


@pytest.mark.parametrize("setting, message", [
    (["method.taught_on=target", "method.seg_weights={main: 1.0}"], "method.taught_on=target never reads"),
    (["method.surest=4"], "method.surest must be between 0 \\(all\\) and 3 views, not 4"),
    (["method.temperature=0"], "method.temperature must be above 0, not 0.0"),
    (["method.taught_on=source"], "method.taught_on: unknown 'source'"),
    (["data.classes=synthia_16"], "predicts other classes \\(19\\) than data.classes \\(16\\)"),
    (["method.teacher_weights=nowhere.pdparams"], "weights 'nowhere.pdparams' do not exist"),
])  # fmt: skip
def test_settings_that_contradict_a_distillation_are_one_line(distil, setting, message):
    with pytest.raises(UserError, match=message) as caught:
        fit(distil(*setting))
    assert "\n" not in str(caught.value)


def several(tiny, toy_root, *overrides: str, shares=(1.0, 3.0)):
    """Two sources in place of one: the toy's game scenes, and its camera scenes with other classes."""
    own = toy_root / "few_classes.yml"
    own.write_text(FEW.replace("IGNORED", str([n for n in (*range(35), 255) if n not in (7, 23)])))
    config = override(tiny("toy/source_only", "run.keep=9"), "data.source=null", *[
        f"data.sources.{name}={{dataset: {dataset}, root: {toy_root / folder}, split: {split}, size: [96, 48], "
        f"share: {share}}}"
        for (name, dataset, folder, split), share in zip(
            (("game", "gta5", "GTA5", "all"), ("camera", str(own), "Cityscapes", "train")), shares)
    ])  # fmt: skip
    return override(config, *overrides)


# Two of Cityscapes' classes, one that it does not have, and everything else as no class.
FEW = """
images: ["leftImg8bit/{split}/{city}/{name}_leftImg8bit.png"]
labels: ["gtFine/{split}/{city}/{name}_gtFine_labelIds.png"]
splits: [train, val]
classes:
  - {name: road, ids: [7], colour: [128, 64, 128]}
  - {name: heaven, ids: [23], colour: [1, 2, 3]}
ignored: IGNORED
"""


def test_two_sources_are_drawn_by_their_shares_and_teach_only_their_own_classes(tiny, toy_root):
    config = several(tiny, toy_root, "data.classes=united")
    space = label_space(config)
    assert space.names == (*CITYSCAPES_19.names, "heaven")
    data = TrainData(config, False)
    drawn = [data.stream.names([position])[0] for position in range(400)]
    assert 0.68 < np.mean(["leftImg8bit" in name for name in drawn]) < 0.82
    assert len({name for name in drawn if "leftImg8bit" in name}) == 5 and len(set(drawn)) == 11
    for position in range(12):
        label = data.stream[position].arrays[1]
        found = set(np.unique(label)) - {255}
        camera = "leftImg8bit" in data.stream.names([position])[0]
        assert found <= ({0, 19} if camera else set(range(19))), (camera, found)
    text = "\n".join(data.notes())
    assert "source camera: 5 images of few_classes, 75 % of what is drawn; does not teach sidewalk" in text
    assert "source game: 6 images of GTA5 (Playing for Data), 25 % of what is drawn; does not teach heaven" in text


def test_a_run_with_two_sources_is_planned_and_resumed_bit_for_bit(tiny, toy_root, tmp_path, interrupted):  # noqa: F811
    config = several(tiny, toy_root, "data.classes=united")
    text = plan_run(config).text()
    assert "sources.game: 6 images" in text and "sources.camera: 5 images" in text and "0 problems" in text
    resumes(config, tmp_path, interrupted)


@pytest.mark.parametrize("setting, message", [
    (["data.sources.game.size=[48, 24]"], "all sources are read at one size"),
    (["data.sources.game.share=0"], "'data.sources.game.share' must be more than 0"),
    (["data.rare_classes={}"], "data.rare_classes draws images by class, not by share"),
    (["data.source={dataset: gta5, root: x, split: all, size: [96, 48]}"], "'data.sources' must be left out with data"),
])  # fmt: skip
def test_sources_that_contradict_are_one_line(tiny, toy_root, setting, message):
    with pytest.raises(ConfigError, match=message) as caught:
        fit(several(tiny, toy_root, *setting))
    assert "\n" not in str(caught.value)


def test_united_classes_need_a_source(free):
    with pytest.raises(ConfigError, match="data.classes=united needs data.source or data.sources"):
        fit(free("data.classes=united"))


@pytest.mark.parametrize("name", ["source_only", "adaptsegnet_multi", "self_training", "clan"])
def test_labelled_target_images_add_a_supervised_batch_to_any_method(tiny, tmp_path, interrupted, name):  # noqa: F811
    early = () if name == "source_only" else ("method.ramp.start=0",)
    resumes(tiny(f"toy/{name}", *early, "run.keep=9", "data.target_labelled={count: 2}"), tmp_path, interrupted)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert all(line["loss/labelled_main"] > 0 for line in lines if "loss/labelled_main" in line)
    assert any("loss/labelled_main" in line for line in lines)


def test_labelled_target_images_without_a_source(free, tmp_path, interrupted):  # noqa: F811
    config = free("data.target_labelled={share: 0.4, seed: 3}", "method.target_labelled={augment: {}}")
    resumes(config, tmp_path, interrupted)


def chosen(config) -> list[str]:
    return [item.image.name for item in labelled_listing(config.data).items]


def test_a_smaller_choice_of_labelled_images_is_part_of_a_larger_one_and_follows_its_seed(tiny):
    def names(*overrides):
        return chosen(tiny("toy/source_only", *overrides))

    one, three = names("data.target_labelled={count: 1}"), names("data.target_labelled={count: 3}")
    assert len(three) == 3 and set(one) < set(three)
    assert names("data.target_labelled={count: 3}", "run.seed=7") == three
    assert len({tuple(names(f"data.target_labelled={{count: 2, seed: {seed}}}")) for seed in range(9)}) > 1
    assert names("data.target_labelled={share: 0.4}") == names("data.target_labelled={count: 2}")


def test_a_list_or_a_folder_says_which_target_images_are_labelled(tiny, toy_root, tmp_path):
    every = chosen(tiny("toy/source_only", "data.target_labelled={share: 1.0}"))
    (tmp_path / "few.txt").write_text(f"{every[3]}\n{Path(every[1]).stem}\n")
    listed = chosen(tiny("toy/source_only", f"data.target_labelled={{list: {tmp_path / 'few.txt'}}}"))
    assert listed == [every[3], every[1]]
    for kind in ("leftImg8bit", "gtFine"):
        for path in sorted((toy_root / "Cityscapes" / kind / "train").rglob("*.png")):
            if Path(every[2]).name.split("_left")[0] in path.name:
                copy = tmp_path / "labelled" / path.relative_to(toy_root / "Cityscapes")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
    assert chosen(tiny("toy/source_only", f"data.target_labelled={{root: {tmp_path / 'labelled'}}}")) == [every[2]]


def test_target_images_without_labels_are_passed_over_where_some_are_asked_for(tiny, toy_root, tmp_path):
    root = tmp_path / "some"
    shutil.copytree(toy_root / "Cityscapes", root)
    for path in sorted((root / "gtFine/train").rglob("*labelIds.png"))[:3]:
        path.unlink()
    config = tiny("toy/source_only", f"data.target.root={root}", "data.target_labelled={share: 1.0}")
    assert len(chosen(config)) == 2
    with pytest.raises(ConfigError, match="data.target_labelled.count=3, but only 2 target images have a label"):
        fit(override(config, "data.target_labelled={count: 3, share: 0}"))


def leaking(tiny, toy_root, tmp_path, *overrides):
    """Labelled images in a folder of copies, one of which is a validation image."""
    root = tmp_path / "leak"
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(toy_root / "Cityscapes" / kind / "val", root / kind / "train")
    return tiny("toy/source_only", f"data.target_labelled={{root: {root}}}", *overrides)


def test_an_image_that_is_trained_with_its_label_and_scored_is_refused(tiny, toy_root, tmp_path):
    config = leaking(tiny, toy_root, tmp_path)
    message = "is among data.target_labelled and data.validation: a score on images that were trained with labels"
    with pytest.raises(DataError, match=message) as caught:
        fit(config)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    (problem,) = plan_run(config).problems
    assert message in problem
    fit(override(config, "run.eval_every=0", "schedule.stop=1"))
    with pytest.raises(DataError, match=message):
        evaluate(tmp_path / "run")


def test_the_report_and_the_model_card_separate_labelled_images_from_scored_ones(tiny, tmp_path, capsys):
    config = tiny("toy/source_only", "schedule.stop=1", "data.target_labelled={count: 2}")
    assert "target_labelled: 2 images of Cityscapes, none of them among the validation" in plan_run(config).text()
    fit(config)
    assert "target_labelled: 2 images of Cityscapes" in capsys.readouterr().out
    evaluator = DomainEvaluator(config, "target", PLAIN)
    assert command._protocol(evaluator).endswith("trained with 2 labelled target images, none of which is among these")
    assert trained_on(config.data) == "gta5 with labels, cityscapes without, and some of its images with labels"


@pytest.mark.parametrize("setting, message", [
    (["data.target_labelled={}"], "'data.target_labelled' must name a list, root, count or share"),
    (["data.target_labelled={count: 1, share: 0.5}"], "'data.target_labelled.count' must be at least 0, without share"),
    (["data.target_labelled={share: 2}"], "'data.target_labelled.share' must lie in 0..1"),
    (["data.target_labelled={count: 6}"], "count=6, but only 5 target images have a label"),
    (["method.target_labelled={}"], "say which ones with data.target_labelled"),
    (["data.target_labelled={count: 1}", "method.target_labelled.weights={first: 1}"], "has no level 'first'"),
])  # fmt: skip
def test_target_labels_that_contradict_are_one_line(tiny, setting, message):
    with pytest.raises(ConfigError, match=message) as caught:
        fit(tiny("toy/source_only", *setting))
    assert "\n" not in str(caught.value)


def test_suggestions_are_uncertain_and_apart_and_never_labelled_ones():
    features = np.array([[0.0, 0], [0.1, 0], [5, 0], [0, 5], [9, 9]])
    entropy = np.array([0.9, 0.89, 0.5, 0.4, 0.01])
    order = [place for place, _ in k_center(entropy, features, 4)]
    assert order[:3] == [0, 2, 3], "its twin is as uncertain as the first image, and shows nothing new"
    assert len(set(order)) == 4
    assert [place for place, _ in k_center(entropy, features, 1, labelled=[0])] == [2]


def test_the_tool_writes_a_list_that_can_be_trained_with_and_a_sheet(tiny, tmp_path):
    fit(tiny("toy/source_only", "schedule.stop=1", "data.target_labelled={count: 1}"))
    done = script("suggest_labels", tmp_path / "run", "--count", 3)
    assert done.returncode == 0, done.stderr
    listed = f"data.target_labelled.list={tmp_path / 'run/suggested/labels.txt'}"
    assert listed in done.stdout and done.stdout.count("entropy") == 3
    config = tiny("toy/source_only", "data.target_labelled={count: 1}")
    assert not set(chosen(config)) & set(chosen(tiny("toy/source_only", listed)))
    assert fit(tiny("toy/source_only", "schedule.stop=1", listed), overwrite=True).step == 1
    with Image.open(tmp_path / "run/suggested/sheet.png") as sheet:
        assert sheet.size == (1280, 320)
    done = tool("suggest_labels", tmp_path / "run", "--count", 9)
    assert done.returncode == 2 and done.stderr == "error: --count must lie in 1..2, the unlabelled images, not 9\n"


def test_student_and_teacher_stand_side_by_side(distil, tmp_path):
    fit(distil("schedule.stop=1", "run.eval_every=1"))
    done = script("side_by_side", tmp_path / "run", "--formats", "paddle", "--images", 1)
    assert done.returncode == 0, done.stderr
    rows = {line[:76].strip(): line[78:].split() for line in done.stdout.splitlines()}
    assert rows["parameters, million"] == ["0.061", "0.061"] and "times as fast" in done.stdout
    assert float(rows["paddle program: labels like the network's, %"][1]) > 99.9
    assert list((tmp_path / "run/exported/paddle/student").glob("model.*"))

"""Self-training as a whole: only the student learns, the teacher follows, and runs can be divided and resumed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import pytest
from conftest import ROOT
from visualdl import LogReader

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.config.schema import Component, Pixels
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.labels import IGNORE
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.evaluation.measure import evaluate
from paddle_adaptseg.evaluation.visual import training_panel, unnormalised
from paddle_adaptseg.methods import build_method
from paddle_adaptseg.methods.base import Clock
from paddle_adaptseg.methods.feature_distance import masked_distance, pool_label
from paddle_adaptseg.models import build_model
from paddle_adaptseg.training.checkpoint import load_state, state_path
from paddle_adaptseg.training.guards import WINDOW, HealthMonitor
from paddle_adaptseg.training.plan import plan_run
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.training.start import build_state
from paddle_adaptseg.weights.load import find_weights

SELF = "toy/self_training"
NOW = "method.ramp.start=0"
NEAR = "method.feature_distance={things: [road, sky], min_ratio: 0.3}"
CLASSES = 4


def arrays(run, step):
    return load_state(state_path(run, step)).arrays


def small():
    return build_model(Component("small", {"width": 8}), CLASSES)


def method(**more):
    params = {"seg_weights": {"main": 1.0}, "weights": {"main": 1.0}, "augment": None, **more}
    built = build_method(Component("self_training", params), small(), CLASSES, small)
    for part in built.parts():
        part.loaded()
    return built.train()


def batch(size=(64, 64)):
    images = [paddle.randn([2, 3, *size]) for _ in range(2)]
    return Batch(images[0], paddle.randint(0, CLASSES, [2, *size]), images[1])


def step(built, one, number=0, watch=False):
    clock = Clock(number, 10, watch)
    for part in built.parts():
        part.before_step([one], clock)
    return list(built.all_losses(one, clock))


def test_the_teacher_gets_no_gradient_and_starts_as_the_student():
    built = method(masked={"teacher": {}, "augment": None, "images": "target", "block": 16})
    for name, tensor in built.segmenter.state_dict().items():
        np.testing.assert_array_equal(built.teacher.network.state_dict()[name].numpy(), tensor.numpy())
        np.testing.assert_array_equal(
            built.additions["masked"].teacher.network.state_dict()[name].numpy(), tensor.numpy()
        )
    for terms in step(built, batch()):
        sum(t.weight * t.loss for t in terms.values()).backward()
    trained = {id(p) for p in built.segmenter.parameters()}
    assert {id(p) for p in built.parameters() if p.grad is not None} <= trained
    assert all(p.grad is not None for p in built.segmenter.stem.parameters())
    assert all(p.stop_gradient for p in built.teacher.parameters())


def test_the_teacher_follows_before_or_after_the_step():
    for update, expected in (("before", 0.0), ("after", 1.0)):
        built = method(teacher={"update": update, "ramp": 1})
        step(built, batch())
        for parameter in built.segmenter.parameters():
            paddle.assign(parameter + 1.0, output=parameter)
        built.after_step(Clock(0, 10))
        pairs = zip(built.teacher.network.parameters(), built.segmenter.parameters())
        moved = [1.0 - float((new - old).mean()) for old, new in pairs]
        np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_mixed_pixels_are_the_sources_with_full_weight_or_the_targets_with_the_pseudo_labels():
    built, one = method(pseudo_labels={"threshold": 0.0, "margins": [8, 0, 0, 0]}), batch()
    for part in built.parts():
        part.before_step([one], Clock(0, 10))
    image, label, weight, pasted = (t.numpy() for t in built.mixed(one, Clock(0, 10)))
    pseudo, source = built.teacher.labels(one), one.source_label.numpy()
    assert 0.2 < pasted.mean() < 0.8
    np.testing.assert_array_equal(label, np.where(pasted, source, pseudo.label.numpy()))
    np.testing.assert_array_equal(weight, np.where(pasted, 1.0, (np.arange(64) >= 8)[:, None]))
    np.testing.assert_array_equal(image, np.where(pasted[:, None], one.source_image.numpy(), one.target_image.numpy()))
    for picture, own in zip(pasted, source):
        assert len(np.unique(own[picture])) == 2  # half of four classes, whole
        assert set(np.unique(own[picture])).isdisjoint(np.unique(own[~picture]))


def test_a_pixel_without_a_label_counts_as_a_class_and_teaches_nothing():
    built, one = method(mix="classmix"), batch()
    one.source_label[:] = IGNORE
    groups = step(built, one)
    assert float(groups[0]["seg_main"].loss) == 0.0
    assert float(groups[1]["mix_main"].loss) == 0.0  # everything is pasted, and it is ignored


def test_padding_of_the_target_has_no_pseudo_label_and_counts_for_nothing():
    built, one = method(pseudo_labels={"threshold": 0.0}, mix="none"), batch()
    padded = Batch(one.source_image, one.source_label, one.target_image, target_areas=((0.5, 1.0), (1.0, 0.25)))
    step(built, padded)
    pseudo = built.teacher.labels(padded)
    shown = np.zeros((2, 64, 64), bool)
    shown[0, :32], shown[1, :, :16] = True, True
    np.testing.assert_array_equal(pseudo.label.numpy() == IGNORE, ~shown)
    np.testing.assert_array_equal(pseudo.weight.numpy(), shown)
    assert float(pseudo.share) == 1.0


def test_images_of_two_sizes_are_refused_with_the_way_out():
    built, one = method(), batch()
    odd = Batch(one.source_image, one.source_label, paddle.randn([2, 3, 32, 64]))
    with pytest.raises(ConfigError, match="64x64 and target images 64x32: set data.augment.crop"):
        step(built, odd)


@pytest.mark.parametrize(
    "wrong", [{"mix": "cut"}, {"classes_from": "city"}, {"source_mean": "some"}, {"evaluate": "both"}]
)
def test_unknown_values_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=f"method.{next(iter(wrong))}: unknown"):
        method(**wrong)


def test_masking_needs_a_teacher_from_somewhere():
    params = {"seg_weights": {"main": 1.0}, "masked": {}}
    with pytest.raises(ConfigError, match="method.masked.teacher is missing"):
        build_method(Component("source_only", params), small(), CLASSES, small)
    with pytest.raises(ConfigError, match="method.masked.images: unknown"):
        method(masked={"images": "all"})
    with pytest.raises(ConfigError, match="unknown class 'house'"):
        method(feature_distance={"things": ["house"]})


def test_a_cell_has_the_class_of_most_of_its_pixels_or_none():
    label = np.zeros((1, 4, 6), np.int64)
    label[0, :2, :2], label[0, 0, 2:4], label[0, :2, 4:] = 1, 3, IGNORE
    label[0, 2, 0] = 2
    pooled = pool_label(paddle.to_tensor(label), (2, 3), 4, 0.75).numpy()
    np.testing.assert_array_equal(pooled, [[[1, IGNORE, IGNORE], [0, 0, 0]]])
    strict = pool_label(paddle.to_tensor(label), (2, 3), 4, 0.8).numpy()
    np.testing.assert_array_equal(strict, [[[1, IGNORE, IGNORE], [IGNORE, 0, 0]]])


def test_feature_distance_is_a_mean_of_norms_and_never_nan():
    features = paddle.to_tensor(np.array([[3.0, 0.0, 1.0], [4.0, 0.0, 0.0]], np.float32).reshape(1, 2, 1, 3))
    features.stop_gradient = False
    fixed = paddle.zeros([1, 2, 1, 3])
    loss = masked_distance(features, fixed, paddle.to_tensor([[[1.0, 1.0, 0.0]]]))
    loss.backward()
    assert float(loss) == 2.5
    np.testing.assert_allclose(features.grad.numpy().reshape(2, 3), [[0.3, 0, 0], [0.4, 0, 0]], atol=1e-7)
    features.clear_gradient()
    nothing = masked_distance(features, fixed, paddle.zeros([1, 1, 3]))
    nothing.backward()
    assert float(nothing) == 0.0 and not features.grad.numpy().any()


def test_feature_distance_joins_the_sources_terms_and_uses_its_forward_pass(monkeypatch):
    built, one = method(feature_distance={"things": ["0", "1", "2", "3"], "min_ratio": 0.0}), batch()
    calls = []
    plain = type(built.segmenter).features
    monkeypatch.setattr(type(built.segmenter), "features", lambda self, x: calls.append(self) or plain(self, x))
    groups = step(built, one, watch=True)
    assert set(groups[0]) == {"seg_main", "fd"} and float(groups[0]["fd"].loss) == 0.0
    assert sum(c is built.segmenter for c in calls) == 2  # source and mixed
    assert float(built.observed["feature_distance_cells"]) == 2 * 8 * 8


@pytest.mark.parametrize("images", ["target", "one_of_each"])
def test_parts_of_a_step_equal_one_large_batch(tiny, tmp_path, images):
    runs = []
    for parts in (1, 2):
        output = tmp_path / str(parts)
        more = [f"schedule.iter_size={parts}", f"data.batch_size={2 // parts}", f"run.output={output}"]
        fit(tiny("toy/self_training_masked", NOW, *more, "run.eval_every=0", "method.pseudo_labels.threshold=0.1",
                 f"method.masked.images={images}"))  # fmt: skip
        runs.append(arrays(output, 6))
    for name, array in runs[0].items():
        np.testing.assert_allclose(runs[1][name], array, atol=2e-5, err_msg=name)


def test_restored_weights_reach_the_teacher_and_the_teacher_can_be_what_is_evaluated(tiny, tmp_path):
    fit(tiny("toy/source_only", f"run.output={tmp_path / 'source'}", "schedule.stop=2", "run.eval_every=0"))
    start = f"run.restore_from={tmp_path / 'source'}"
    config = tiny(SELF, NOW, start, "schedule.stop=1", "method.evaluate=teacher", "method.teacher.update=before")
    fit(config)
    before, after = arrays(tmp_path / "source", 2), arrays(tmp_path / "run", 1)
    weights = {k[len("method/segmenter.") :]: v for k, v in before.items() if k.startswith("method/segmenter.")}
    for name, array in weights.items():  # it has not seen the first update
        np.testing.assert_array_equal(after[f"method/teacher.network.{name}"], array)
    saved = evaluate(find_weights(str(tmp_path / "run")))[0].counts
    np.testing.assert_array_equal(saved, evaluate(find_weights(str(tmp_path / "source@2")))[0].counts)


def test_a_fixed_network_from_a_file_is_read_again_and_not_saved(tiny, tmp_path):
    fit(tiny("toy/source_only", f"run.output={tmp_path / 'source'}", "schedule.stop=2", "run.eval_every=0"))
    more = [NOW, NEAR, f"method.feature_distance.restore_from={tmp_path / 'source'}", "run.eval_every=0"]
    fit(tiny(SELF, *more, f"run.output={tmp_path / 'straight'}"))
    fit(tiny(SELF, *more, "schedule.stop=4"))
    fit(tiny(SELF, *more), resume="latest", accept_changes=True)
    straight, resumed = arrays(tmp_path / "straight", 6), arrays(tmp_path / "run", 6)
    assert straight.keys() == resumed.keys() and not any("fixed" in name for name in straight)
    for name, array in straight.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


def test_a_fixed_network_of_the_start_weights_is_in_the_state(tiny, tmp_path):
    fit(tiny(SELF, NOW, NEAR, "run.eval_every=0", "schedule.stop=2", "run.keep=9"))
    fit(tiny(SELF, NOW, NEAR, "run.eval_every=0", "run.keep=9"), resume="latest", accept_changes=True)
    first, last = arrays(tmp_path / "run", 2), arrays(tmp_path / "run", 6)
    fixed = [name for name in first if name.startswith("method/additions.feature_distance.fixed.")]
    assert fixed and all(np.array_equal(first[name], last[name]) for name in fixed)


def test_an_unlabelled_target_folder_suffices_without_evaluation(tiny, toy_root, tmp_path):
    images = tmp_path / "Unlabelled/leftImg8bit/train"
    shutil.copytree(toy_root / "Cityscapes/leftImg8bit/train", images)
    root = [f"data.{domain}.root={tmp_path / 'Unlabelled'}" for domain in ("target", "validation")]
    config = tiny("toy/self_training_masked", NOW, *root, "run.eval_every=0")
    assert plan_run(config).problems == []
    assert fit(config).step == 6


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("pseudo_weight", 1.0, "sure of every pixel"),
        ("pseudo_weight", 0.0, "sure of no pixel"),
        ("pseudo_balance/train", 0.001, "class 'train' of the source has vanished from the pseudo-labels"),
        ("teacher_agreement", 0.1, "student and teacher drift apart: they agree on 10 %"),
        ("teacher_distance", 0.8, "their weights differ by 80 % or more"),
        ("feature_distance_cells", 0.0, "no cell of the source shows a class"),
    ],
)
def test_what_goes_wrong_is_said_in_plain_words(name, value, text):
    def said(value):
        monitor = HealthMonitor()
        return [line for _ in range(WINDOW) for line in monitor.observe({"seg_main": 1.0}, {f"health/{name}": value})]

    assert text in said(value)[0]
    assert not said(0.4)


def test_a_vanished_class_is_measured_against_its_share_of_the_source():
    built, one = method(), batch()
    for _ in range(3):
        built.balance.add([one.source_label], [paddle.full_like(one.source_label, 2)])
    ratios = {name: float(value) for name, value in built.balance.readings().items()}
    assert ratios["pseudo_balance/0"] == 0.0 and ratios["pseudo_balance/2"] == pytest.approx(4.0, rel=0.1)
    absent = method().balance
    absent.add([paddle.full_like(one.source_label, 1)], [one.source_label])
    assert float(absent.readings()["pseudo_balance/3"]) == 1.0  # the source does not show it either


def test_the_log_holds_readings_and_a_picture_of_what_was_mixed(tiny, tmp_path):
    fit(tiny("toy/self_training_masked", NOW, NEAR))
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    record = next(line for line in reversed(lines) if "loss/mix_main" in line)
    assert {
        "loss/masked_main",
        "loss/fd",
        "health/pseudo_weight",
        "health/teacher_agreement",
        "health/teacher_distance",
        "health/feature_distance_cells",
        "health/pseudo_balance/road",
    } <= set(record)
    (file,) = (tmp_path / "run/vdl").glob("*.log")
    assert "training/mixed" in LogReader(file_path=str(file)).get_tags()["image"]


def test_pictures_show_images_as_they_were_read():
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    for pixels in (Pixels(), Pixels("rgb", (120.0, 110.0, 100.0), (60.0, 50.0, 40.0))):
        ordered = rgb[:, :, ::-1] if pixels.order == "bgr" else rgb
        image = (ordered.astype(np.float32) - pixels.mean) / pixels.std
        shown = unnormalised(paddle.to_tensor(image.transpose(2, 0, 1).astype(np.float32)), pixels)
        np.testing.assert_array_equal(shown, rgb)


def test_the_picture_of_what_was_mixed_names_its_columns():
    image, label = paddle.zeros([1, 3, 40, 80]), paddle.zeros([1, 40, 80], "int64")
    seen = {"target_image": image, "pseudo_label": label, "mixed_image": image, "mixed_label": label,
            "mixed_weight": paddle.ones([1, 40, 80])}  # fmt: skip
    panel = training_panel(seen, load_config(ROOT / "configs/toy/self_training.yml"))
    assert panel is not None and panel.shape[1] == 5 * (80 + 4) + 4 and panel.shape[0] > 40 + 2 * 4
    assert len(np.unique(panel[:16].reshape(-1, 3), axis=0)) > 1  # text above the columns
    assert training_panel({}, load_config(ROOT / "configs/toy/source_only.yml")) is None


def test_a_training_that_learns_nothing_from_the_target_says_so(tiny, capsys):
    """The readings of a real run reach the monitor under the names that it knows."""
    unsure = ["method.pseudo_labels.threshold=1.0", "method.teacher={decay: 1.0, ramp: 0}", "optim.segmenter.lr=0.5"]
    nowhere = "method.feature_distance={things: [light], min_ratio: 1.0}"
    fit(tiny(SELF, NOW, nowhere, *unsure, "run.log_every=1", "run.eval_every=0", f"schedule.stop={WINDOW + 2}",
             f"schedule.horizon={WINDOW + 2}"))  # fmt: skip
    said = capsys.readouterr()
    for text in ("sure of no pixel", "has vanished from the pseudo-labels", "drift apart: they agree on",
                 "drift apart: their weights differ", "no cell of the source shows a class"):  # fmt: skip
        assert text in said.out + said.err, text


def test_an_adversary_can_be_masked_and_held_near_too(tiny, tmp_path):
    masked = "method.masked={block: 16, teacher: {decay: 0.9}, augment: {jitter: 0.2}}"
    config = tiny("toy/adaptsegnet_single", NOW, NEAR, masked)
    assert set(build_state(config).players) == {"segmenter", "discriminators"}
    fit(config)
    names = set(json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[0]))
    assert {"loss/adv_main", "loss/d_main_source", "loss/masked_main", "loss/fd"} <= names

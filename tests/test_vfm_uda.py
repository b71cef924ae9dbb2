"""VFM-UDA's values: margins of the picture, views of the teacher, weak changes, masked tokens; and a run as a whole."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import paddle
import pytest
from conftest import ROOT, tiny_overrides
from forked import tool
from PIL import Image
from test_parallel import run_tasks
from test_resume import assert_same_run, interrupted  # noqa: F401

from paddle_adaptseg.config.loading import dump, load_config, override
from paddle_adaptseg.config.schema import Augment, Component, Pixels, Schedule
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.labels import IGNORE
from paddle_adaptseg.data import TrainData
from paddle_adaptseg.data.augment import borders, margin_sizes, random_crop, scaled_size
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.deploy.export import export_model
from paddle_adaptseg.deploy.runners import open_runner
from paddle_adaptseg.methods import build_method
from paddle_adaptseg.methods.base import Clock
from paddle_adaptseg.methods.losses import softmax
from paddle_adaptseg.models import build_model
from paddle_adaptseg.training.checkpoint import load_state, state_path
from paddle_adaptseg.training.optim import poly
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.weights import arrays_of, save_weights

CLASSES = 4
TOKENS = {"mask": "tokens", "augment": None, "ratio": 0.5}
WEAK = {"jitter": 0.5, "jitter_chance": 1.0, "blur_chance": 0.0, "together": False, "convention": "torchvision"}
BACKBONE = {"name": "dinov2", "width": 24, "depth": 2, "num_heads": 2, "stored_grid": 3}
NETWORK = Component("encode_decode", {"backbone": BACKBONE, "head": {"name": "light"}})


def network():
    return build_model(NETWORK, CLASSES)


def method(name="self_training", make=network, **more):
    params = {"seg_weights": {"main": 1.0}, **more}
    if name == "self_training":
        params = {"weights": {"main": 1.0}, "augment": None, **params}
    built = build_method(Component(name, params), make(), CLASSES, make, Pixels("rgb", (120.0,) * 3, (60.0,) * 3))
    for part in built.parts():
        part.loaded()
    return built.train()


def batch(**more):
    images = [paddle.rand([2, 3, 42, 42]) * 2 - 1 for _ in range(2)]
    return Batch(images[0], paddle.randint(0, CLASSES, [2, 42, 42]), images[1], **more)


def seen_by(network, monkeypatch):
    """Every image that a network is given, in a list."""
    images, plain = [], network.forward
    monkeypatch.setattr(network, "forward", lambda x, *a, **k: images.append(x.numpy()) or plain(x, *a, **k))
    return images


def run(built, one, number=0):
    clock = Clock(number, 10, False)
    for part in built.parts():
        part.before_step([one], clock)
    return list(built.all_losses(one, clock))


def test_the_teacher_averages_the_probabilities_of_an_image_and_its_mirror():
    built, one = method(pseudo_labels={"views": ["plain", "mirror"]}), batch()
    teacher, image = built.teacher.network, one.target_image
    plain = softmax(teacher(image)["main"])
    mirror = softmax(teacher(image.flip(axis=[-1]))["main"]).flip(axis=[-1])
    np.testing.assert_allclose(built.teacher.probability(image).numpy(), ((plain + mirror) / 2).numpy(), atol=1e-6)
    assert not np.allclose(plain.numpy(), mirror.numpy(), atol=1e-3)


def test_weak_changes_reach_the_sources_term_and_the_target_that_is_pasted_into_alone(monkeypatch):
    built, one = method(weak=WEAK, mix="none", masked=TOKENS), batch()
    student, teacher = seen_by(built.segmenter, monkeypatch), seen_by(built.teacher.network, monkeypatch)
    run(built, one)
    source, mixed, masked = student
    assert not np.allclose(source, one.source_image.numpy(), atol=1e-3)
    assert not np.allclose(mixed, one.target_image.numpy(), atol=1e-3)
    for image in (masked, *teacher):
        np.testing.assert_array_equal(image, one.target_image.numpy())


def test_source_pixels_are_pasted_as_they_are_and_count_where_they_have_a_label(monkeypatch):
    built, one = method(weak=WEAK, pseudo_labels={"threshold": 0.0}), batch()
    one.source_label[:, :5] = IGNORE
    run(built, one)
    image, label, weight, pasted = (x.numpy() for x in built.mixed(one, Clock(0, 10)))
    where = np.broadcast_to(pasted[:, None], image.shape)
    np.testing.assert_array_equal(image[where], one.source_image.numpy()[where])
    np.testing.assert_array_equal(weight[pasted], one.source_label.numpy()[pasted] != IGNORE)
    assert (weight[~pasted] == 1.0).all()


def test_the_source_alone_can_be_changed_weakly_too(monkeypatch):
    built, one = method("source_only", weak=WEAK), batch()
    images = seen_by(built.segmenter, monkeypatch)
    run(built, one)
    assert not np.allclose(images[0], one.source_image.numpy(), atol=1e-3)
    again = seen_by(built.segmenter, monkeypatch)
    run(built, one)
    np.testing.assert_array_equal(again[0], images[0])  # a function of seed, step and image


def test_gradients_reach_the_student_alone_and_its_mask_token_only_where_tokens_are_masked():
    for masked in (TOKENS, None):
        built = method(masked=masked, pseudo_labels={"threshold": 0.0, "views": ["plain", "mirror"]})
        for terms in run(built, batch()):
            sum(t.weight * t.loss for t in terms.values()).backward()
        absent = {name for name, p in built.segmenter.named_parameters() if p.grad is None}
        assert absent == (set() if masked else {"backbone.mask_token"})
        assert all(p.grad is None and p.stop_gradient for p in built.teacher.parameters())


def test_masking_tokens_needs_a_network_that_has_them():
    small = lambda: build_model(Component("small", {"width": 8}), CLASSES)  # noqa: E731
    with pytest.raises(ConfigError, match="tokens of Small.* cannot be masked: it needs a backbone such as dinov2"):
        method(make=small, masked=TOKENS)
    with pytest.raises(ConfigError, match="method.masked.mask: unknown 'token'"):
        method(masked={"mask": "token"})
    with pytest.raises(ConfigError, match="method.pseudo_labels.views: unknown 'mirorr'"):
        method(pseudo_labels={"views": ["mirorr"]})


def test_borders_of_an_image_weigh_nothing_and_those_of_another_do():
    one = batch(target_borders=((0, 0, 0, 0), (3, 8, 1, 2)))
    built = method(pseudo_labels={"threshold": 0.0})
    run(built, one)
    inside = np.zeros((2, 42, 42), np.float32)
    inside[0], inside[1, 3:34, 1:40] = 1, 1
    np.testing.assert_array_equal(built.teacher.labels(one).weight.numpy(), inside)


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_margins_go_with_the_crop_but_not_with_the_mirror(scale, mirrored):
    size, crop, margins, rng = (80, 60), (50, 50), (0.1, 0.25, 0.2, 0.1), np.random.default_rng(3)
    scaled = scaled_size(size, Augment(scale=(scale, scale)), rng)
    # What the crop shows of a picture whose columns and rows are numbered, mirrored back.
    columns = np.broadcast_to(np.arange(scaled[0], dtype=np.uint8), scaled[::-1])
    rows = np.broadcast_to(np.arange(scaled[1], dtype=np.uint8)[:, None], scaled[::-1])
    picture = np.stack([columns, rows, np.ones_like(rows)], axis=2)
    change = Augment(mirror=True, crop=crop)
    crops = (random_crop(scaled, size, change, np.random.default_rng(seed)) for seed in range(1000))
    taken = next(c for c in crops if c.mirrored is mirrored)
    image = taken.of(picture.__getitem__, 0)
    image = image[:, ::-1] if mirrored else image
    top, bottom, left, right = margin_sizes(size, margins)
    shown = np.full((50, 50), False)
    for y, x in np.ndindex(shown.shape):
        column, row, there = image[y, x]
        at = (row + 0.5) * size[1] / scaled[1], (column + 0.5) * size[0] / scaled[0]
        shown[y, x] = there and top <= int(at[0]) < size[1] - bottom and left <= int(at[1]) < size[0] - right
    if mirrored and scaled[0] < crop[0]:  # the padding is on the other side then
        shown = np.roll(shown, scaled[0] - crop[0], axis=1)
    above, below, before, after = borders(size, scaled, taken, margins)
    own = np.full((50, 50), False)
    own[above : 50 - below, before : 50 - after] = True
    np.testing.assert_array_equal(own, shown)


def test_margins_of_the_target_arrive_with_its_images_and_are_refused_where_nothing_is_left(tiny):
    given = "data.target_margins=[0.25, 0.5, 0.0, 0.125]"
    (one, *_) = TrainData(tiny("toy/self_training", given), True).batches(0)
    assert one.target_borders == ((12, 24, 0, 12),) * 2
    with pytest.raises(ConfigError, match="data.target_margins=.*must be shares of the picture"):
        TrainData(tiny("toy/self_training", "data.target_margins=[0.5, 0.5, 0.0, 0.0]"), True)


def test_one_draw_mirrors_all_images_of_a_batch_in_any_number_of_processes(tiny):
    config = tiny("toy/source_only", "data.batch_size=4", "data.augment.mirror_together=true")
    straight = TrainData(override(config, "data.augment.mirror=false"), False).batches(0)
    found = set()
    for one, other in zip(TrainData(config, False).batches(0), straight):
        flags = {bool((a != b).any()) for a, b in zip(one.source_label.numpy(), other.source_label.numpy())}
        assert len(flags) == 1
        found |= flags
    assert found == {False, True}
    halves = [TrainData(override(config, "data.batch_size=2"), False, r, 2).batches(0) for r in range(2)]
    for whole, *parts in zip(TrainData(config, False).batches(0), *halves):
        for r, part in enumerate(parts):
            np.testing.assert_array_equal(part.source_image.numpy(), whole.source_image.numpy()[r::2])


def test_the_learning_rate_warms_up_alone_and_grows_with_the_root_of_the_batch(tiny):
    schedule = Schedule(40000, 40000, 1.0, 1500, 1e-3, warmup_alone=True)
    wanted = {0: 0.001, 1: 0.0016664442962, 1499: 1.0, 1500: 0.9625, 20000: 0.5, 40000: 0.0}
    assert {s: poly(s, schedule) for s in wanted} == pytest.approx(wanted)
    assert poly(0, dataclasses.replace(schedule, warmup=1)) == 1e-3
    from paddle_adaptseg.training.start import build_state

    more = ["data.batch_size=2", "schedule.iter_size=2", "optim.segmenter.lr=0.1"]
    assert build_state(tiny("toy/source_only", *more, "schedule.batch_rule=sqrt")).players["segmenter"].lr == 0.2
    with pytest.raises(ConfigError, match="unknown schedule.batch_rule 'root'"):
        build_state(tiny("toy/source_only", "schedule.batch_rule=root"))


def overrides(root, output, *more):
    """A run of VFM-UDA that takes seconds."""
    given = [o for o in tiny_overrides(root, output) if "model.width" not in o]
    sizes = [f"model.backbone.{k}={v}" for k, v in BACKBONE.items() if k != "name"]
    return [*given, *sizes, "model.backbone.image_size=48", "method.ramp.start=0", "method.pseudo_labels.threshold=0.1",
            "data.target_margins=[0.03, 0.25, 0.03, 0.03]", "data.augment.scale=[0.9, 1.1]",
            "data.augment.crop=[48, 48]", "schedule.warmup=2", "schedule.batch_rule=sqrt", *more]  # fmt: skip


CONFIG = ROOT / "configs/toy/vfm_uda.yml"


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(toy_root, tmp_path, interrupted):  # noqa: F811
    config = load_config(CONFIG, overrides(toy_root, tmp_path / "run", "data.workers=2"))
    fit(override(config, f"run.output={tmp_path / 'straight'}", "data.workers=0"))
    interrupted(config, at=5)
    assert fit(config, resume="latest").step == 6
    assert_same_run(tmp_path / "straight", tmp_path / "run", 6)


@pytest.mark.skipif(not paddle.distributed.is_available(), reason="this Paddle has no paddle.distributed")
def test_two_processes_with_one_image_equal_one_with_two(toy_root, tmp_path):
    more = ["run.save_every=1", "run.keep=9", "run.eval_every=0", "schedule.stop=3"]
    given = overrides(toy_root, tmp_path / "two", *more, "data.batch_size=1")
    assert run_tasks(tmp_path, [["train", {"config": str(CONFIG), "overrides": given}]]) == [["3", "3"]]
    fit(load_config(CONFIG, overrides(toy_root, tmp_path / "one", *more, "data.batch_size=2")))
    for step in range(1, 4):
        one, two = (load_state(state_path(tmp_path / name, step)).arrays for name in ("one", "two"))
        assert one.keys() == two.keys()
        for key, array in one.items():
            np.testing.assert_allclose(two[key], array, rtol=0, atol=2e-5, err_msg=f"step {step}: {key}")
    logs = [json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[0]) for name in ("one", "two")]
    for key in (key for key in logs[0] if key.startswith(("loss/", "rate/"))):
        assert logs[1][key] == pytest.approx(logs[0][key], abs=1e-5), key


@pytest.fixture(scope="module")
def saved(toy_root, tmp_path_factory):
    """Weights of the toy's network whose logits are far apart, with the configuration of a run beside them."""
    folder = tmp_path_factory.mktemp("vfm")
    more = ["eval={window: [48, 48], stride: [24, 24], average: softmax}"]
    config = load_config(CONFIG, overrides(toy_root, folder / "run", *more))
    arrays, rng = arrays_of(build_model(config.model, 19)), np.random.default_rng(0)
    for name, array in arrays.items():
        if name.startswith("heads.main") and array.ndim > 1:
            arrays[name] = rng.normal(0, 0.5, array.shape).astype(np.float32)
    save_weights(folder / "w.pdparams", arrays, dump(config), {"source": "made here"})
    return folder / "w.pdparams"


@pytest.mark.parametrize("whole", [False, True], ids=["windows", "whole images"])
@pytest.mark.parametrize("form", ["paddle", "onnx"])
def test_an_exported_program_labels_as_the_network_does(saved, tmp_path, form, whole):
    if form == "onnx":
        pytest.importorskip("paddle2onnx", reason="the extra 'deploy' is not installed")
    given = ["eval.window=null", "eval.stride=null"] if whole else []
    assert export_model(saved, tmp_path / "out", form, overrides=given).agreement >= 0.999
    image = np.random.default_rng(1).integers(0, 256, (60, 100, 3)).astype(np.uint8)
    labels = open_runner(tmp_path / "out").labels(image)
    assert labels.shape == (60, 100) and len(np.unique(labels)) > 1


def test_images_are_predicted_from_the_weights(saved, tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (60, 100, 3)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in/a.png")
    done = tool("predict", "--model", saved, tmp_path / "in/a.png", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(Image.open(tmp_path / "out/a.png"), open_runner(saved).labels(image))

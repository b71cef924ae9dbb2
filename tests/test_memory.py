"""What a dry run tells about the memory of a step is what the step takes."""

from __future__ import annotations

import gc
import re

import paddle
import pytest
import yaml
from conftest import ROOT

from paddle_adaptseg.config.loading import load_config, override
from paddle_adaptseg.core import runtime
from paddle_adaptseg.methods.base import Clock
from paddle_adaptseg.training import memory, plan
from paddle_adaptseg.training.counters import allocated, most_allocated, reset_most_allocated, watched
from paddle_adaptseg.training.memory import Estimate, estimate, random_batch, sizes_of, unused_rungs
from paddle_adaptseg.training.passes import passes_of
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.training.start import build_state
from paddle_adaptseg.training.step import train_step

WITHIN = 0.1  # of what is measured
DACS = "gta5_cityscapes/dacs_daformer.yml"
FD = "method.feature_distance={things: [rider, train, bus], weight: 0.005, min_ratio: 0.75}"


def model(backbone, head="{name: daformer}"):
    return f"model={{name: encode_decode, backbone: {backbone}, head: {head}}}"


NARROW = "{name: mit, embed_dims: [8, 16, 20, 32], num_heads: [1, 2, 5, 8], depths: [1, 1, 1, 1]}"
VIT = "{name: dinov2, width: 48, depth: 3, num_heads: 6, stored_grid: 8, image_size: 320}"
DINO = "{name: dinov2_vits14, image_size: 256}"
HRDA = "detail crops and windows"
TEACHER = "transformer with teacher, feature distance and mixing"
SMALL = {  # a second or two each
    "resnet": ("toy/adaptsegnet_multi.yml", ["data.source.size=[448,256]", "data.target.size=[320,192]"]),
    TEACHER: (DACS, [model(NARROW, "{name: daformer, channels: 16, embed_dims: 16}"), FD,
                     "data.augment.crop=[320,320]", "data.batch_size=1"]),
    HRDA: ("gta5_cityscapes/mic_hrda_mit_b0.yml", [
        f"model.network.backbone={NARROW}", "model.network.head.channels=16", "model.network.head.embed_dims=16",
        "model.crop=[320,320]", "model.attention_width=16", "data.augment.crop=[640,640]", "data.batch_size=1"]),
    "without a source, with labelled target images": ("toy/source_free.yml", [
        "data.target.size=[448,256]", "data.target_labelled={list: some.txt}", "run.restore_from=some.pdparams"]),
    "attention among all tokens, recomputed": (DACS, [
        model(VIT.replace("320", "480"), "{name: light}"), "data.augment.crop=[480,480]", "data.batch_size=1",
        "run.recompute=true"]),
    "attention among all tokens": (DACS, [model(VIT, "{name: light}"), "data.augment.crop=[320,320]",
                                          "data.batch_size=1"]),
}  # fmt: skip
TRUE = {  # a minute or more each
    "detail windows in parts, recomputed and accumulated": (SMALL[HRDA][0], [
        *SMALL[HRDA][1], "run.recompute=true", "model.detail_batch=1", "schedule.iter_size=2"]),
    "DeepLabV2 on ResNet-101": (
        "gta5_cityscapes/adaptsegnet_multi.yml", ["data.source.size=[320,192]", "data.target.size=[256,128]"]),
    "DAFormer on MiT-B0": (DACS, [model("{name: mit_b0}"), FD, "data.augment.crop=[256,256]"]),
    "DAFormer on MiT-B2": (DACS, [model("{name: mit_b2}"), FD, "data.augment.crop=[256,256]", "data.batch_size=1"]),
    "VFM-UDA's network, recomputed": (DACS, [
        model(DINO.replace("256", "512"), "{name: light}"), "data.augment.crop=[512,512]", "data.batch_size=1",
        "run.recompute=true"]),
    "VFM-UDA's network": (DACS, [model(DINO, "{name: light}"), "data.augment.crop=[256,256]", "data.batch_size=1"]),
}  # fmt: skip


def bytes_told(config, precision="fp32"):
    """Bytes of a step as they are told in a process that has nothing else."""
    gc.collect()
    before = allocated()
    with runtime.fresh_names():
        state = build_state(config)
        return estimate(state, override(config, f"run.precision={precision}")).total - before


def told_and_measured(path, overrides):
    """Bytes, and those that two steps really took at their peak."""
    config = load_config(ROOT / "configs" / path, overrides)
    told = bytes_told(config)
    gc.collect()
    before = allocated()
    with runtime.fresh_names():
        state = build_state(config)
        batch = random_batch(state, config, sizes_of(config))
        with watched() as watch:
            for number in range(2):
                train_step(state, Clock(number, 2), config.schedule, iter([batch] * config.schedule.iter_size))
    return told, watch.before + watch.peak - before


@pytest.mark.parametrize("name", SMALL)
def test_what_is_told_of_small_networks_is_what_a_step_takes(name):
    told, measured = told_and_measured(*SMALL[name])
    assert told == pytest.approx(measured, rel=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUE)
def test_what_is_told_of_the_papers_networks_is_what_a_step_takes(name):
    told, measured = told_and_measured(*TRUE[name])
    assert told == pytest.approx(measured, rel=WITHIN)


def test_recomputation_accumulation_and_half_precision_are_told(tiny):
    def told(*more, precision="fp32"):
        config = tiny("toy/adaptsegnet_multi", "data.source.size=[160,160]", "model.width=16", *more)
        return bytes_told(config, precision)

    plain = told()
    assert told("run.recompute=true") < told("run.recompute=[stage3]") < plain
    assert told("data.batch_size=1", "schedule.iter_size=2") < plain
    assert told(precision="bf16") < 0.7 * plain


@pytest.fixture(scope="module")
def taught():
    """A method with a teacher and feature distance at a small size, and a batch."""
    path, overrides = SMALL[TEACHER]
    config = load_config(ROOT / "configs" / path, [*overrides, "data.augment.crop=[64,64]"])
    state = build_state(config)
    return state, random_batch(state, config, sizes_of(config))


def test_a_teacher_and_fixed_features_keep_no_graph(taught):
    state, batch = taught
    networks, seen = (state.method.teacher.network, state.method.additions["feature_distance"].fixed), []
    hooks = [
        layer.register_forward_post_hook(lambda layer, given, made: seen.append(made.stop_gradient))
        for network in networks
        for layer in network.sublayers()
        if isinstance(layer, (paddle.nn.Linear, paddle.nn.Conv2D, paddle.nn.LayerNorm))
    ]
    labelling, first, _ = passes_of(state, [batch], Clock(1, 2))
    for hook in hooks:
        hook.remove()
    assert len(seen) > 50 and all(seen)
    assert labelling.kept == 0 < first.kept
    assert all(p.grad is None for network in networks for p in network.parameters())


def test_the_source_and_its_feature_distance_share_one_backward_pass(taught):
    state, batch = taught
    state.method.before_step([batch], Clock(1, 2))
    assert set(next(iter(state.method.all_losses(batch, Clock(1, 2))))) == {"seg_main", "fd"}


def test_what_is_watched_is_the_most_that_was_allocated_inside():
    for size in (300_000, 100_000):  # the second one stays below the peak so far
        with watched() as watch:
            found = paddle.zeros([size]) + paddle.ones([size])
        assert watch.peak == pytest.approx(3 * 4 * size, rel=0.01)
        del found


@pytest.mark.skipif(not reset_most_allocated(), reason="Paddle 2.6 cannot reset its peak")
def test_many_watched_parts_do_not_raise_what_is_allocated():
    with watched() as watch:
        for _ in range(50):
            found = paddle.zeros([100_000])
            del found
            watch.mark()
        assert most_allocated() - watch.before < 2 * 400_000
    assert watch.peak == pytest.approx(400_000, rel=0.01)


def test_a_dry_run_tells_the_memory_and_names_the_preset_of_a_gpu_that_is_too_small(tiny, monkeypatch):
    assert "memory: about 0.0 GB for tensors" in plan.plan_run(tiny("toy/adaptsegnet_multi")).text()
    monkeypatch.setattr(plan, "capacity", lambda: 10_900_000_000)
    monkeypatch.setattr(plan, "estimate", lambda state, config: Estimate(12_000_000_000, 1, 1))
    found = plan.plan_run(tiny("toy/adaptsegnet_multi"))
    assert "a GPU of 16 GB holds it" in found.text()
    assert "needs about 13.5 GB, but this GPU has 10.9 GB: add configs/_base_/memory/gpu_11gb.yml" in found.problems[0]
    for card in memory.CARDS:
        assert (ROOT / f"configs/_base_/memory/gpu_{card}gb.yml").is_file()
    assert "a GPU of 32 GB does not hold it" in Estimate(40_000_000_000, 1, 1).text()


def advice(path, card, *overrides):
    """What a dry run says where a step needs 40 GB and the GPU has `card` of them."""
    config = load_config(ROOT / "configs" / path, list(overrides))
    return Estimate(38_500_000_000, 1, 1).problem(card * 10**9, unused_rungs(config, card * 10**9))


@pytest.mark.parametrize("card", [8, 11, 16, 24, 32])
def test_the_preset_that_is_named_recomputes_and_raises_no_batch(card):
    for path in ("gta5_cityscapes/adaptsegnet_multi.yml", "gta5_cityscapes/mic_hrda.yml"):
        (name,) = re.findall(r"configs/_base_/memory/gpu_\d+gb.yml", advice(path, card))
        preset = yaml.safe_load((ROOT / name).read_text())
        batch = load_config(ROOT / "configs" / path).data.batch_size
        assert preset["run"]["recompute"] is True and preset.get("data", {}).get("batch_size", batch) <= batch


def test_what_a_configuration_uses_already_is_not_advised_again():
    path = "gta5_cityscapes/mic_hrda.yml"
    assert "16.0 GB: add configs/_base_/memory/gpu_16gb.yml to the end of the file's base list" in advice(path, 16)
    rungs = ["run.precision=bf16", "data.batch_size=1 schedule.iter_size=2", "model.detail_batch=1"]
    used: list[str] = ["run.recompute=true"]
    while rungs:
        text = advice(path, 16, *used)
        assert "_base_" not in text and all(rung in text for rung in rungs)
        used += rungs.pop(0).split()
    assert "use a smaller backbone or smaller crops" in advice(path, 16, *used)
    assert "detail_batch" not in advice("gta5_cityscapes/daformer.yml", 16)


def test_a_run_says_what_its_first_steps_took(tiny, capsys):
    fit(tiny("toy/source_only", "run.eval_every=0"))
    assert capsys.readouterr().out.count("GB at the peak of the first steps") == 1

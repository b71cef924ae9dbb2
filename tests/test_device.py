"""What a GPU would run differently, through the same code on a CPU: transfers, counts, host copies, compiled programs.

No GPU is needed, and none was at hand: whether these paths are fast there, or run there at all, is not tested here.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from test_resume import EARLY, EXPERIMENTS, V3PLUS, overrides

from paddle_adaptseg import fit
from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core.errors import ConfigError, TrainingError
from paddle_adaptseg.data import TrainData
from paddle_adaptseg.data import augment as transforms
from paddle_adaptseg.data import loader as loading
from paddle_adaptseg.data.quarantine import Fault, Sample, collate, separate
from paddle_adaptseg.evaluation import logits, programs
from paddle_adaptseg.evaluation.logits import DeviceLogits
from paddle_adaptseg.evaluation.measure import evaluate_model
from paddle_adaptseg.evaluation.metrics import ConfusionMatrix
from paddle_adaptseg.evaluation.metrics import pair_counts as host_counts
from paddle_adaptseg.methods import Clock
from paddle_adaptseg.models import transformer
from paddle_adaptseg.training import step as trainer
from paddle_adaptseg.training.start import build_state

SMALL = {
    "encode_decode": {
        "backbone": {"name": "mit", "embed_dims": [8, 16, 24, 32], "num_heads": [1, 2, 3, 4], "depths": [1, 1, 1, 1]},
        "head": {"name": "daformer", "channels": 8, "embed_dims": 8},
    },
    "deeplabv2_resnet_v1c": {"depths": [1, 1, 1, 1]},
    "deeplabv2_resnet": {"depths": [1, 1, 1, 1]},
    "deeplabv2_resnet_twin": {"depths": [1, 1, 1, 1]},
    "deeplabv3plus_resnet": {"depths": [1, 1, 1, 1], "aux": True},
    **{name: {"width": 8} for name in ("small", "small_twin", "small_v3plus")},
}
TO_HOST = ("numpy", "item", "tolist", "__float__", "__int__", "__bool__", "__array__", "__index__")


# Transfers.


def test_batches_are_brought_to_the_device_by_paddles_buffered_reader(tiny, monkeypatch):
    made = []

    class Spy(loading.DataLoader):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(loading, "DataLoader", Spy)
    with contextlib.closing(TrainData(tiny("toy/adaptsegnet_multi"), True).batches(0)) as batches:
        batch = next(batches)
    (loader,) = made
    assert loader.use_buffer_reader and not loader.pin_memory, "pinned memory must not be where the way ends"
    assert [str(place) for place in loader.places] == [str(batch.source_image.place)]


def test_faults_never_become_tensors_so_that_reading_them_waits_for_no_device():
    fault = Fault(3, 1, "a.png", "cut short")
    arrays = [np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)]
    *columns, text = collate([Sample(arrays, [fault], []), Sample(arrays, [], [])])
    assert isinstance(text, str) and [c.shape for c in columns] == [(2, 2, 2)] * 2
    assert separate([*columns, text])[:2] == (columns, [fault])
    unusable = collate([Sample(arrays, [], []), Sample(None, [fault], [])])
    assert separate(unusable)[:2] == ([], [fault]) and isinstance(unusable[0], np.ndarray)


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_the_device_normalises_like_the_cpu_from_constants_made_once(order):
    pixels = Pixels(order, (104.0, 116.5, 122.25), (1.0, 2.0, 4.0))
    images = paddle.to_tensor(np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8))
    found = transforms._normalise_on_device(images, pixels)
    np.testing.assert_array_equal(found.numpy(), transforms.normalise(images, pixels).numpy())
    place = str(images.place)
    assert transforms._constants(pixels, place)[0] is transforms._constants(pixels, place)[0]


# Counts.


@pytest.mark.parametrize("classes", [19, 16, 2])
def test_the_device_counts_what_the_host_counts_ignored_pixels_too(classes):
    rng = np.random.default_rng(classes)
    ground_truth = rng.choice([*range(19), 255], (3, 37, 53)).astype(np.uint8)  # classes outside a subset are ignored
    prediction = rng.integers(0, classes, ground_truth.shape).astype(np.int64)
    pairs = DeviceLogits.pair_counts(ground_truth, paddle.to_tensor(prediction))
    assert pairs.dtype == paddle.int64
    np.testing.assert_array_equal(pairs.numpy(), host_counts(ground_truth, prediction))
    one, other = ConfusionMatrix(classes), ConfusionMatrix(classes)
    one.add_pairs(pairs.numpy())
    other.update(ground_truth, prediction)
    np.testing.assert_array_equal(one.counts, other.counts)
    assert one.counts.sum() == (ground_truth < classes).sum()


@pytest.mark.parametrize("classes", ["cityscapes_19", "synthia_16"])
def test_an_evaluation_on_the_device_ends_with_the_hosts_counts_and_copies_nothing_else(tiny, monkeypatch, classes):
    config = tiny("toy/adaptsegnet_multi", f"data.classes={classes}", "data.workers=2")
    model, seen, copied = build_state(config).method.eval_model, [], []
    host = evaluate_model(model, config)
    monkeypatch.setattr(logits, "on_gpu", lambda: True)
    for name in TO_HOST:
        real = getattr(paddle.Tensor, name)

        def counted(tensor, *args, real=real, **kwargs):
            if tensor.dtype != paddle.uint8:  # an image that is normalised
                copied.append(tuple(tensor.shape))
            return real(tensor, *args, **kwargs)

        monkeypatch.setattr(paddle.Tensor, name, counted)
    monkeypatch.setenv("PADDLE_ADAPTSEG_ACCELERATE", "off")  # as where there is a GPU
    device = evaluate_model(model, config, check=lambda: seen.append(1))
    np.testing.assert_array_equal(device.counts, host.counts)
    assert device.images == host.images == len(seen) - 1 and host.counts.sum() > 0
    assert set(copied) == {(256, 256)}


def test_a_watched_step_reads_the_same_where_the_device_counts(tiny, monkeypatch):
    readings = []
    for on_gpu in (False, True):
        monkeypatch.setattr(logits, "on_gpu", lambda on_gpu=on_gpu: on_gpu)
        readings.append(one_step(tiny("toy/adaptsegnet_multi", *EARLY), watch=True)[0].readings)
    assert readings[0] == readings[1] and {"source_batch/mIoU", "health/target_entropy"} <= set(readings[0])


# Copies to the host.


def one_step(config, watch=False, deferred=False):
    """A report and how often its step took something from the device."""
    state, taken = build_state(config), Counter()
    state.deferred = deferred
    with contextlib.closing(TrainData(config, state.method.uses_target).batches(0)) as batches:
        given = [next(batches) for _ in range(config.schedule.iter_size)]
    with pytest.MonkeyPatch.context() as patch:
        for name in TO_HOST:
            real = getattr(paddle.Tensor, name)

            def counted(tensor, *args, real=real, name=name, **kwargs):
                taken[name] += taken["inside"] == 0
                taken["inside"] += 1  # item() may be numpy() within
                try:
                    return real(tensor, *args, **kwargs)
                finally:
                    taken["inside"] -= 1

            patch.setattr(paddle.Tensor, name, counted)
        clock = Clock(config.schedule.horizon // 2, config.schedule.horizon, watch)
        report = trainer.train_step(state, clock, config.schedule, iter(given))
    return report, {name: n for name, n in taken.items() if n}


@pytest.mark.parametrize("name", [*EXPERIMENTS.values(), V3PLUS], ids=[*EXPERIMENTS, "deeplabv3plus"])
def test_a_step_takes_one_small_copy_from_the_device(tiny, name):
    report, taken = one_step(tiny(name, *overrides(name), "schedule.iter_size=2"))
    assert taken == {"numpy": 1}
    assert len(report.losses) >= (1 if name in ("toy/source_only", "toy/bn_adapt") else 2)


@pytest.mark.parametrize("name", [*EXPERIMENTS.values(), V3PLUS], ids=[*EXPERIMENTS, "deeplabv3plus"])
def test_a_step_on_one_gpu_takes_no_copy_unless_it_is_logged(tiny, name):
    report, taken = one_step(tiny(name, *overrides(name)), deferred=True)
    assert taken == {} and report.losses == {}
    report, taken = one_step(tiny(name, *overrides(name)), watch=True, deferred=True)
    other, copies = one_step(tiny(name, *overrides(name)), watch=True)
    assert taken == copies and report.losses == other.losses != {}


def poison(number):
    """Lets the gradients of a step become NaN."""
    real, calls = trainer.measure, itertools.count(1)

    @paddle.no_grad()
    def measured(collected, players, *args):
        if next(calls) == number:
            for _, gradient in players["segmenter"].gradients():
                gradient.scale_(float("nan"))
        return real(collected, players, *args)

    return measured


@pytest.mark.parametrize("more", [["run.log_every=4"], ["run.log_every=90", "run.save_every=4"],
                                  ["run.log_every=90", "run.save_every=90", "run.eval_every=4"]],
                         ids=["logging", "saving", "evaluating"])  # fmt: skip
def test_losses_that_are_looked_at_later_name_the_step_that_was_not_finite(tiny, monkeypatch, more):
    monkeypatch.setattr(trainer, "defers", lambda run: True)
    monkeypatch.setattr(trainer, "measure", poison(2))
    config = tiny("toy/source_only", "run.eval_every=0", *more)
    with pytest.raises(TrainingError, match=r"step 2: gradients of segmenter.* are not finite; batch: .*\.png"):
        fit(config)
    assert not list(Path(config.run.output).glob("states/*4*")), "nothing that is not finite is saved"


def test_losses_stay_on_the_device_where_one_gpu_trains_and_no_step_may_be_undone(tiny, monkeypatch):
    config = tiny("toy/source_only")
    assert not trainer.defers(config.run) or paddle.get_device() != "cpu"
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    assert trainer.defers(config.run)
    assert not trainer.defers(tiny("toy/source_only", "run.on_nonfinite=skip").run)


def test_gradients_that_are_not_finite_are_named_although_one_number_stands_for_all(tiny, monkeypatch):
    real = trainer.backward

    def poisoned(terms, *args):
        real(terms, *args)
        gradient = state.method.segmenter.stem[0].weight.grad
        gradient.stop_gradient = True  # Paddle changes no leaf in place that wants a gradient
        gradient[1, 1, 1, 1] = float("nan")

    config = tiny("toy/source_only")
    state = build_state(config)
    monkeypatch.setattr(trainer, "backward", poisoned)
    message = "step 1: gradients of segmenter.stem.0.weight are not finite"
    data = TrainData(config, False).batches(0)
    with contextlib.closing(data) as batches, pytest.raises(TrainingError, match=message):
        trainer.train_step(state, Clock(0, 8), config.schedule, batches)


# Programs and attention.


@pytest.mark.parametrize("device, number", [("cpu", None), ("gpu:0", 0), ("gpu:3", 3)])
def test_programs_run_on_the_device_of_the_run(device, number, monkeypatch):
    """Also on a CPU that was chosen where there are GPUs, and on the GPU of each of several processes."""
    chosen = []

    class Config:
        def __init__(self, *files):
            pass

        def __getattr__(self, name):
            return lambda *given: (
                chosen.append((name, *given[1:2])) if name in ("enable_use_gpu", "disable_gpu") else None
            )

    monkeypatch.setattr(paddle.inference, "Config", Config)
    monkeypatch.setattr(paddle, "get_device", lambda: device)
    programs._settings(Path("model.json"), Path("model.pdiparams"), "fp32", fixed_size=True)
    assert chosen == [("disable_gpu",) if number is None else ("enable_use_gpu", number)]


@pytest.mark.parametrize("chooses", [True, False])
@pytest.mark.parametrize("major", [7, 8])
def test_attention_is_fused_where_paddle_can_run_it(chooses, major, monkeypatch):
    """Paddle before 3.3 takes flash attention on every GPU, and V100 and T4 have none."""
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda: (major, 0))
    monkeypatch.setattr(paddle.nn.functional, "sdpa", None, raising=False)
    if not chooses:
        monkeypatch.delattr(paddle.nn.functional, "sdpa")
    place = SimpleNamespace(is_gpu_place=lambda: True)
    assert transformer._is_fused(SimpleNamespace(place=place, dtype=paddle.float16)) == (chooses or major == 8)
    assert not transformer._is_fused(SimpleNamespace(place=place, dtype=paddle.float32))


def test_what_excludes_each_other_is_refused(tiny):
    with pytest.raises(ConfigError, match="'run.cudnn_autotune' must .*, not True"):
        tiny("toy/adaptsegnet_multi", "run.cudnn_autotune=true", "run.deterministic=true")


def test_a_key_that_is_gone_may_still_stand_in_files_with_its_usual_value(tiny):
    assert tiny("toy/source_only", "run.to_static=false") == tiny("toy/source_only")
    with pytest.raises(ConfigError, match="'run.to_static' does not exist any more"):
        tiny("toy/source_only", "run.to_static=true")

"""Mixed precision and recomputation do what they say and change nothing else."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_adaptseg import fit
from paddle_adaptseg.config.loading import differences, dump, load_config, parse_config
from paddle_adaptseg.config.schema import EVERY_STAGE
from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import ConfigError, TrainingError
from paddle_adaptseg.cpu import accelerate
from paddle_adaptseg.cpu.onednn import lies_last
from paddle_adaptseg.data import TrainData
from paddle_adaptseg.evaluation.options import InferenceOptions
from paddle_adaptseg.evaluation.predictor import eager
from paddle_adaptseg.methods.base import Clock
from paddle_adaptseg.models.layers import NORMS
from paddle_adaptseg.models.recompute import blocks_of, set_recompute
from paddle_adaptseg.models.resnet import Bottleneck
from paddle_adaptseg.training import step as trainer
from paddle_adaptseg.training.checkpoint import find_state
from paddle_adaptseg.training.precision import DTYPES, AllPlayers, Precision, precision_of
from paddle_adaptseg.training.run import build_state
from paddle_adaptseg.training.step import train_step

ROOT = Path(__file__).resolve().parent.parent
ON_CPU = paddle.get_device() == "cpu"
MIXED = ("bf16", "fp16")


def gradients(block, x, stages):
    """Result, gradients and running statistics after one pass in training mode."""
    set_recompute(block, stages)
    before = {k: v.numpy() for k, v in block.state_dict().items()}
    paddle.seed(3)
    x = x.clone().detach()
    x.stop_gradient = False
    y = block(x * 1.0)
    (y**2).sum().backward()
    found = [y.numpy(), x.grad.numpy(), *(p.grad.numpy() for p in block.parameters() if p.grad is not None)]
    found += [v.numpy() for v in block.state_dict().values()]
    block.set_state_dict(before)
    block.clear_gradients()
    return found


def test_statistics_of_synchronised_norms_move_once_too(monkeypatch):
    """They need GPUs: here each is Paddle's batch norm of one process."""
    monkeypatch.setattr(paddle.nn.SyncBatchNorm, "forward", of_one_process)
    block = paddle.nn.Sequential(Bottleneck(8, 4, NORMS["batch"], 1, 1, True, "1x1"))
    block = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(block)
    assert isinstance(block[0].bn1, paddle.nn.SyncBatchNorm)
    x = paddle.randn([2, 8, 12, 12])
    for ours, theirs in zip(gradients(block, x, EVERY_STAGE), gradients(block, x, ())):
        np.testing.assert_array_equal(ours, theirs)


def test_a_recomputed_graph_that_is_run_twice_is_an_error_and_no_crash():
    block = paddle.nn.Sequential(Bottleneck(8, 4, NORMS["batch"], 1, 1, True, "1x1"))
    set_recompute(block, EVERY_STAGE)
    x = paddle.randn([2, 8, 12, 12])
    x.stop_gradient = False
    y = block(x).sum()
    y.backward(retain_graph=True)
    with pytest.raises((OSError, RuntimeError)):
        y.backward()


def of_one_process(norm, x):
    numbers = {"training": norm.training, "momentum": norm._momentum, "epsilon": norm._epsilon}
    return paddle.nn.functional.batch_norm(x, norm._mean, norm._variance, norm.weight, norm.bias, **numbers)


def test_accelerated_blocks_recompute_as_plain_ones_do():
    block = paddle.nn.Sequential(Bottleneck(8, 4, NORMS["batch"], 1, 2, True, "1x1"))
    set_recompute(block, EVERY_STAGE)
    with accelerate(block):
        assert "forward" in vars(block[0])
        x, again = paddle.randn([2, 8, 12, 12]), []
        block.register_forward_post_hook(lambda *given: again.append(lies_last(given[-1])))
        for ours, theirs in zip(gradients(block, x, EVERY_STAGE), gradients(block, x, ())):
            np.testing.assert_array_equal(ours, theirs)
    assert again == [True, True]


@pytest.mark.parametrize("norm", ["batch_fixed_affine", "batch"])
def test_recomputing_gives_the_same_bits_and_moves_statistics_once(norm):
    policy = NORMS[norm]
    block = paddle.nn.Sequential(
        Bottleneck(8, 4, policy, 1, 2, True, "1x1"),
        paddle.nn.Dropout(0.5),
        Bottleneck(16, 4, policy, 1, 1, False, "1x1"),
    )
    x = paddle.randn([2, 8, 12, 12])
    plain, again = gradients(block, x, ()), gradients(block, x, EVERY_STAGE)
    assert len(plain) == len(again) > 10
    for ours, theirs in zip(again, plain):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_that_recomputes_ends_with_the_same_weights(tiny, tmp_path):
    ends = []
    for name, again in (("plain", "false"), ("again", "true")):
        changes = (f"run.recompute={again}", "schedule.stop=2", "run.eval_every=0", f"run.output={tmp_path / name}")
        fit(tiny("toy/adaptsegnet_multi", *changes))
        ends.append(find_state(tmp_path / name, "latest", print).arrays)
    for name, array in ends[0].items():
        np.testing.assert_allclose(ends[1][name], array, 1e-3, 1e-6, err_msg=name)  # sums run in another order


@pytest.mark.gpu
@pytest.mark.parametrize("kind", MIXED)
def test_a_run_in_mixed_precision_convolves_in_16_bits_and_ends_near_one_in_32(kind, tiny, tmp_path):
    if ON_CPU or kind not in runtime.autocast_kinds():
        pytest.skip(f"mixed precision was not run: Paddle has no {kind} autocast on this device")
    x, layer = paddle.randn([1, 3, 8, 8]), paddle.nn.Conv2D(3, 4, 3, bias_attr=False)  # adding one is in 32 bits
    with Precision(kind).casting():
        assert layer(x).dtype == getattr(paddle, DTYPES[kind])
    ends = {}
    for name in ("fp32", kind):
        changes = (f"run.precision={name}", "schedule.stop=2", "run.eval_every=0", f"run.output={tmp_path / name}")
        fit(tiny("toy/adaptsegnet_multi", *changes))
        ends[name] = find_state(tmp_path / name, "latest", print).arrays
    assert any((ends[kind][name] != array).any() for name, array in ends["fp32"].items())
    for name, array in ends["fp32"].items():
        assert ends[kind][name].dtype == array.dtype, name
        np.testing.assert_allclose(ends[kind][name], array, 0.05, 0.01, err_msg=name)


@pytest.mark.skipif(not ON_CPU, reason="this is about CPUs")
@pytest.mark.filterwarnings("ignore:amp_guard")
@pytest.mark.parametrize("kind", MIXED)
def test_on_a_cpu_paddles_autocast_stays_in_32_bits_which_is_why_a_run_there_is_refused(kind, tiny):
    with paddle.amp.auto_cast(dtype=DTYPES[kind]):
        assert paddle.nn.Conv2D(3, 4, 3)(paddle.randn([1, 3, 8, 8])).dtype == paddle.float32
    with pytest.raises(ConfigError, match=f"run.precision={kind} needs a GPU"):
        precision_of(tiny("toy/adaptsegnet_multi", f"run.precision={kind}").run)


@pytest.mark.parametrize("capability, kinds", [((6, 1), []), ((7, 0), ["fp16"]), ((8, 0), ["fp16", "bf16"])])
def test_what_a_gpu_has_no_autocast_for_is_refused(capability, kinds, tiny, monkeypatch):
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    for kind in MIXED:
        run = tiny("toy/adaptsegnet_multi", f"run.precision={kind}").run
        if kind in kinds:
            assert precision_of(run).kind == kind
            continue
        has = " or ".join(["fp32", *kinds])
        with pytest.raises(ConfigError, match=f"run.precision={kind}: this GPU has no {kind}; use {has}"):
            precision_of(run)
        with pytest.raises(ConfigError, match=f"--precision={kind}: this GPU has no {kind}; use {has}"):
            eager(paddle.nn.Layer(), InferenceOptions(precision=kind))


@pytest.mark.parametrize("kind", MIXED)
def test_mixed_precision_asks_paddle_for_that_type_and_leaves_convolutions_to_it(kind, monkeypatch):
    """Only what is asked: the context is a stand-in here, so nothing is computed in 16 bits."""
    asked = []
    monkeypatch.setattr(paddle.amp, "auto_cast", lambda **given: asked.append(given) or contextlib.nullcontext())
    with Precision(kind).casting():
        pass
    assert asked == [{"dtype": DTYPES[kind]}]


@pytest.fixture
def scaler(monkeypatch):
    """Makes fp16's precision with Paddle's own GradScaler, which switches itself off on a CPU but can work there.

    The autocast beside it stays in 32 bits there, so nothing here is computed in fp16.
    """

    class Gpu:
        _expected_place = type("Place", (), {"is_gpu_place": lambda self: True})()

    module = sys.modules[paddle.amp.GradScaler.__module__]
    monkeypatch.setattr(module, "_dygraph_tracer", lambda: Gpu)
    return lambda scale=1024.0: Precision("fp16", scale)


AUTOCAST = pytest.mark.filterwarnings("ignore:amp_guard")


def take_step(config, precision=None, spoil=None, number=0):
    """Weights, optimiser states and the report after one step; `spoil` changes the gradients of the last pass."""
    state = build_state(config)
    state.precision = precision or Precision()
    data, real = TrainData(config, state.method.uses_target).batches(0), trainer.measure
    with contextlib.closing(data) as batches, pytest.MonkeyPatch.context() as patch:
        if spoil:
            patch.setattr(trainer, "measure", lambda *args: spoil(state) or real(*args))
        report = train_step(state, Clock(number, 8, True), config.schedule, batches)
    return state.snapshot(config), report


@AUTOCAST
@pytest.mark.parametrize("more", [[], ["schedule.iter_size=2"]], ids=["one batch", "two batches"])
def test_steps_with_a_gradient_scaler_equal_plain_ones_for_several_players_and_passes(scaler, tiny, more):
    config = tiny("toy/adaptsegnet_multi", "method.ramp.start=0", *more)
    plain, _ = take_step(config)
    scaled, report = take_step(config, scaler())
    assert report.note == "" and report.readings["precision/loss_scale"] == 1024.0
    assert {"optim/segmenter", "optim/discriminators"} <= {name.rsplit("/", 2)[0] for name in plain.arrays}
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(scaled.arrays[name], array, 1e-4, 1e-6, err_msg=name)


@AUTOCAST
@pytest.mark.parametrize("player", ["segmenter", "discriminators"])
def test_an_overflow_in_one_player_is_a_step_that_no_player_takes_and_no_failure(scaler, tiny, player):
    @paddle.no_grad()
    def overflow(state):
        state.players[player].gradients()[0][1].scale_(float("inf"))

    config = tiny("toy/adaptsegnet_multi", "method.ramp.start=0")
    before = {k: v.numpy() for k, v in build_state(config).method.named_parameters()}
    after, report = take_step(config, scaler(), overflow)
    assert report.note == "step 1: fp16's gradients overflowed; no weight was changed, the loss scale is now 512"
    assert report.losses and not report.skipped and after.record["scaler"]["scale"] == 512.0
    for name, array in before.items():
        np.testing.assert_array_equal(after.arrays[f"method/{name}"], array, err_msg=name)


@AUTOCAST
def test_gradients_that_overflow_at_every_scale_end_the_run(scaler, tiny):
    @paddle.no_grad()
    def overflow(state):
        state.players["segmenter"].gradients()[0][1].scale_(float("nan"))

    with pytest.raises(TrainingError, match="step 1: gradients are not finite at any scale .* run.precision=bf16"):
        take_step(tiny("toy/source_only"), scaler(2.0**-10), overflow)


@AUTOCAST
def test_the_state_of_the_scaler_is_in_the_checkpoint_and_older_ones_start_anew(scaler, tiny):
    one, other = scaler(4.0), scaler(1024.0)
    players = build_state(tiny("toy/source_only")).players
    with one.casting():
        one.scale(sum(p.sum() for p in players["segmenter"].parameters())).backward()
    assert one.step(players, 1) == "" and one.state() == {"scale": 4.0, "incr_count": 1, "decr_count": 0}
    other.restore(json.loads(json.dumps(one.state())))
    assert other.state() == one.state() and other.loss_scale() == 4.0
    other.restore({})
    assert other.loss_scale() == 4.0
    assert Precision("bf16").state() == Precision().state() == {}
    old = tiny("toy/source_only", "run.loss_scale=1024")  # what older checkpoints say of a scale that was fixed
    assert differences(old, tiny("toy/source_only")) == []


def test_bf16_has_no_scaler_and_a_scaler_sees_the_parameters_of_all_players(tiny):
    assert Precision("bf16").scaler is None and Precision().scaler is None
    state = build_state(tiny("toy/adaptsegnet_multi"))
    seen = [p for group in AllPlayers(state.players)._param_groups for p in group["params"]]
    assert len(seen) == len([p for p in state.method.parameters() if not p.stop_gradient])


def test_a_wrong_precision_is_refused(tiny):
    with pytest.raises(ConfigError, match="run.precision must be one of fp32, bf16, fp16, not 'bf61'"):
        precision_of(tiny("toy/adaptsegnet_multi", "run.precision=bf61").run)
    with pytest.raises(ConfigError, match="does nothing for this network"):
        build_state(load_config(ROOT / "configs/gta5_cityscapes/adaptsegnet_vgg16.yml", ["run.recompute=true"]))


def test_stages_are_chosen_by_name_and_survive_a_dump(tiny):
    config = tiny("toy/adaptsegnet_multi", "run.recompute=[stage4]")
    segmenter = build_state(config).method.segmenter
    assert ["forward" in vars(block) for block in blocks_of(segmenter)] == [False] * 4 + [True] * 2
    assert blocks_of(segmenter, ("stage4",)) == blocks_of(segmenter)[4:]
    for text, value in (("[stage4]", ("stage4",)), ("true", EVERY_STAGE), ("false", ()), ("[]", ())):
        again = parse_config(dump(tiny("toy/adaptsegnet_multi", f"run.recompute={text}"))).run.recompute
        assert again == value and bool(again) == bool(value)
    with pytest.raises(ConfigError, match="the network has no stage 'stage5': did you mean 'stage.'.*stage3, stage4"):
        build_state(tiny("toy/adaptsegnet_multi", "run.recompute=[stage5]"))
    with pytest.raises(ConfigError, match=r"'run.recompute' must be true, false or a list of stages such as \[l"):
        tiny("toy/adaptsegnet_multi", "run.recompute=stage4")
    resnet = load_config(ROOT / "configs/gta5_cityscapes/adaptsegnet_multi.yml", ["model.depths=[1,1,2,1]"])
    assert len(blocks_of(build_state(resnet).method.segmenter, ("layer2", "layer3"))) == 3

"""Mixed precision and recomputation do what they say and change nothing else."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_adaptseg import fit
from paddle_adaptseg.config.loading import dump, load_config, parse_config
from paddle_adaptseg.config.schema import EVERY_STAGE
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.cpu import accelerate
from paddle_adaptseg.cpu.onednn import lies_last
from paddle_adaptseg.methods.base import Term
from paddle_adaptseg.models.layers import NORMS
from paddle_adaptseg.models.recompute import blocks_of, set_recompute
from paddle_adaptseg.models.resnet import Bottleneck
from paddle_adaptseg.training.checkpoint import find_state
from paddle_adaptseg.training.run import build_state
from paddle_adaptseg.training.step import DTYPES, FULL, Precision, backward, precision_of

ROOT = Path(__file__).resolve().parent.parent
ON_CPU = paddle.get_device() == "cpu"
MIXED = {"bf16": paddle.amp.is_bfloat16_supported, "fp16": paddle.amp.is_float16_supported}


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


@pytest.mark.parametrize("kind", MIXED)
def test_a_run_in_mixed_precision_convolves_in_16_bits_and_ends_near_one_in_32(kind, tiny, tmp_path):
    if ON_CPU or not MIXED[kind]():
        pytest.skip(f"mixed precision was not run: Paddle has no {kind} autocast on this device")
    x, layer = paddle.randn([1, 3, 8, 8]), paddle.nn.Conv2D(3, 4, 3)
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


@pytest.mark.parametrize("kind", MIXED)
def test_mixed_precision_asks_paddle_for_that_type_and_leaves_convolutions_to_it(kind, monkeypatch):
    """Only what is asked: the context is a stand-in here, so nothing is computed in 16 bits."""
    asked = []
    monkeypatch.setattr(paddle.amp, "auto_cast", lambda **given: asked.append(given) or contextlib.nullcontext())
    with Precision(kind).casting():
        pass
    assert asked == [{"dtype": DTYPES[kind]}]


def test_a_scaled_backward_pass_gives_the_plain_gradients(tiny):
    config, found = tiny("toy/adaptsegnet_multi"), []
    for precision in (FULL, Precision("fp32", 1024.0)):
        state = build_state(config)
        players = list(state.players.values())
        loss = sum(p.sum() for p in state.method.parameters() if not p.stop_gradient)
        backward({"a": Term(loss, 0.5)}, precision.scale)
        precision.unscale(state.players)
        found.append([g.numpy() for player in players for _, g in player.gradients()])
    for plain, scaled in zip(*found):
        np.testing.assert_array_equal(scaled, plain)


def test_the_scale_of_fp16_is_taken_out_of_all_gradients():
    class Player:
        def __init__(self, gradient):
            self.gradient = gradient

        def gradients(self):
            return [("weight", self.gradient)]

    player = Player(paddle.full([3], 512.0))
    Precision("fp16", 1024.0).unscale({"segmenter": player})
    assert player.gradient.tolist() == [0.5] * 3


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

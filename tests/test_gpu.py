"""What only a GPU can show, written without one: `make test-gpu` runs it there. Elsewhere its logic runs on the CPU.

The rest of the suite runs on the CPU everywhere (tests/conftest.py).
"""

from __future__ import annotations

import time

import numpy as np
import paddle
import pytest
from conftest import DEVICE, LIMIT

from paddle_adaptseg.config.loading import dump
from paddle_adaptseg.config.schema import EVERY_STAGE
from paddle_adaptseg.core import runtime
from paddle_adaptseg.deploy.export import export_model
from paddle_adaptseg.evaluation import InferenceOptions, logits
from paddle_adaptseg.evaluation.measure import evaluate_model
from paddle_adaptseg.evaluation.predictor import Predictor, eager
from paddle_adaptseg.lab.doctor import figures, runs
from paddle_adaptseg.lab.doctor.checks import OK, SKIPPED, Given
from paddle_adaptseg.models.layers import NORMS
from paddle_adaptseg.models.recompute import set_recompute
from paddle_adaptseg.models.resnet import Bottleneck
from paddle_adaptseg.models.transformer import attention
from paddle_adaptseg.training import step as trainer
from paddle_adaptseg.training.precision import DTYPES
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.training.start import build_state
from paddle_adaptseg.weights import arrays_of, save_weights

pytestmark = pytest.mark.gpu
ON_GPU = DEVICE != "cpu"


@pytest.fixture
def given(tmp_path) -> Given:
    """The device of this run of the tests."""
    return Given(tmp_path, runtime.set_device(DEVICE), time.monotonic() + LIMIT)


def test_the_tests_run_on_the_device_that_was_asked_for():
    assert paddle.get_device().split(":")[0] == DEVICE.split(":")[0]


def test_the_originals_figures_are_met_with_and_without_tf32(given, monkeypatch):
    if not ON_GPU:
        case = figures.load_figures()["source only"]
        monkeypatch.setattr(runs, "load_figures", lambda: {"source only": case})
    found = runs.parity(given)
    assert found.verdict == OK and ("TF32" in found.text) == ON_GPU, found.text


def test_the_switch_of_tf32_is_put_back():
    core = paddle.base.core
    if not hasattr(core, "set_cudnn_switch"):
        pytest.skip("this Paddle was built without CUDA")
    before = core.get_cudnn_switch()
    with runs.tensor_float_32(False):
        assert not core.get_cudnn_switch() and not core.get_cublas_switch()
    assert core.get_cudnn_switch() == before


def test_runs_repeat_themselves_and_16_bits_stay_near_32(given):
    assert runs.deterministic(given).verdict == OK
    assert runs.precision(given).verdict == (OK if ON_GPU else SKIPPED)


def test_a_run_looks_at_losses_when_they_are_logged(given, monkeypatch):
    """On a GPU; on a CPU it is told that it is on one."""
    monkeypatch.setattr(trainer, "defers", trainer.defers if ON_GPU else lambda run: True)
    reads, real = [], trainer.read
    monkeypatch.setattr(trainer, "read", lambda measured: reads.append(len(measured)) or real(measured))
    fit(runs.config_of(given, "run", "run.log_every=2", "run.save_every=9"))
    assert reads == [2, 2]


def test_statistics_of_synchronised_norms_move_once_when_their_block_recomputes():
    if not ON_GPU:
        pytest.skip("Paddle's SyncBatchNorm has no CPU form; tests/test_lean.py has its momentum with a stand-in")
    block = paddle.nn.Sequential(Bottleneck(8, 4, NORMS["batch"], 1, 1, True, "1x1"))
    block = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(block)
    before, ends = {k: v.numpy() for k, v in block.state_dict().items()}, []
    x = paddle.randn([2, 8, 12, 12])
    for stages in ((), EVERY_STAGE):
        block.set_state_dict(before)
        set_recompute(block, stages)
        given = x.detach()
        given.stop_gradient = False
        block(given * 1.0).sum().backward()
        ends.append({k: v.numpy() for k, v in block.state_dict().items()})
    for name, array in ends[0].items():
        np.testing.assert_allclose(ends[1][name], array, 1e-5, 1e-6, err_msg=name)


def test_labels_made_on_the_gpu_are_those_made_on_the_host(given, monkeypatch):
    """Counts of an evaluation; rounding decides pixels where two classes are equally likely."""
    config = runs.config_of(given, "run")
    model, counts = build_state(config).method.eval_model, []
    for there in (True, False):
        monkeypatch.setattr(logits, "on_gpu", lambda there=there: there)
        counts.append(evaluate_model(model, config).counts)
    assert np.abs(counts[0] - counts[1]).sum() <= 0.01 * counts[1].sum() > 0


def test_two_parts_of_a_step_equal_one_batch(given):
    plain = ("model.norm=group", "data.augment.mirror=false")
    fit(runs.config_of(given, "one", *plain))
    fit(runs.config_of(given, "parts", *plain, "data.batch_size=1", "schedule.iter_size=2"))
    assert runs.distance(runs.arrays_of(given, "one"), runs.arrays_of(given, "parts")) <= runs.CLOSE


KINDS = pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16"])


def skip_without(kind: str) -> None:
    """In 32 bits a test runs everywhere."""
    if kind != "fp32" and not (ON_GPU and kind in runtime.autocast_kinds()):
        pytest.skip(f"this device has no {kind}")


@KINDS
def test_programs_and_evaluations_in_16_bits_label_as_in_32(kind, given):
    skip_without(kind)
    config = runs.config_of(given, "run")
    model, rng = build_state(config).method.eval_model, np.random.default_rng(0)
    for name, weight in model.named_parameters():
        if name.startswith("heads.main") and weight.ndim == 4:  # logits as far apart as those of a trained network
            weight.set_value(rng.normal(0, 0.3, weight.shape).astype("float32"))
    save_weights(given.folder / "w.pdparams", arrays_of(model), dump(config), {"source": "made here"})
    assert export_model(given.folder / "w.pdparams", given.folder / "program", precision=kind).agreement >= 0.97
    labels, image = [], rng.integers(0, 255, (48, 96, 3)).astype(np.uint8)
    for precision in ("fp32", kind):
        predictor = Predictor(model, config.data.pixels, InferenceOptions(precision=precision), eager)
        with predictor.ready():
            labels.append(predictor.labels(image))
    assert (labels[0] == labels[1]).mean() >= 0.97


@KINDS
def test_attention_in_16_bits_is_near_that_in_32(kind):
    """Fused where this GPU has it; gradients too."""
    skip_without(kind)
    paddle.seed(1)
    given, found = [paddle.randn([2, 70, 2, 32]) for _ in "qkv"], []
    for dtype in ("float32", DTYPES[kind]):
        inputs = [x.astype(dtype).detach() for x in given]
        for x in inputs:
            x.stop_gradient = False
        y = attention(*inputs)
        y.sum().backward()
        found.append([t.astype("float32").numpy() for t in (y, *(x.grad for x in inputs))])
    for plain, half in zip(*found):
        np.testing.assert_allclose(half, plain, 0.05, 0.05)


def test_two_gpus_equal_one(given):
    if not ON_GPU or paddle.device.cuda.device_count() < 2:
        pytest.skip("needs two GPUs; tests/test_parallel.py and the doctor compare two CPU processes")
    assert runs.two_processes(given).verdict == OK

"""HRDA: context, detail crop and attention around any network, in every method, resumed and in two processes."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from conftest import ROOT, tiny_overrides
from parity_self_training import component
from test_methods import ADV, CLASSES, assert_players, batch, losses
from test_parallel import CLOSE, run_tasks, settings
from test_resume import assert_same_run, interrupted  # noqa: F401

from paddle_adaptseg.config.loading import dump, load_config, override
from paddle_adaptseg.config.schema import Component
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.deploy.contract import read_contract
from paddle_adaptseg.deploy.export import export_model
from paddle_adaptseg.deploy.runners import open_runner
from paddle_adaptseg.methods import Clock, build_method
from paddle_adaptseg.methods.choices import PASSES, Choices
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.hrda import halved, spans, windows
from paddle_adaptseg.models.segmenter import Box
from paddle_adaptseg.training.checkpoint import load_state, state_path
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.weights import arrays_of, coverage, save_weights
from paddle_adaptseg.weights.kinds import identify, translate
from paddle_adaptseg.weights.load import fill_segmenter

MIT = {"name": "mit", "embed_dims": [8, 16, 16, 24], "num_heads": [1, 2, 2, 3], "depths": [1, 1, 1, 1], "drop_path": 0}
DAFORMER = {"name": "daformer", "channels": 16, "embed_dims": 8, "dilations": [1, 3], "norm": "group", "dropout": 0}
NETWORKS = {
    "daformer": {"name": "encode_decode", "backbone": MIT, "head": DAFORMER},
    "segformer": {"name": "encode_decode", "backbone": MIT, "head": {"name": "segformer", "embed_dim": 16}},
    "deeplabv2": {"name": "deeplabv2_resnet", "depths": [1, 1, 1, 1], "aux": False},
    "v1c": {"name": "deeplabv2_resnet_v1c", "depths": [1, 1, 1, 1]},
    "vgg": {"name": "deeplabv2_vgg16"},
    "v3plus": {"name": "small_v3plus", "width": 8},
}
LEVELS = {"main": 0.8, "context": 0.1, "detail": 0.1}
ONE = {"main": 1.0}
MASKED, NEAR = {"weights": LEVELS, "block": 16}, {"things": ["0", "1", "2", "3"], "min_ratio": 0.1, "weight": 0.1}
METHODS = {
    "source_only": {"seg_weights": LEVELS},
    "bn_adapt": {"seg_weights": LEVELS},
    "output_adversarial": {**ADV, "weights": {"main": 0.1}, "seg_weights": LEVELS},
    "feature_adversarial": {"weights": ONE, "seg_weights": LEVELS, "discriminator_width": 4},
    "target_prior": {"weights": {"main": 0.1, "context": 0.1}, "seg_weights": LEVELS, "target_loss": "max_square"},
    "source_free": {"weights": LEVELS, "pseudo_labels": {"threshold": 0.2}, "augment": None},
    "self_training": {"seg_weights": LEVELS, "weights": LEVELS, "masked": MASKED, "feature_distance": NEAR,
                      "pseudo_labels": {"threshold": 0.2}},
}  # fmt: skip


def hrda(name="daformer", **more):
    paddle.seed(1)
    params = {"network": NETWORKS[name], "crop": [32, 32], "attention_width": 16, **more}
    return build_model(Component("hrda", params), CLASSES)


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_with_one_head_becomes_hrda(name):
    network = hrda(name)
    image = paddle.randn([1, 3, 64, 96])
    logits = network(image, box=Box(16, 48, 24, 56))
    assert [logits[level].shape[2:] for level in network.levels] == [[64, 96], [64, 96], [32, 32]]
    sum(x.abs().mean() for x in logits.values()).backward()
    without = {n for n, p in network.named_parameters() if not p.stop_gradient and p.grad is None}
    assert not without
    grouped = [p.name for group in network.groups() for p in group.parameters]
    assert sorted(grouped) == sorted({p.name for p in network.parameters() if not p.stop_gradient})
    own = network.attention.parameters()[0].name
    first = network.network.heads["main"].parameters()[0].name
    assert any({own, first} <= {p.name for p in group.parameters} for group in network.groups())
    network.eval()
    assert network(paddle.randn([2, 3, 70, 90]))["main"].shape == [2, CLASSES, 70, 90]  # sides that nothing divides


def test_outside_of_the_crop_only_the_context_speaks():
    network, image = hrda(), paddle.randn([1, 3, 64, 64])
    other = image.clone()
    other[:, :, :32, :32] = other[:, :, :32, :32] + paddle.to_tensor([[1.0, -1.0], [-1.0, 1.0]]).tile([16, 16])
    box = Box(0, 32, 0, 32)  # means of two by two pixels stay, so the context does
    np.testing.assert_allclose(halved(image).numpy(), halved(other).numpy(), atol=1e-6)
    one, two = (network.logits(x, box)["main"].numpy() for x in (image, other))
    np.testing.assert_allclose(one[:, :, 10:], two[:, :, 10:], atol=1e-5)  # the attention's border blends over a pixel
    assert np.abs(one[:, :, :8, :8] - two[:, :, :8, :8]).max() > 1e-3


def test_a_crop_of_the_whole_image_equals_the_only_window():
    network, image = hrda(crop=[64, 64]), paddle.randn([1, 3, 64, 64])
    for one, two in zip(network.logits(image, Box(0, 64, 0, 64)).values(), network.logits(image).values()):
        np.testing.assert_allclose(one.numpy(), two.numpy(), atol=1e-5)


def test_windows_cover_the_image_and_overlap_by_half():
    assert spans(144, 64) == [(0, 64), (32, 96), (64, 128), (80, 144)]
    assert spans(48, 64) == [(0, 48)] and spans(64, 64) == [(0, 64)]
    seen = np.zeros([100, 70], int)
    for box in windows([100, 70], [64, 32]):
        seen[box.top : box.bottom, box.left : box.right] += 1
    assert seen.min() >= 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(64, 64), (70, 90), (101, 131)])
@pytest.mark.parametrize("name", ["daformer", "deeplabv2", "v3plus"])
def test_every_place_of_the_grid_has_a_window_whatever_the_sizes(name, size):
    network = hrda(name, crop=[37, 42])
    network.eval()
    assert np.isfinite(network(paddle.randn([1, 3, *size]))["main"].numpy()).all()


def test_windows_in_parts_equal_all_at_once():
    network, image = hrda(), paddle.randn([2, 3, 64, 96])
    network.eval()
    together = network.logits(image)["main"].numpy()
    network.detail_batch = 2
    np.testing.assert_allclose(network.logits(image)["main"].numpy(), together, atol=1e-5)


def test_every_pass_of_a_step_draws_a_crop_of_its_own_as_a_function_of_seed_and_step():
    network = hrda()

    def boxes(seed, step):
        return [Choices(seed).box(network, [128, 160], Clock(step, 10), name) for name in PASSES]

    assert boxes(3, 5) == boxes(3, 5)
    assert len({*boxes(3, 5), *boxes(3, 6), *boxes(4, 5)}) > 8
    for box in boxes(3, 5):
        assert box.size == (32, 32) and box.top % 8 == box.left % 8 == 0
        assert box.bottom <= 128 and box.right <= 160


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_hrda_and_each_loss_reaches_only_its_player(name):
    norm = {"network": {"name": "small_v3plus", "width": 8, "norm": "batch"}} if name == "bn_adapt" else {}
    compare = {"compare": "all"} if name == "self_training" else {}
    make = lambda *_: hrda(**norm, **compare)  # noqa: E731
    method = build_method(Component(name, METHODS[name]), make(), CLASSES, make)
    for part in method.parts():
        part.loaded()
        for parameter in part.fixed.parameters() if hasattr(part, "fixed") else ():
            parameter.set_value(parameter * 1.1)
    assert_players(method.train())


def test_terms_of_the_detail_see_label_and_weight_of_the_crop():
    method = build_method(Component("source_only", {"seg_weights": LEVELS}), hrda(), CLASSES)
    whole = batch()
    box = method.crop(whole.source_image, Clock(0, 10), "source")["box"]
    label = paddle.full_like(whole.source_label, 255)
    label[:, box.top : box.bottom, box.left : box.right] = 1
    (terms,) = losses(method, whole._replace(source_label=label) if hasattr(whole, "_replace") else
                      type(whole)(whole.source_image, label, whole.target_image))  # fmt: skip
    counts = {name: int(term.pixels) for name, term in terms.items()}
    assert counts == {"seg_main": 2048, "seg_context": 2048, "seg_detail": 2048}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"network": {"name": "hrda"}}, "cannot wrap itself"),
        ({"network": {"name": "small"}}, "one head, not main, aux"),
        ({"crop": [16, 16]}, "at least 32"),
        ({"compare": "detail"}, "model.compare"),
        ({"network": {"name": "smal"}}, "smal"),
    ],
)
def test_a_wrong_network_is_refused_by_name(model, words):
    with pytest.raises(ConfigError, match=words):
        hrda(**model)


def test_images_of_which_half_is_too_small_are_refused():
    with pytest.raises(ConfigError, match="sides of 64 or more: this one is 96x48"):
        hrda()(paddle.randn([1, 3, 48, 96]))


def test_losses_on_whole_images_refuse_the_detail():
    for name in ("output_adversarial", "target_prior"):
        params = {**METHODS[name], "weights": {"detail": 1.0}}
        with pytest.raises(ConfigError, match="needs whole images, but 'detail' covers a crop"):
            build_method(Component(name, params), hrda(), CLASSES)


NOW = ("method.ramp.start=1", "model.compare=all", "method.pseudo_labels.threshold=0.0527",
       "method.feature_distance={things: [road, sky], min_ratio: 0.2}", "run.keep=9")  # fmt: skip

# Steps of adamw are signs at first, features hardly move in three steps, and each process draws its own dropout.
STILL = ("optim.segmenter={name: sgd, lr: 1.0e-4, momentum: 0.9, weight_decay: 5.0e-4}", "method.feature_distance=null",
         "model.network.backbone.drop_path=0", "model.network.head.dropout=0")  # fmt: skip


def for_hrda(values):
    """The overrides of tiny(), whose images are too small and whose model has a width."""
    sizes = [f"data.{domain}.size=[128, 64]" for domain in ("source", "target", "validation")]
    return [*(value for value in values if not value.startswith("model.width")), *sizes, "model.crop=[64, 32]"]


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(toy_root, tmp_path, interrupted):  # noqa: F811
    values = [*for_hrda(tiny_overrides(toy_root, tmp_path / "run")), *NOW]
    config = load_config(ROOT / "configs/toy/mic_hrda.yml", values)
    fit(override(config, f"run.output={tmp_path / 'straight'}"))
    interrupted(config, at=5)
    assert fit(config, resume="latest").step == 6
    assert_same_run(tmp_path / "straight", tmp_path / "run", 6)


def test_two_processes_with_one_image_equal_one_process_with_two_and_resume_bit_for_bit(toy_root, tmp_path):
    path, more = f"{ROOT}/configs/toy/mic_hrda.yml", [*NOW, "method.ramp.start=0", *STILL]
    two = for_hrda(settings(toy_root, tmp_path / "two", 1, *more))
    parts = for_hrda(settings(toy_root, tmp_path / "parts", 1, *more))
    tasks = [
        ["train", {"config": path, "overrides": two}],
        ["train", {"config": path, "overrides": [*parts, "schedule.stop=1"]}],
        ["train", {"config": path, "overrides": parts, "resume": "latest"}],
    ]
    assert run_tasks(tmp_path, tasks) == [["3", "3"], ["1", "1"], ["3", "3"]]
    straight, resumed = (load_state(state_path(tmp_path / name, 3)).arrays for name in ("two", "parts"))
    assert straight.keys() == resumed.keys()
    for key, array in straight.items():
        np.testing.assert_array_equal(resumed[key], array, err_msg=key)
    fit(load_config(path, for_hrda(settings(toy_root, tmp_path / "one", 2, *more))))
    for step in (1, 3):
        one, other = (load_state(state_path(tmp_path / name, step)).arrays for name in ("one", "two"))
        assert one.keys() == other.keys()
        for key, array in one.items():
            apart = np.linalg.norm((other[key] - array).ravel())  # rounding grows through a deep network's gradients
            assert apart <= CLOSE + 1e-3 * np.linalg.norm(array.ravel()), f"step {step}: {key}"


def test_weights_of_a_plain_network_start_the_wrapped_one(tmp_path):
    plain = build_model(Component.from_plain(NETWORKS["daformer"], "model"), 19)
    save_weights(tmp_path / "plain.pdparams", arrays_of(plain), "")
    model = [f"model={{name: hrda, network: {json.dumps(NETWORKS['daformer'])}, attention_width: 16}}"]
    config = load_config(ROOT / "configs/toy/mic_hrda.yml", model)
    network = build_model(config.model, 19)
    before = network.attention.conv_seg.weight.numpy()
    assert "initialised anew" not in fill_segmenter(network, str(tmp_path / "plain.pdparams"), config)
    for name, tensor in network.network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), plain.state_dict()[name].numpy())
    np.testing.assert_array_equal(network.attention.conv_seg.weight.numpy(), before)
    save_weights(tmp_path / "whole.pdparams", arrays_of(network), "")
    assert "initialised anew" not in fill_segmenter(network, str(tmp_path / "whole.pdparams"), config)


@pytest.mark.parametrize("name", ["hrda_train", "hrda_dlv2_train"])
def test_weights_of_the_originals_are_known_and_cover_the_network(name):
    path = ROOT / "tests/parity_selftraining/forward_selftraining.json"
    part = json.loads(path.read_text())["networks"][name]
    arrays = {name: np.zeros(shape, np.float32) for name, shape in part["tensors"].items()}
    assert identify(arrays) == "mmseg_hrda"
    found = coverage(build_model(component(part["model"]), 19), translate(arrays, "mmseg_hrda"))
    assert not (found.missing or found.unused or found.reshaped)


@pytest.mark.parametrize(("form", "window"), [("paddle", "[96, 64]"), ("onnx", "[96, 64]"), ("paddle", "null")])
def test_an_exported_program_labels_as_hrda_does(toy_root, tmp_path, form, window):
    if form == "onnx":
        pytest.importorskip("paddle2onnx", reason="the extra 'deploy' is not installed")
    values = for_hrda(tiny_overrides(toy_root, tmp_path / "run"))
    config = load_config(ROOT / "configs/toy/mic_hrda.yml", [*values, f"eval.window={window}"])
    network, rng = build_model(config.model, 19), np.random.default_rng(1)
    arrays = arrays_of(network)
    for name in [n for n in arrays if n.endswith("conv_seg.weight")]:
        arrays[name] = rng.normal(0, 1.0, arrays[name].shape).astype(np.float32)
    save_weights(tmp_path / "w.pdparams", arrays, dump(config))
    assert export_model(tmp_path / "w.pdparams", tmp_path / "out", form).agreement >= 0.999
    runner, image = open_runner(tmp_path / "out"), np.full((70, 150, 3), 90, np.uint8)
    assert runner.labels(image).shape == (70, 150)
    assert read_contract(tmp_path / "out").window == (None if window == "null" else [64, 96])

"""Networks of PaddleSeg are adapted, resumed, evaluated, predicted with, exported, and given back to PaddleSeg."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import paddle
import pages
import pytest
from conftest import ROOT, tiny_overrides

from paddle_adaptseg.config.loading import dump, load_config, override, to_plain
from paddle_adaptseg.config.schema import Component
from paddle_adaptseg.config.yamltree import write_tree
from paddle_adaptseg.core.errors import CheckpointError, ConfigError
from paddle_adaptseg.deploy.export import export_model
from paddle_adaptseg.deploy.paddleseg import export_paddleseg
from paddle_adaptseg.deploy.runners import open_runner
from paddle_adaptseg.evaluation.measure import evaluate
from paddle_adaptseg.evaluation.predictor import Predictor
from paddle_adaptseg.methods import build_method
from paddle_adaptseg.models import build_model
from paddle_adaptseg.training.checkpoint import load_state, state_path
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.weights import arrays_of, save_weights
from paddle_adaptseg.weights.load import convert_weights, fill_segmenter, load_model

pytest.importorskip("paddleseg", reason="PaddleSeg is not installed (docs/paddleseg.md)")

MOBILE = {"type": "MobileSeg_Tiny", "inj_type": "AAM", "out_feat_chs": [32, 64, 128]}
NETWORKS = {
    "SegFormer-B0": {"type": "SegFormer", "backbone": {"type": "MixVisionTransformer_B0"}, "embedding_dim": 32},
    "PP-LiteSeg": {"type": "PPLiteSeg", "backbone": {"type": "STDC1"}, "cm_out_ch": 16,
                   "arm_out_chs": [8, 8, 16], "seg_head_inter_chs": [8, 8, 8]},
    "DeepLabV3+": {"type": "DeepLabV3P", "backbone": {"type": "MobileNetV2_x0_25"}, "backbone_indices": [0, 3]},
    "PP-MobileSeg": {"type": "PPMobileSeg", "backbone": MOBILE},
    "OCRNet": {"type": "OCRNet", "backbone": {"type": "HRNet_W18_Small_V1"}, "backbone_indices": [0],
               "ocr_mid_channels": 32, "ocr_key_channels": 16},
}  # fmt: skip
LEVELS = {"PP-LiteSeg": ("main", "aux", "aux2"), "OCRNet": ("main", "aux")}


def network(name: str, classes: int = 5, **more):
    return build_model(Component("paddleseg", {**NETWORKS[name], **more}), classes)


@pytest.fixture
def small(toy_root, tmp_path):
    """A small configuration with a network of PaddleSeg: small("toy/source_only", "OCRNet", ...overrides)."""

    def build(base: str, name: str, *overrides: str, **model):
        plain = to_plain(load_config(ROOT / f"configs/{base}.yml"))
        plain["model"] = {"name": "paddleseg", **NETWORKS[name], **model}
        for key in {"weights", "seg_weights"} & set(plain["method"]):  # of levels that the network has
            levels = LEVELS.get(name, ("main",))
            plain["method"][key] = {k: v for k, v in plain["method"][key].items() if k in levels}
        (tmp_path / "mine.yml").write_text(write_tree(plain))
        sizes = [text for text in tiny_overrides(toy_root, tmp_path / "run") if not text.startswith("model.")]
        return load_config(tmp_path / "mine.yml", [*sizes, "schedule.stop=2", *overrides])

    return build


def arrays(run, step):
    return load_state(state_path(run, step)).arrays


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_become_levels_at_image_size_and_every_level_learns(name):
    model = network(name)
    assert model.levels == LEVELS.get(name, ("main",))
    model.train()
    logits = model(paddle.randn([2, 3, 64, 96]))
    assert tuple(logits) == model.levels and all(x.shape == [2, 5, 64, 96] for x in logits.values())
    sum(x.sin().mean() for x in logits.values()).backward()
    assert not [n for n, p in model.named_parameters() if not p.stop_gradient and p.grad is None]
    model.eval()
    assert "main" in model(paddle.randn([1, 3, 64, 96]), size=(32, 48))


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_paddleseg_whether_or_not_features_are_looked_at(name):
    model, image = network(name), paddle.randn([1, 3, 64, 96])
    model.eval()
    with paddle.no_grad():
        plain, features = model.net(image)[0].numpy(), model.features(image)
        apart, together = model.classify(features)["main"].numpy(), model.logits(image)["main"].numpy()
    np.testing.assert_array_equal(apart, together)
    np.testing.assert_allclose(plain, together, 1e-5, 1e-6)
    assert features["main"].shape[1] == model.feature_channels > 0
    assert "forward" not in vars(model.net.backbone)


@pytest.mark.parametrize("name", NETWORKS)
def test_two_networks_stand_side_by_side_and_learn_in_groups(name):
    model, other = network(name, head_rate=4.0, norm_decay=0.0), network(name)
    assert set(model.state_dict()) == set(other.state_dict())
    groups = {group.name: group for group in model.groups()}
    assert set(groups) == {"backbone", "backbone_norms", "heads", "heads_norms"}
    assert (groups["heads"].lr_factor, groups["backbone"].lr_factor, groups["heads_norms"].decay) == (4.0, 1.0, 0.0)
    listed = [id(p) for group in groups.values() for p in group.parameters]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if not p.stop_gradient)


def test_norm_policies_hold_in_training():
    model, image = network("PP-MobileSeg", norm="frozen"), paddle.randn([2, 3, 64, 64])
    before = {k: v.numpy() for k, v in model.state_dict().items() if k.endswith(("_mean", "_variance"))}
    model.train()
    model(image)
    assert before and all(np.array_equal(v, model.state_dict()[k].numpy()) for k, v in before.items())
    assert not [n for n, p in model.named_parameters() if "bn" in n.split(".")[-2] and not p.stop_gradient]
    with pytest.raises(ConfigError, match="unknown model.norm 'group'"):
        network("PP-MobileSeg", norm="group")


@pytest.mark.parametrize(("change", "message"), [
    ({"type": "SegFromer"}, "unknown model.type 'SegFromer': did you mean 'SegFormer'"),
    ({"backbone": {"type": "MixVisionTransformer_B9"}}, "unknown model.backbone.type 'MixVisionTransformer_B9'"),
    ({"embeding_dim": 8}, "unknown key 'model.embeding_dim': did you mean 'embedding_dim'"),
    ({"backbone": {"type": "MixVisionTransformer_B0", "depth": 3}}, "PaddleSeg cannot build .*'depth'"),
    ({"backbone": {"type": "MixVisionTransformer_B0", "pretrained": "https://x/y"}}, "name it in run.restore_from"),
    ({"num_classes": 5}, "follows from data.classes"),
])  # fmt: skip
def test_a_network_that_paddleseg_cannot_build_is_one_line_that_says_why(change, message):
    with pytest.raises(ConfigError, match=message):
        network("SegFormer-B0", **change)


def test_a_network_that_fails_when_paddleseg_computes_it_is_one_line_that_says_why(monkeypatch):
    def broken(self, image):
        raise TypeError("(InvalidType) x: float32,\n y: int64")

    monkeypatch.setattr("paddleseg.models.SegFormer.forward", broken)
    with pytest.raises(ConfigError, match=r"'SegFormer' fails on Paddle .*InvalidType\) x: float32, y: int64"):
        network("SegFormer-B0")


def test_what_needs_features_or_a_head_refuses_a_network_that_has_none():
    plain = build_model(Component("paddleseg", {"type": "ENet"}), 5)
    weights = {"weights": {"main": 0.1}, "seg_weights": {"main": 1.0}}
    with pytest.raises(ConfigError, match="feature_adversarial needs features"):
        build_method(Component("feature_adversarial", weights), plain, 5)
    inner = {"name": "paddleseg", **NETWORKS["SegFormer-B0"]}
    with pytest.raises(ConfigError, match="hrda cannot wrap a network of PaddleSeg"):
        build_model(Component("hrda", {"network": inner}), 5)


@pytest.mark.parametrize(("base", "name", "more"), [
    ("toy/source_only", "SegFormer-B0", []),
    ("toy/adaptsegnet_multi", "PP-LiteSeg", []),
    ("toy/minent", "DeepLabV3+", []),
    ("toy/self_training_masked", "DeepLabV3+", []),
    ("toy/feature_adversarial", "PP-MobileSeg", []),
    ("toy/adaptsegnet_multi", "OCRNet", []),
    ("toy/source_free", "OCRNet", ["run.restore_from={start}", "data.source=null"]),
])  # fmt: skip
def test_methods_train_a_network_of_paddleseg_and_evaluation_repeats_what_training_scored(
    base, name, more, small, weights, tmp_path
):
    start = weights(name) if more else ""
    result = fit(small(base, name, "run.eval_every=2", *(text.format(start=start) for text in more)))
    assert result.step == 2
    assert 100 * evaluate(tmp_path / "run")[0].miou() == pytest.approx(result.miou)


def test_feature_distance_and_resuming_are_exact(small, tmp_path):
    things = "method.feature_distance={things: [person, car], weight: 0.1}"
    config = small("toy/self_training", "SegFormer-B0", things, "run.eval_every=0", "schedule.stop=4")
    fit(override(config, f"run.output={tmp_path / 'straight'}"))
    fit(override(config, "schedule.stop=2"))
    fit(config, resume="latest")
    expected, found = arrays(tmp_path / "straight", 4), arrays(tmp_path / "run", 4)
    assert set(expected) == set(found) and all(np.array_equal(expected[k], found[k]) for k in expected)


def test_a_network_of_paddleseg_is_distilled_into_another(small, weights, tmp_path):
    teacher = weights("SegFormer-B0")
    config = small("toy/distil", "DeepLabV3+", f"method.teacher_weights={teacher}", "run.eval_every=2")
    result = fit(config)
    assert result.step == 2
    assert 100 * evaluate(tmp_path / "run")[0].miou() == pytest.approx(result.miou)


def save_as_paddleseg(net, path):
    """A .pdparams as PaddleSeg's training writes it."""
    paddle.save(net.state_dict(), str(path))
    return path


YAML = """
_base_: base.yml
model:
  embedding_dim: 32
  backbone: {pretrained: "https://example.org/mix_vision_transformer_b0.tar.gz"}
"""
BASE = """
batch_size: 1
iters: 10
model:
  type: SegFormer
  num_classes: 150
  embedding_dim: 256
  backbone: {type: MixVisionTransformer_B0}
val_dataset:
  type: Dataset
  transforms: [{type: Normalize, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}]
"""


@pytest.fixture
def theirs(tmp_path):
    """A configuration of PaddleSeg with a base file."""
    (tmp_path / "base.yml").write_text(BASE)
    (tmp_path / "theirs.yml").write_text(YAML)
    return tmp_path / "theirs.yml"


def test_a_configuration_of_paddleseg_says_network_and_pixels_and_is_not_needed_afterwards(theirs, toy_root, capsys):
    mine = theirs.with_name("mine.yml")
    plain = to_plain(load_config(ROOT / "configs/toy/source_only.yml"))
    plain["model"] = {"name": "paddleseg", "config": str(theirs), "head_rate": 5.0}
    del plain["data"]["pixels"]
    mine.write_text(write_tree(plain))
    config = load_config(mine)
    assert config.model.params == {
        "type": "SegFormer", "embedding_dim": 32, "backbone": {"type": "MixVisionTransformer_B0"}, "head_rate": 5.0,
    }  # fmt: skip
    assert config.data.pixels.order == "rgb"
    np.testing.assert_allclose(config.data.pixels.mean, [123.675, 116.28, 103.53])
    np.testing.assert_allclose(config.data.pixels.std, [58.395, 57.12, 57.375])
    assert "mix_vision_transformer_b0.tar.gz, which is not downloaded" in capsys.readouterr().err
    assert load_config(mine, ["model.embedding_dim=8", "data.pixels.order=bgr"]).model.params["embedding_dim"] == 8
    with pytest.raises(ConfigError, match="'absent.yml' does not exist"):
        load_config(mine, ["model.config=absent.yml"])
    base = theirs.with_name("base.yml")
    base.write_text(BASE.replace("[0.485, 0.456, 0.406]", "[0.5]").replace("[0.229, 0.224, 0.225]", "[0.25]"))
    grey = load_config(mine).data.pixels  # one number is that of all channels
    assert (grey.mean, grey.std) == ((127.5,) * 3, (63.75,) * 3)
    theirs.write_text("_base_: [theirs.yml, theirs.yml]\n")
    with pytest.raises(ConfigError, match="more than 64 files; does it lead back to itself"):
        load_config(mine)
    theirs.write_text("iters: 3\n")
    with pytest.raises(ConfigError, match="has no 'model' with a 'type'"):
        load_config(mine)


def test_weights_of_paddleseg_load_whole_and_weights_of_its_backbone_leave_the_heads(small, tmp_path):
    config, trained = small("toy/source_only", "OCRNet"), network("OCRNet", 19)
    for part, changed in (("net", set()), ("net.backbone", {"head"})):
        model, layer = network("OCRNet", 19), trained.net if part == "net" else trained.net.backbone
        path = save_as_paddleseg(layer, tmp_path / f"{part}.pdparams")
        line = fill_segmenter(model, str(path), config)
        own, expected = model.state_dict(), trained.state_dict()
        differ = {n.split(".")[1] for n in own if not np.array_equal(own[n].numpy(), expected[n].numpy())}
        assert differ == changed and "of PaddleSeg" in line


@pytest.mark.parametrize("name", ["SegFormer-B0", "PP-LiteSeg"])
def test_weights_of_paddleseg_are_converted_for_the_configured_network(name, small, tmp_path):
    trained, config = network(name, 19), small("toy/source_only", name)
    path = save_as_paddleseg(trained.net, tmp_path / "theirs.pdparams")
    lines = convert_weights(path, tmp_path / "ours.pdparams", config)
    assert "a network of PaddleSeg" in lines[0]
    own, expected = load_model(tmp_path / "ours.pdparams")[0].state_dict(), trained.state_dict()
    assert all(np.array_equal(own[key].numpy(), expected[key].numpy()) for key in expected)


def test_a_run_with_a_network_of_paddleseg_is_a_start_and_is_loaded_by_its_own_configuration(small, tmp_path):
    fit(small("toy/source_only", "DeepLabV3+", "run.eval_every=0", "schedule.stop=1", "run.save_every=1"))
    model, config = load_model(tmp_path / "run@latest")
    again = network("DeepLabV3+", 19)
    fill_segmenter(again, f"{tmp_path / 'run'}@latest", config)
    own, expected = again.state_dict(), model.state_dict()
    assert all(np.array_equal(own[name].numpy(), expected[name].numpy()) for name in expected)


def test_our_segformer_and_paddlesegs_give_equal_logits_from_the_same_weights(small, tmp_path):
    trained, image = network("SegFormer-B0", 19), paddle.randn([2, 3, 64, 96])
    for layer in trained.sublayers():
        if hasattr(layer, "_variance"):
            layer._mean.set_value(paddle.randn(layer._mean.shape))
            layer._variance.set_value(paddle.rand(layer._variance.shape) + 0.5)
    path = save_as_paddleseg(trained.net, tmp_path / "segformer.pdparams")
    model = {"backbone": {"name": "mit_b0"}, "head": {"name": "segformer", "embed_dim": 32}}
    ours = build_model(Component("encode_decode", model), 19)
    config = dataclasses.replace(small("toy/source_only", "SegFormer-B0"), model=Component("encode_decode", model))
    fill_segmenter(ours, str(path), config)
    ours.eval()
    trained.eval()
    with paddle.no_grad():
        expected, found = trained(image)["main"].numpy(), ours(image)["main"].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def spread_out(model, classes: int = 19):
    """Give a network statistics of images and logits that are far apart, as a trained network's are."""
    norms = [layer for layer in model.sublayers() if hasattr(layer, "_variance")]
    momenta = [norm._momentum for norm in norms]
    for norm in norms:
        norm._momentum = 0.0  # the statistics of one batch are kept whole
    model.train()
    with paddle.no_grad():
        model(paddle.nn.functional.interpolate(paddle.randn([2, 3, 12, 24]), [96, 192], mode="bilinear"))
        for parameter in model.parameters():
            if parameter.shape[0] == classes:
                parameter.set_value(paddle.randn(parameter.shape) * (parameter.ndim > 1))
    for norm, momentum in zip(norms, momenta):
        norm._momentum = momentum
    model.eval()
    return model


@pytest.fixture
def weights(small, tmp_path):
    """Weights with their configuration, of a network whose labels differ from pixel to pixel: weights("OCRNet")."""

    def make(name: str, *overrides: str):
        paddle.seed(1)
        config, model = small("toy/source_only", name, *overrides), spread_out(network(name, 19))
        save_weights(tmp_path / "w.pdparams", arrays_of(model), dump(config))
        return tmp_path / "w.pdparams"

    return make


@pytest.mark.parametrize("name", ["SegFormer-B0", "PP-LiteSeg", "PP-MobileSeg"])
def test_an_exported_network_of_paddleseg_labels_as_the_network_does(name, weights, tmp_path):
    made = export_model(weights(name), tmp_path / "exported")
    assert made.agreement is not None and made.good("fp32"), made.lines


@pytest.mark.parametrize("name", ["PP-LiteSeg", "DeepLabV3+"])
def test_an_onnx_program_of_a_network_of_paddleseg_labels_as_the_network_does(name, weights, tmp_path):
    pytest.importorskip("paddle2onnx", reason="the extra 'deploy' is not installed")
    made = export_model(weights(name), tmp_path / "exported", "onnx")
    assert made.agreement is not None and made.good("fp32"), made.lines


class Mended:
    """Paddle as PaddleSeg 2.8.0's metrics expect it: the sums that they concatenate were vectors before Paddle 2.6."""

    def __getattr__(self, name):
        return getattr(paddle, name)

    def concat(self, parts):
        return paddle.stack(parts)


def test_images_are_predicted_with_a_network_of_paddleseg(weights, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (48, 96, 3)).astype(np.uint8)
    path = weights("PP-MobileSeg")
    labels = open_runner(path).labels(image)
    model, config = load_model(path)
    assert labels.shape == (48, 96) and len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, Predictor(model, config.data.pixels, size=(48, 96)).labels(image))


def paddleseg_scores(folder, monkeypatch):
    """IoU by class and the mean as PaddleSeg's own evaluation gives them for an exported folder."""
    monkeypatch.setattr("paddleseg.utils.metrics.paddle", Mended())
    from paddleseg.core import evaluate as paddleseg_evaluate
    from paddleseg.cvlibs import Config, SegBuilder
    from paddleseg.utils import utils

    builder = SegBuilder(Config(str(folder / "paddleseg.yml")))
    utils.load_entire_model(builder.model, str(folder / "model.pdparams"))
    miou, _, ious, *_ = paddleseg_evaluate(builder.model, builder.val_dataset, print_detail=False)
    return miou, np.asarray(ious)


@pytest.mark.parametrize("name", ["PP-MobileSeg", "OCRNet"])
def test_what_is_given_back_to_paddleseg_scores_there_as_here(name, weights, tmp_path, monkeypatch, capsys):
    path = weights(name)
    arguments = ["--restore-from", str(path), "--output", str(tmp_path / "back"), "--format", "paddleseg"]
    assert pages.call(monkeypatch, "export", arguments) == 0
    assert "3 validation images with labels as train ids" in capsys.readouterr().out
    written = (tmp_path / "back/paddleseg.yml").read_text()
    assert (
        written.count("mean: [0.470588235, 0.470588235, 0.470588235]") == 2
        and "&" not in written
        and "*" not in written
    )
    matrix, _ = evaluate(path)
    assert (matrix.counts.sum(axis=0) > 0).sum() > 3  # it predicts several classes
    ours, (miou, theirs) = matrix.iou(), paddleseg_scores(tmp_path / "back", monkeypatch)
    there = ~np.isnan(ours)
    np.testing.assert_allclose(theirs[there], ours[there], atol=2e-4)
    assert np.mean(theirs[there]) == pytest.approx(matrix.miou(), abs=1e-4) and there.sum() > 5
    assert miou == pytest.approx(np.mean(theirs))


def test_only_networks_of_paddleseg_on_rgb_are_given_back(weights, tiny, tmp_path):
    fit(tiny("toy/source_only", "schedule.stop=1", "run.eval_every=0", "run.save_every=1"))
    with pytest.raises(CheckpointError, match="'small' is no network of PaddleSeg"):
        export_paddleseg(f"{tmp_path / 'run'}@latest", tmp_path / "back")
    with pytest.raises(CheckpointError, match="PaddleSeg feeds RGB"):
        export_paddleseg(weights("PP-MobileSeg", "data.pixels.order=bgr"), tmp_path / "back")


@pytest.mark.parametrize("page", ["docs/paddleseg.md", "docs/zh/paddleseg.md"])
def test_the_commands_of_the_page_work_in_their_order(page, toy_root, tmp_path, monkeypatch, capsys):
    english, path = ROOT / "docs/paddleseg.md", ROOT / page
    blocks = dict(block.lstrip("# ").split("\n", 1) for kind, block in pages.fences(path.read_text("utf-8"))
                  if kind == "yaml" and block.startswith("# "))  # fmt: skip
    commands = [command for command in pages.commands(path) if not command.startswith("make ")]
    assert commands == [command for command in pages.commands(english) if not command.startswith("make ")]
    assert len(commands) == 5 and set(blocks) == {"segformer_b0.yml", "adapt.yml"}
    for name, text in blocks.items():
        assert f"# {name}\n{text}" in english.read_text("utf-8")
        (tmp_path / name).write_text(text)
    if path != english:
        return  # the same commands on the same files
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/toy").symlink_to(toy_root)
    monkeypatch.chdir(tmp_path)
    save_as_paddleseg(network("SegFormer-B0", 19, embedding_dim=256).net, tmp_path / "segformer_b0.pdparams")
    sizes = [text for text in tiny_overrides(toy_root, tmp_path) if not text.startswith(("model.", "run.output"))]
    for command in commands:
        words = pages.words_of(command)
        if words[0] == "pip":
            pages.check(command, tmp_path, monkeypatch, capsys)
            continue
        more = [*sizes, "schedule.stop=1", "run.save_every=1", "run.eval_every=1"] if "train" in words[1] else []
        assert pages.call(monkeypatch, Path(words[1]).stem, words[2:], *more) in (0, None), command
    said = capsys.readouterr()
    assert "a network of PaddleSeg" in said.out and (tmp_path / "back/paddleseg.yml").is_file()
    assert "note:" not in said.err

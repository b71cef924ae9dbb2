"""Transformers as programs: exported to Paddle Inference and ONNX, and evaluated through oneDNN, they label alike."""

from __future__ import annotations

import itertools
import json

import numpy as np
import paddle
import pytest
from conftest import ROOT, tiny_overrides
from forked import tool
from PIL import Image

from paddle_adaptseg.config.loading import dump, load_config
from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.deploy.contract import read_contract
from paddle_adaptseg.deploy.export import export_model
from paddle_adaptseg.deploy.quantise import calibration_images
from paddle_adaptseg.deploy.runners import open_runner
from paddle_adaptseg.evaluation import InferenceOptions, Request, evaluate_request
from paddle_adaptseg.models import build_model
from paddle_adaptseg.weights import arrays_of, save_weights
from paddle_adaptseg.weights.load import load_model

HEADS = {
    "segformer": {"name": "segformer", "embed_dim": 32},
    "daformer": {"name": "daformer", "channels": 32, "embed_dims": 16, "dilations": [1, 3, 6]},
    "conv": {"name": "daformer", "channels": 32, "embed_dims": 16, "fusion": "conv"},
    "isa": {"name": "daformer", "channels": 32, "embed_dims": 16, "fusion": "isa"},
}


@pytest.fixture(scope="module")
def saved(toy_root, tmp_path_factory):
    """saved(head) -> weights of a small Mix Transformer under it, whose logits are far apart as a trained one's are."""
    folder = tmp_path_factory.mktemp("transformers")

    def write(head):
        path = folder / f"{head}.pdparams"
        if path.is_file():
            return path
        given = [text for text in tiny_overrides(toy_root, folder / "run") if not text.startswith("model.")]
        config = load_config(
            ROOT / "configs/toy/source_only_daformer.yml", [*given, f"model.head={json.dumps(HEADS[head])}"]
        )
        paddle.seed(1)
        with runtime.fresh_names():
            model = build_model(config.model, 19)
        rng, arrays = np.random.default_rng(0), arrays_of(model)
        for name in [n for n in arrays if n.startswith("heads.main") and n.endswith("weight")]:
            spread = 1.0 / np.sqrt(np.prod(arrays[name].shape[1:])) if arrays[name].ndim == 4 else 0.3
            arrays[name] = rng.normal(0, spread, arrays[name].shape).astype(np.float32)
        save_weights(path, arrays, dump(config), {})
        return path

    return write


# Every head in both forms and with fixed and any sizes, and every form with both: the other products say nothing new.
QUICK = {("segformer", "paddle", True), ("segformer", "onnx", False), ("daformer", "paddle", False),
         ("daformer", "onnx", True), ("conv", "paddle", True), ("conv", "onnx", False),
         *(("isa", form, dynamic) for form in ("paddle", "onnx") for dynamic in (False, True))}  # fmt: skip
EXPORTS = [
    pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
    for case in itertools.product(HEADS, ("paddle", "onnx"), (False, True))
]


@pytest.mark.parametrize(("head", "form", "dynamic"), EXPORTS)
def test_an_exported_transformer_labels_as_the_network_does(saved, tmp_path, head, form, dynamic):
    if form == "onnx":
        pytest.importorskip("paddle2onnx", reason="the extra 'deploy' is not installed")
    if head == "isa" and dynamic:
        with pytest.raises(ConfigError, match="exported for one size"):
            export_model(saved(head), tmp_path / "out", form, dynamic=True)
        return
    made = export_model(saved(head), tmp_path / "out", form, dynamic=dynamic)
    assert made.agreement >= 0.999
    assert read_contract(tmp_path / "out").size == (None if dynamic else [48, 96])


def test_a_transformer_in_int8_is_smaller_and_labels_nearly_as_the_network_does(saved, toy_root, tmp_path):
    pytest.importorskip("paddle2onnx", reason="the extra 'deploy' is not installed")
    made = {name: export_model(saved("daformer"), tmp_path / name, "onnx", precision=name) for name in ("fp32", "int8")}
    assert 0.93 <= made["int8"].agreement < 1.0  # of weights drawn at random; trained ones agree on more
    sizes = {name: (tmp_path / name / "model.onnx").stat().st_size for name in made}
    assert sizes["int8"] < 0.6 * sizes["fp32"]
    image = np.asarray(Image.open(next((toy_root / "Cityscapes").rglob("*leftImg8bit.png"))))
    one, other = (open_runner(tmp_path / name) for name in made)
    assert other.title == "onnx program, int8"
    assert (one.labels(image) == other.labels(image)).mean() > 0.9


def test_int8_is_of_layers_and_calibrated_on_the_target_that_training_reads(saved, tmp_path):
    onnx = pytest.importorskip("onnx", reason="the extra 'deploy' is not installed")
    pytest.importorskip("paddle2onnx", reason="the extra 'deploy' is not installed")
    plain, int8 = (tmp_path / name / "model.onnx" for name in ("fp32", "int8"))
    for path in (plain, int8):
        export_model(saved("segformer"), path.parent, "onnx", precision=path.parent.name)
    kinds = [node.op_type for node in onnx.load(str(plain)).graph.node]
    left = [node.op_type for node in onnx.load(str(int8)).graph.node]
    assert 0 < left.count("MatMul") < kinds.count("MatMul"), "attention and resizes stay, linear layers do not"
    assert left.count("MatMulInteger") == kinds.count("MatMul") - left.count("MatMul")
    config = load_model(saved("segformer"))[1]
    name, images = calibration_images(config, [40, 56])
    assert name == "training images of the target"
    files = DomainFiles(config.data.target, label_space(config), labelled=False)
    assert len(images) == min(len(files), 8) and {image.shape for image in images} == {(40, 56, 3)}
    np.testing.assert_array_equal(calibration_images(config, [48, 96])[1][0], files.image(0))


@pytest.mark.parametrize("head", ["segformer", "daformer"])
def test_a_transformer_is_evaluated_through_onednn_as_it_is_eagerly(saved, tmp_path, head, capsys):
    labels = {}
    for backend in ("eager", "onednn"):
        options = InferenceOptions(backend=backend)
        evaluate_request(Request((str(saved(head)),), save=str(tmp_path / backend), options=options), lambda line: None)
        names = sorted(p for p in (tmp_path / backend).glob("*.png") if not p.stem.endswith("_color"))
        labels[backend] = np.stack([np.asarray(Image.open(path)) for path in names])
    assert len(np.unique(labels["eager"])) > 3
    assert (labels["eager"] == labels["onednn"]).mean() >= 0.999


def test_the_tools_export_predict_and_evaluate_a_transformer(saved, toy_root, tmp_path):
    image = next((toy_root / "Cityscapes").rglob("*leftImg8bit.png"))
    done = tool("export", "--restore-from", saved("daformer"), "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for model, folder in ((saved("daformer"), "network"), (tmp_path / "out", "program")):
        done = tool("predict", "--model", model, image, "--output", tmp_path / folder)
        assert done.returncode == 0, done.stderr
    one, other = (np.asarray(Image.open(tmp_path / f / f"{image.stem}.png")) for f in ("network", "program"))
    assert (one == other).mean() >= 0.999
    done = tool(
        "eval", "--restore-from", saved("daformer"), "--backend", "onednn", "--window", "64x48", "--stride", "32x48"
    )
    assert done.returncode == 0 and "window 64x48 every 32x48; onednn fp32" in done.stdout, done.stdout + done.stderr

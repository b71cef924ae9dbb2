"""Exported programs agree with the network, and images and videos come out labelled and under their own names."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import paddle
import pytest
from forked import tool
from PIL import Image
from test_tools import script, trained  # noqa: F401 (a fixture)

import paddle_adaptseg
from paddle_adaptseg.config.loading import dump, override
from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import CheckpointError, ConfigError, DataError
from paddle_adaptseg.core.labels import CITYSCAPES_19
from paddle_adaptseg.data.decode import decode_ids
from paddle_adaptseg.data.files import Ref
from paddle_adaptseg.deploy import runners as notebook
from paddle_adaptseg.deploy.contract import FILE, read_contract
from paddle_adaptseg.deploy.export import ENOUGH, export_model
from paddle_adaptseg.deploy.predict import PRODUCTS, find_media, predict_files
from paddle_adaptseg.deploy.runners import open_runner
from paddle_adaptseg.evaluation.predictor import Predictor, working_size
from paddle_adaptseg.evaluation.visual import legend_figure, overlay
from paddle_adaptseg.models.layers import resize, resize_by_products
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.weights import arrays_of, save_weights
from paddle_adaptseg.weights.load import load_model


@pytest.fixture(scope="module")
def weights(trained, tmp_path_factory):  # noqa: F811
    """Weights whose logits are far apart, as a trained network's are; a run of four steps leaves them nearly equal."""
    model, config = load_model(trained[0])
    arrays = arrays_of(model)
    rng = np.random.default_rng(0)
    for name in [n for n in arrays if n.startswith("heads.main") and n.endswith("weight")]:
        arrays[name] = rng.normal(0, 0.3, arrays[name].shape).astype(np.float32)
    path = tmp_path_factory.mktemp("weights") / "w.pdparams"
    save_weights(path, arrays, dump(config), {"source": "made here"})
    return path


CASES = {
    "paddle": ("paddle", {}),
    "paddle, another size": ("paddle", {"size": [64, 80]}),
    "paddle, any size": ("paddle", {"dynamic": True}),
    "paddle, bf16": ("paddle", {"precision": "bf16"}),
    "onnx": ("onnx", {}),
    "onnx, any size": ("onnx", {"dynamic": True}),
    "onnx, fp16": ("onnx", {"precision": "fp16"}),
    "onnx, int8": ("onnx", {"precision": "int8"}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_exported_program_labels_as_the_network_does(weights, tmp_path, case, monkeypatch):
    form, options = CASES[case]
    if form == "onnx":
        pytest.importorskip("paddle2onnx", reason="the extra 'deploy' is not installed")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made = export_model(weights, tmp_path / "out", form, **options)
    assert not list((tmp_path / "here").iterdir()), "nothing is left in the working folder"
    precision = options.get("precision", "fp32")
    least = {"fp32": 0.999, "int8": 0.93}.get(precision, 0.97)  # of weights drawn at random
    assert made.agreement >= least and made.good(precision) == (made.agreement >= ENOUGH[precision])
    contract = read_contract(tmp_path / "out")
    assert contract.size == (None if options.get("dynamic") else options.get("size", [48, 96]))
    assert contract.recommended == [48, 96] and contract.space().names == CITYSCAPES_19.names
    card = (tmp_path / "out/README.md").read_text()
    for word in ("output_adversarial", "gta5 with labels", "road, sidewalk", "made here", "same label", f"{form}, "):
        assert word in card
    runner, image = open_runner(tmp_path / "out"), np.full((50, 70, 3), 90, np.uint8)
    assert runner.title.startswith(form) and runner.labels(image).shape == (50, 70)


def test_a_program_that_disagrees_is_called_bad(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(Predictor, "labels", lambda self, image: np.full(image.shape[:2], 5, np.uint8))
    assert not export_model(weights, tmp_path).good("fp32")


def test_what_cannot_run_is_refused_before_anything_is_written(weights, tmp_path):
    for options, wrong in [
        ({"form": "onx"}, "did you mean 'onnx'"),
        ({"form": "onnx", "precision": "bf16"}, "have no precision 'bf16'"),
        ({"form": "paddle", "precision": "int8"}, "paddle programs have no precision 'int8'"),
        ({"dynamic": True, "precision": "bf16"}, "needs a fixed size"),
        ({"size": [8, 8]}, "at least 32"),
    ]:
        with pytest.raises((CheckpointError, ConfigError), match=wrong):
            export_model(weights, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_fp16_paddle_programs_are_not_claimed_to_agree_on_a_cpu(weights, tmp_path):
    made = export_model(weights, tmp_path, precision="fp16")
    assert made.agreement is None and "not compared" in made.lines[-1]
    with pytest.raises(ConfigError, match="runs on GPUs only"):
        open_runner(tmp_path)


def test_the_resize_of_programs_equals_the_operator():
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32))
    for size in ([9, 20], [4, 3], [5, 7], [1, 1]):
        with resize_by_products():
            mine = resize(x, size)
        np.testing.assert_allclose(mine.numpy(), resize(x, size).numpy(), atol=1e-5)


def test_images_keep_their_shape_when_it_is_not_the_usual_one():
    assert working_size((1024, 2048, 3), (512, 1024)) == (512, 1024)
    assert working_size((1000, 1000, 3), (512, 1024)) == (728, 728)
    assert working_size((2000, 20, 3), (64, 64))[1] == 8


@pytest.fixture
def inputs(tmp_path):
    """Images in folders, one of them broken, and a video."""
    rng, folder = np.random.default_rng(0), tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.jpg", "deep/a.png"):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no image")
    video = cv2.VideoWriter(str(folder / "drive.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 48))
    for _ in range(4):
        video.write(rng.integers(0, 255, (48, 64, 3), np.uint8))
    video.release()
    return folder


def test_everything_readable_is_labelled_and_the_rest_is_reported(weights, inputs, tmp_path):
    out, runner = tmp_path / "out", open_runner(weights)
    tally = predict_files(runner, [str(inputs), str(tmp_path / "no.png")], out, list(PRODUCTS))
    assert tally.images == 3 + 4 and "2 inputs failed" in tally.line()
    assert "no.png' does not exist" in tally.problems[0] and "broken.jpg" in tally.problems[1]
    endings = ("", "_color", "_overlay", "_side")
    names = {f"{stem}{ending}.png" for stem in ("a", "deep/a", "deep/b") for ending in endings} | {"drive_side.mp4"}
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == names
    labels = decode_ids(Ref(str(out / "deep"), "a.png"))
    with Image.open(inputs / "deep/a.png") as image:
        assert (labels == runner.labels(np.asarray(image))).all() and len(np.unique(labels)) > 1
    capture = cv2.VideoCapture(str(out / "drive_side.mp4"))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FRAME_WIDTH)) == (4, 128)


def test_a_video_can_be_cut_short_and_a_missing_camera_is_an_error(weights, inputs, tmp_path):
    with runtime.quiet():
        tally = predict_files(open_runner(weights), [str(inputs / "drive.mp4"), "97"], tmp_path / "out", [], limit=2)
    assert tally.images == 2 and tally.problems == ["camera 97 cannot be opened"]


@pytest.mark.parametrize("name", ["predict", "export"])
def test_overrides_without_a_configuration_change_the_one_in_the_weights(weights, inputs, tmp_path, name):
    start = {"predict": ("--model", weights, inputs / "a.png"), "export": ("--restore-from", weights)}[name]
    wrong = tool(name, *start, "--output", tmp_path / "no", "-o", "no.such.key=1")
    assert wrong.returncode == 2 and "unknown key 'no'" in wrong.stderr and wrong.stderr.count("\n") == 1
    sized = tool(name, *start, "--output", tmp_path / "out", "-o", "data.validation.size=[64, 32]")
    assert sized.returncode == 0, sized.stderr
    if name == "export":
        assert read_contract(tmp_path / "out").size == [32, 64]


def test_an_exported_program_takes_no_configuration(weights, inputs, tmp_path):
    export_model(weights, tmp_path / "exported")
    done = tool("predict", "--model", tmp_path / "exported", inputs / "a.png", "--output", tmp_path / "out",
                "-o", "data.validation.size=[64, 32]")  # fmt: skip
    assert done.returncode == 2 and "is an exported program" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(paddle.device.is_compiled_with_cuda(), reason="this Paddle may see a GPU")
def test_weights_saved_on_a_gpu_open_where_there_is_none(weights, trained, inputs, tmp_path, capsys):  # noqa: F811
    model, config = load_model(weights)
    saved = tmp_path / "gpu.pdparams"
    save_weights(saved, arrays_of(model), dump(override(config, "run.device=gpu:1")))
    assert load_model(saved)[1].run.device == "auto"
    assert "saved with run.device=gpu:1, which this machine has not" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="run.device is 'gpu:1', but this Paddle sees no GPU"):
        load_model(saved, overrides=["run.device=gpu:1"])
    done = tool("predict", "--model", saved, inputs / "a.png", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    (run / "weights").mkdir(parents=True)
    shutil.copy(saved, run / "weights/step_00000004.pdparams")
    (run / "config.yml").write_text(dump(override(config, "run.device=gpu:1")))
    done = tool("eval", "--restore-from", run, "--domains", "target")
    assert done.returncode == 0, done.stderr


def test_a_model_stays_open_until_its_own_file_changes(weights, trained, tmp_path, monkeypatch):  # noqa: F811
    opened = []
    monkeypatch.setattr(notebook, "open_runner", lambda path: opened.append(path) or open_runner(path))
    run, image = tmp_path / "run", np.full((48, 96, 3), 90, np.uint8)
    shutil.copytree(trained[0], run)
    for name in ("lock.json", "log.jsonl", "config.yml"):
        paddle_adaptseg.predict(image, run)
        (run / name).write_text(f"{name} changes while training continues")
    assert len(opened) == 1
    shutil.copy(weights, run / "best.pdparams")
    paddle_adaptseg.predict(image, run)
    assert len(opened) == 2
    for _ in range(2):
        export_model(weights, tmp_path / "exported")
        paddle_adaptseg.predict(image, tmp_path / "exported")
        paddle_adaptseg.predict(image, tmp_path / "exported")
    assert len(opened) == 4


def test_a_part_of_a_checkpoint_is_opened_like_any_weights(weights, tmp_path):
    shutil.copy(weights, tmp_path / "w.pdparams")
    assert notebook.model_files(tmp_path / "w.pdparams@teacher") == [tmp_path / "w.pdparams"]


def test_a_pattern_that_matches_folders_only_is_reported(inputs):
    found, (problem,) = find_media([str(inputs / "d*p")])
    assert not found and "d*p' does not exist" in problem


def test_two_results_of_one_name_are_refused(inputs):
    with pytest.raises(DataError, match="would both be written as 'a'"):
        find_media([str(inputs / "a.png"), str(inputs / "deep/a.png")])
    with pytest.raises(ConfigError, match="did you mean 'overlay'"):
        predict_files(None, [str(inputs)], inputs, ["overlai"])


def test_the_tools_export_and_predict(weights, inputs, tmp_path):
    done = script("export", "--restore-from", weights, "--output", tmp_path / "out", "--size", "48,96")
    assert done.returncode == 0, done.stderr
    assert "same label" in done.stdout and done.stderr == "" and (tmp_path / "out" / FILE).is_file()
    done = script("predict", "--model", tmp_path / "out", inputs, "--output", tmp_path / "labels", "--max-frames", 1)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("paddle program, fp32, 19 classes") and "4 images" in lines[1]
    assert done.stderr.startswith("failed: cannot read") and done.stderr.rstrip().endswith("is damaged")


def test_a_notebook_gets_labels_and_a_figure(weights, inputs):
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    found = paddle_adaptseg.predict(image, weights)
    assert (np.asarray(found) == open_runner(weights).labels(image)).all()
    assert found._repr_png_().startswith(b"\x89PNG") and found.figure().size[0] == 1120
    assert repr(found).startswith("labels of a ") and len(repr(found)) < 300
    assert paddle_adaptseg.predict(inputs / "a.png", weights).labels.shape == (40, 60)
    for wrong in (image[..., 0], image / 255, [1, 2]):
        with pytest.raises(DataError, match="needs an RGB image"):
            paddle_adaptseg.predict(wrong, weights)


def test_overlay_and_legend_show_the_classes_that_occur():
    image, label = np.full((4, 4, 3), 100, np.uint8), np.full((4, 4), 255, np.uint8)
    label[:2] = 13
    mixed = overlay(image, label, CITYSCAPES_19)
    assert (mixed[2:] == 100).all() and mixed[0, 0].tolist() == [50, 50, 121]
    figure = legend_figure(image, label, CITYSCAPES_19)
    assert figure.shape[1] == 1120 and (figure.reshape(-1, 3) == (0, 0, 142)).all(1).any()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("form", ["paddle", "onnx"])
def test_networks_that_resize_inside_are_exported_too(tiny, tmp_path, form, dynamic):
    if form == "onnx":
        pytest.importorskip("paddle2onnx", reason="the extra 'deploy' is not installed")
    fit(tiny("toy/source_only_v3plus", "schedule.stop=2"))
    assert export_model(tmp_path / "run", tmp_path / "out", form, dynamic=dynamic).agreement > 0.999

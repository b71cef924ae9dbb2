"""Images of many megapixels are predicted in windows, with a stated number of bytes for each of their pixels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import ROOT
from PIL import Image

from paddle_adaptseg.config.loading import dump, load_config
from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.labels import CITYSCAPES_19
from paddle_adaptseg.data import label_space
from paddle_adaptseg.deploy import runners
from paddle_adaptseg.deploy.contract import Contract
from paddle_adaptseg.evaluation import InferenceOptions
from paddle_adaptseg.evaluation.logits import DeviceLogits, HostLogits
from paddle_adaptseg.evaluation.predictor import Predictor, windows
from paddle_adaptseg.evaluation.stitching import Stitched
from paddle_adaptseg.evaluation.visual import overlay
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.weights import arrays_of, save_weights

BYTES = 30  # for each pixel: image, logits at a stride of 4, labels, overlay, and copies while reading and writing
CONSTANT = 100e6  # the network on one window, and libraries
SIZE = (48, 80)  # height, width


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


class Coarse(Segmenter):
    """Logits that depend on the window alone, at a quarter of its size."""

    align_corners = False

    def logits(self, image):
        x = paddle.nn.functional.avg_pool2d(image, 4)
        return {"main": paddle.concat([x, x.flip(axis=[1]) * 0.7, x[:, :2] * 1.3], axis=1)}


def blended(parts, size, align_corners, average):
    """All at once, with Paddle."""
    views = [(place, paddle.to_tensor(x)) for place, x in parts]
    return DeviceLogits.blend(views, size, align_corners, average).numpy()


@pytest.mark.parametrize("average", ["logits", "softmax"])
@pytest.mark.parametrize("aligned", [True, False])
def test_windows_blended_by_rows_are_those_blended_at_once(aligned, average):
    rng = np.random.default_rng(1)
    parts = [(place, rng.normal(size=(5, 8, 10)).astype(np.float32)) for place in windows(SIZE, (40, 32))]
    stitched, whole = Stitched(parts, SIZE, aligned, average), blended(parts, SIZE, aligned, average)
    np.testing.assert_allclose(stitched.rows(0, SIZE[0]), whole, atol=1e-5)
    np.testing.assert_allclose(stitched.rows(13, 14), whole[:, 13:14], atol=1e-5)
    for size in (SIZE, (96, 160), (12, 20), (31, 200)):
        found = HostLogits([stitched], align_corners=aligned).probabilities(size)
        expected = DeviceLogits([paddle.to_tensor(whole)], align_corners=aligned).probabilities(size).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("at_once", [2, 5])
def test_windows_in_batches_and_mirrored_change_nothing(image, at_once):
    options = InferenceOptions(flip=True, window=(40, 32))
    model = Coarse()
    one = Predictor(model, Pixels(), options).scaled_logits(image)
    some = Predictor(model, Pixels(), InferenceOptions(flip=True, window=(40, 32), windows_at_once=at_once))
    np.testing.assert_array_equal(one.probabilities(SIZE), some.scaled_logits(image).probabilities(SIZE))
    plain, mirrored = one.views
    turned = Predictor(model, Pixels(), InferenceOptions(window=(40, 32))).scaled_logits(image[:, ::-1].copy()).views[0]
    np.testing.assert_allclose(mirrored.rows(0, SIZE[0])[:, :, ::-1], turned.rows(0, SIZE[0]), atol=1e-5)
    assert plain.shape == (8, *SIZE)


def test_on_a_gpu_the_logits_of_large_images_are_kept_on_the_host(image, monkeypatch):
    monkeypatch.setattr("paddle_adaptseg.evaluation.predictor.kind_of_logits", lambda: DeviceLogits)
    predictor = Predictor(Coarse(), Pixels(), InferenceOptions(window=(40, 32)))
    assert isinstance(predictor.scaled_logits(image), DeviceLogits)
    monkeypatch.setattr("paddle_adaptseg.evaluation.predictor.LARGE", 1000)
    assert isinstance(predictor.scaled_logits(image), HostLogits)


def peak_of_prediction(model: Path, folder: Path, width: int, height: int, window: str) -> float:
    """By how many bytes the largest memory of a process grows by predicting a picture after a small one."""
    Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(folder / "small.png")
    rows = np.random.default_rng(0).integers(0, 256, (64, width, 3), np.uint8)
    Image.fromarray(np.tile(rows, (height // 64, 1, 1))).save(folder / "large.png")
    code = (
        "import sys; from pathlib import Path; from paddle_adaptseg.core import runtime; runtime.import_paddle()\n"
        "from paddle_adaptseg.deploy.predict import predict_files; from paddle_adaptseg.deploy.runners import *\n"
        f"w = {window!r}; runner = open_runner({str(model)!r}, options=InferenceOptions(window=w), full_size=True)\n"
        "def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) * 1024\n"
        f"f = Path({str(folder)!r}); say = ['label', 'color', 'overlay']\n"
        "assert not predict_files(runner, [str(f / 'small.png')], f / 'out', say).problems; before = peak()\n"
        "assert not predict_files(runner, [str(f / 'large.png')], f / 'out', say).problems; print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Image.open(folder / "out/large_overlay.png").size == (width, height)
    return float(done.stdout.split()[-1])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small transformer whose logits of 19 classes are at a stride of 4."""
    config = load_config(ROOT / "configs/toy/source_only_daformer.yml", [])
    path = tmp_path_factory.mktemp("weights") / "model.pdparams"
    save_weights(path, arrays_of(build_model(config.model, len(label_space(config)))), dump(config))
    return path


def test_a_picture_in_windows_takes_a_stated_number_of_bytes_a_pixel(weights, tmp_path):
    """Full-size logits alone would take 76."""
    width, height = 1920, 1408
    grown = peak_of_prediction(weights, tmp_path, width, height, (256, 256))
    assert grown < CONSTANT + BYTES * width * height


@pytest.mark.slow
def test_a_picture_of_32_megapixels_is_predicted_within_the_stated_memory(weights, tmp_path):
    grown = peak_of_prediction(weights, tmp_path, 8000, 4032, (512, 512))
    print(f"{grown / 1e6:.0f} MB")
    assert grown < CONSTANT + BYTES * 8000 * 4032


def test_an_overlay_by_strips_leaves_ignored_pixels_alone():
    picture = np.full((600, 3, 3), 100, np.uint8)
    label = np.zeros((600, 3), np.uint8)
    label[300:] = 255
    shown = overlay(picture, label, CITYSCAPES_19)
    assert (shown[300:] == 100).all() and (shown[:300] == (114, 82, 114)).all()


@pytest.mark.parametrize("size", [(48, 80), (33, 41), (32, 40), (100, 47), (20, 90)])
def test_an_exported_program_of_a_window_labels_images_as_large_as_they_are(size, tmp_path, monkeypatch):
    seen = []

    def program(image):
        seen.append(image.shape)
        red = image[..., 0].astype(np.float32) - 128
        return np.stack([red, -red], axis=1)  # a label that depends on nothing else

    contract = Contract("fake", "", "", "fp32", [16, 20], [16, 20], ["road", "sky"], [[1, 2, 3]] * 2, [32, 40])
    monkeypatch.setattr(runners, "read_contract", lambda folder: contract)
    monkeypatch.setattr(runners, "FORMATS", {"fake": lambda folder, contract: program})
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    labels = runners.program_runner(tmp_path, full_size=True).labels(picture)
    assert set(seen) == {(1, 32, 40, 3)}
    np.testing.assert_array_equal(labels, picture[..., 0] < 128)


def test_an_exported_program_of_whole_images_says_that_it_labels_no_larger_ones(tmp_path, monkeypatch):
    contract = Contract("fake", "", "", "fp32", [32, 40], [32, 40], ["road"], [[1, 2, 3]])
    monkeypatch.setattr(runners, "read_contract", lambda folder: contract)
    monkeypatch.setattr(runners, "FORMATS", {"fake": lambda folder, contract: None})
    with pytest.raises(ConfigError, match="--full-size needs one of windows: export it again with -o eval.window"):
        runners.program_runner(tmp_path, full_size=True)

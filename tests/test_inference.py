"""Ways of looking at an image, and the programs that run them."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_adaptseg.config import Component, Pixels
from paddle_adaptseg.data.transforms import normalise
from paddle_adaptseg.deploy import logits as programs
from paddle_adaptseg.engine.inference import MAIN, Inference, Predictor, windows
from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.ensemble import Ensemble
from paddle_adaptseg.models.layers import inference
from paddle_adaptseg.upsample import label_of

SIZE = (64, 96)


@pytest.fixture(scope="module")
def model():
    paddle.seed(3)
    return build_model(Component("small", {"width": 8}), 5)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8)


def look(model, image, build=programs.eager, **options):
    predictor = Predictor(model, Inference(**options), Pixels(), build)
    with inference(model):
        return predictor.views(image if isinstance(image, list) else [image])


def test_a_mirrored_view_is_the_mirrored_images_own(model, image):
    plain, mirrored = look(model, image, flip=True)
    np.testing.assert_array_equal(plain.logits, look(model, image)[0].logits)
    np.testing.assert_array_equal(mirrored.logits[:, :, ::-1], look(model, image[:, ::-1])[0].logits)


def test_levels_are_added_with_their_weights(model, image):
    main, aux, both = (
        look(model, image, levels=levels)[0].logits for levels in (MAIN, (("aux", 1.0),), (("main", 1.0), ("aux", 0.5)))
    )
    np.testing.assert_allclose(both, main + 0.5 * aux, atol=1e-5)
    with pytest.raises(ConfigError, match="no level 'auxx': did you mean 'aux'"):
        look(model, image, levels=(("auxx", 1.0),))


def test_windows_cover_everything_and_one_of_the_whole_size_changes_nothing(model, image):
    seen = np.zeros(SIZE, int)
    for rows, columns in windows(SIZE, (40, 32)):
        assert rows.stop - rows.start == 32 and columns.stop - columns.start == 40
        seen[rows, columns] += 1
    assert seen.min() >= 1 and seen.max() > 1
    whole = look(model, image)
    label = label_of(whole, SIZE)[0]
    assert (label == label_of(look(model, image, window=(500, 500)), SIZE)[0]).mean() > 0.999
    parts = look(model, image, window=(40, 32))[0].logits
    assert parts.shape == (5, *SIZE)
    corner = look(model, np.ascontiguousarray(image[:32, :40]))
    np.testing.assert_array_equal(parts[:, :8, :8].argmax(0), label_of(corner, (32, 40))[0][:8, :8])


def test_every_member_of_an_ensemble_gives_its_view_of_every_scale(model, image):
    paddle.seed(4)
    other = build_model(Component("small", {"width": 8}), 5)
    both = Ensemble([model, other], [3, 1])
    views = look(both, [image, np.ascontiguousarray(image[::2, ::2])])
    assert [v.weight for v in views] == [0.75, 0.25, 0.75, 0.25]
    with inference(both):
        whole = both.predict(normalise(paddle.to_tensor(image[None]), Pixels()), SIZE).argmax(axis=1).numpy()[0]
    assert (label_of(views[:2], SIZE)[0] == whole).mean() > 0.999


def test_options_are_read_from_text_and_what_is_wrong_is_said():
    options = Inference.parse(True, "0.5,1", "512x256", "main,aux=0.5", "eager", "fp32")
    assert options == Inference(True, (0.5, 1.0), (512, 256), (("main", 1.0), ("aux", 0.5)), "eager", "fp32")
    assert list(options.effects()) == ["plain", "flip", "scales 0.5, 1", "window 512x256", "levels 1 main + 0.5 aux",
                                       "all together"]  # fmt: skip
    assert list(Inference(flip=True).effects()) == ["plain", "flip"] and list(Inference().effects()) == ["plain"]
    wrong = {"--scales": ("0", None, "main"), "--window": ("1", "512", "main"), "--levels": ("1", None, "main=x")}
    for flag, (scales, window, levels) in wrong.items():
        with pytest.raises(ConfigError, match=flag):
            Inference.parse(False, scales, window, levels, "eager", "fp32")
    with pytest.raises(ConfigError, match="unknown --precision 'fp8'"):
        Predictor(None, Inference(precision="fp8"), Pixels())


@pytest.mark.parametrize("name", ["small", "small_twin"])
def test_a_program_labels_like_the_network_at_any_size_it_is_given(name, image):
    paddle.seed(5)
    model = build_model(Component(name, {"width": 8}), 5)
    images = [image, np.ascontiguousarray(image[:48, :64])]
    slow, fast = look(model, images), look(model, images, programs.onednn, backend="onednn")
    for one, other in zip(slow, fast):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-3)


def test_a_program_in_bf16_rounds_as_bf16_does_and_labels_like_the_network(model, image):
    if not paddle.amp.is_bfloat16_supported():
        pytest.skip("bf16 was not run: this CPU has none that oneDNN uses")
    half, plain = look(model, image, programs.onednn, precision="bf16"), look(model, image)
    agreement = (label_of(half, SIZE)[0] == label_of(plain, SIZE)[0]).mean()
    assert agreement > 0.9  # an untrained network's classes lie close together
    away = np.abs(half[0].logits - plain[0].logits).max() / np.abs(plain[0].logits).max()
    assert 1e-4 < away < 0.1  # bf16 has 8 bits; programs in 32 bits are within 1e-5


def test_the_limits_of_half_precision_are_said(model, image):
    with pytest.raises(ConfigError, match="fp16 runs on GPUs only"):
        look(model, image, programs.onednn, precision="fp16")
    with pytest.raises(ConfigError, match="needs --backend onednn"):
        look(model, image, precision="bf16")


def test_where_no_program_can_be_made_the_network_itself_predicts_with_a_note(model, image, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("an operator is missing")

    monkeypatch.setattr(programs, "open_program", broken)
    views = look(model, [image, image], programs.automatic, backend="auto")
    np.testing.assert_array_equal(views[1].logits, look(model, image)[0].logits)
    assert capsys.readouterr().err.count("cannot run this network (an operator is missing)") == 1

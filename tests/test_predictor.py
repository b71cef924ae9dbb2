"""From an image to its labels: the same on the host, on the device, while training, by the command and exported."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from PIL import Image

from paddle_adaptseg.config.loading import dump, override
from paddle_adaptseg.config.schema import Component, Pixels
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.data import label_space, open_validation
from paddle_adaptseg.deploy.export import export_model
from paddle_adaptseg.deploy.runners import open_runner
from paddle_adaptseg.evaluation import InferenceOptions, Request, evaluate_request, logits, programs
from paddle_adaptseg.evaluation import predictor as predictor_module
from paddle_adaptseg.evaluation.checkpoints import DomainEvaluator
from paddle_adaptseg.evaluation.logits import DeviceLogits, HostLogits
from paddle_adaptseg.evaluation.measure import evaluate_model
from paddle_adaptseg.evaluation.predictor import MAIN, PLAIN, Predictor, eager, windows
from paddle_adaptseg.evaluation.resizing import filled_rows, widened
from paddle_adaptseg.evaluation.visual import colourise, panels
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.layers import resize, resize_by_products
from paddle_adaptseg.models.segmenter import Ensemble
from paddle_adaptseg.weights import arrays_of, save_weights

SIZE = (64, 96)
KINDS = {"host": HostLogits, "device": DeviceLogits}


def network(seed, name="small", classes=5):
    """A network whose logits are far apart, as a trained one's are."""
    paddle.seed(seed)
    model, rng = build_model(Component(name, {"width": 8}), classes), np.random.default_rng(seed)
    for key, parameter in model.named_parameters():
        if key.startswith("heads") and key.endswith("weight"):
            parameter.set_value(rng.normal(0, 0.3, parameter.shape).astype(np.float32))
    return model


@pytest.fixture(scope="module")
def model():
    return network(3)


@pytest.fixture(scope="module")
def image():
    coarse = np.random.default_rng(0).integers(0, 255, (8, 12, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(SIZE[::-1]))


def logits_of(model, image, backend=eager, **options):
    predictor = Predictor(model, Pixels(), InferenceOptions(**options), backend)
    with predictor.ready():
        return predictor.logits(image if isinstance(image, list) else [image])


def assert_same_but_for_ties(one, other, probabilities):
    """Labels differ at most where the two likeliest classes are equally likely within rounding."""
    best = np.sort(probabilities, axis=0)
    differ = one != other
    assert (best[-1] - best[-2])[differ].max(initial=0) < 1e-4
    assert differ.mean() < 1e-3


# One meaning of the resize.


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("size", [(256, 512), (100, 75), (33, 65), (20, 30), (2, 3), (1, 1)])
def test_host_and_device_resize_logits_as_paddle_does(size, aligned):
    if not aligned and size == (1, 1):
        pytest.skip("Paddle then takes the first pixel, not the middle one")
    x = np.random.default_rng(0).normal(0, 3, (19, 33, 65)).astype(np.float32)
    given = paddle.to_tensor(x[None])
    paddles = F.interpolate(given, size=list(size), mode="bilinear", align_corners=aligned).numpy()[0]
    by_rows = filled_rows(widened(x, size[1], aligned), np.arange(size[0]), size[0], aligned)
    np.testing.assert_allclose(by_rows, paddles, atol=1e-4)
    np.testing.assert_allclose(DeviceLogits.resized(given[0], size, aligned).numpy(), paddles, atol=1e-4)
    with resize_by_products():
        np.testing.assert_allclose(resize(given, size, aligned).numpy()[0], paddles, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(256, 512), (100, 75), (33, 65), (1, 1)])
def test_labels_confidence_and_entropy_are_those_of_interpolation_and_softmax(kind, size):
    x = np.random.default_rng(0).normal(0, 3, (19, 33, 65)).astype(np.float32)
    full = F.interpolate(paddle.to_tensor(x[None]), size=list(size), mode="bilinear", align_corners=True)
    p = F.softmax(full, axis=1).numpy()[0]
    found = KINDS[kind]([x if kind == "host" else paddle.to_tensor(x)])
    label, confidence = map(np.asarray, found.labels_and_confidence(size))
    assert label.dtype == np.uint8 and label.shape == size
    assert_same_but_for_ties(label, p.argmax(0), p)
    np.testing.assert_array_equal(np.asarray(found.labels(size)), label)
    np.testing.assert_allclose(confidence, p.max(0), atol=1e-4)
    np.testing.assert_allclose(np.asarray(found.probabilities(size)), p, atol=1e-4)
    entropy = -(p * np.log(p)).sum(0) / np.log(19)
    np.testing.assert_allclose(np.asarray(found.entropy_map(size)), entropy, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_averaged_as_probabilities_with_their_weights(kind):
    rng = np.random.default_rng(1)
    views = [rng.normal(0, 2, (4, h, w)).astype(np.float32) for h, w in ((9, 17), (5, 9))]
    parts = [
        F.softmax(F.interpolate(paddle.to_tensor(x[None]), [20, 30], mode="bilinear", align_corners=True), axis=1)
        for x in views
    ]
    mean = (0.75 * parts[0] + 0.25 * parts[1]).numpy()[0]
    found = KINDS[kind](views if kind == "host" else [paddle.to_tensor(x) for x in views], [3.0, 1.0])
    label, confidence = map(np.asarray, found.labels_and_confidence((20, 30)))
    assert_same_but_for_ties(label, mean.argmax(0), mean)
    np.testing.assert_array_equal(np.asarray(found.labels((20, 30))), label)
    np.testing.assert_allclose(confidence, mean.max(0), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_runs_from_certain_to_uniform(kind):
    flat, certain, half = (np.zeros((4, 3, 3), np.float32) for _ in range(3))
    certain[2], half[:2] = 100, 100

    def entropy(*views):
        placed = views if kind == "host" else [paddle.to_tensor(view) for view in views]
        return KINDS[kind](placed, [1.0] * len(views)).entropy()

    assert entropy(flat) == pytest.approx(1.0) and entropy(certain) == pytest.approx(0.0, abs=1e-6)
    assert entropy(half) == pytest.approx(0.5)
    assert entropy(certain, np.roll(certain, 1, axis=0)) == pytest.approx(0.5)


def test_blocks_of_rows_do_not_show(monkeypatch):
    x = np.random.default_rng(0).normal(0, 3, (19, 33, 65)).astype(np.float32)
    whole = HostLogits([x]).labels_and_confidence((90, 120))
    monkeypatch.setattr(logits, "BLOCK", 7 * 19 * 120)
    for one, other in zip(whole, HostLogits([x]).labels_and_confidence((90, 120))):
        np.testing.assert_array_equal(one, other)


# The same labels everywhere.

OPTIONS = {
    "whole": {},
    "flip": {"flip": True},
    "scales": {"scales": (0.75, 1.0)},
    "windows": {"window": (40, 32)},
    "levels": {"levels": (("main", 1.0), ("aux", 0.5))},
    "all": {"flip": True, "scales": (0.75, 1.0), "window": (40, 32), "levels": (("main", 1.0), ("aux", 0.5))},
}


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_device_gives_the_hosts_labels(model, image, monkeypatch, name, members):
    networks = model if members == 1 else Ensemble([model, network(4)], [3, 1])
    host = Predictor(networks, Pixels(), InferenceOptions(**OPTIONS[name]), size=(48, 72))
    monkeypatch.setattr(logits, "on_gpu", lambda: True)
    device = Predictor(networks, Pixels(), InferenceOptions(**OPTIONS[name]), size=(48, 72))
    assert host.kind is HostLogits and device.kind is DeviceLogits
    labels = host.labels(image)
    assert labels.shape == SIZE and labels.dtype == np.uint8 and len(np.unique(labels)) > 1
    probabilities = host.scaled_logits(image).probabilities(SIZE)
    assert_same_but_for_ties(labels, device.labels(image), probabilities)
    np.testing.assert_allclose(probabilities, device.scaled_logits(image).probabilities(SIZE).numpy(), atol=1e-4)
    (_, entropy), (_, other) = host.labels_and_entropy(image), device.labels_and_entropy(image)
    np.testing.assert_allclose(entropy, other, atol=1e-4)


@pytest.mark.parametrize("name", ["whole", "all"])
def test_the_device_measures_what_the_host_does(tiny, monkeypatch, name):
    config, options = tiny("toy/adaptsegnet_multi"), InferenceOptions(**OPTIONS[name])
    model = network(3, config.model.name, 19)
    evaluator = DomainEvaluator(config, "target", options)
    host = evaluator.measure(model)
    monkeypatch.setattr(logits, "on_gpu", lambda: True)
    device = evaluator.measure(model)
    np.testing.assert_allclose(device.matrices, host.matrices, atol=3)  # pixels, of ties within rounding
    assert device.matrices.sum() == host.matrices.sum() > 0 and device.stems == host.stems
    assert (device.coarse == host.coarse).mean() > 0.999
    assert device.entropy == pytest.approx(host.entropy, abs=1e-4)
    np.testing.assert_allclose(device.boundary, host.boundary, atol=9)
    np.testing.assert_allclose(device.reliability[1:].sum(1), host.reliability[1:].sum(1), rtol=1e-4)


def saved(folder):
    """Labels that an evaluation saved, by name."""
    paths = [p for p in sorted(folder.glob("*.png")) if not p.stem.endswith("_color")]
    return {p.name: np.asarray(Image.open(p)) for p in paths}


@pytest.mark.parametrize("name", [*OPTIONS, "ensemble"])
def test_training_command_and_prediction_give_the_same_labels(tiny, tmp_path, name):
    config = tiny("toy/adaptsegnet_multi", "model.width=8", "run.output=" + str(tmp_path / "run"))
    models = [network(seed, config.model.name, 19) for seed in (3, 4)[: 1 + (name == "ensemble")]]
    paths = []
    for seed, one in enumerate(models):
        paths.append(tmp_path / f"{seed}.pdparams")
        save_weights(paths[-1], arrays_of(one), dump(config), {})
    options = InferenceOptions(**OPTIONS.get(name, {}))
    whole = models[0] if len(models) == 1 else Ensemble(models)
    evaluate_model(whole, config, save=tmp_path / "trained", options=options)
    trained = saved(tmp_path / "trained")
    assert len(trained) == 3 and all(len(np.unique(label)) > 1 for label in trained.values())
    for backend in ("eager", "auto") if name in ("whole", "all", "ensemble") else ("eager",):
        request = Request(
            tuple(map(str, paths)), save=str(tmp_path / backend),
            options=dataclasses.replace(options, backend=backend),
        )  # fmt: skip
        evaluate_request(request, lambda line: None)
        asked = saved(tmp_path / backend)
        assert asked.keys() == trained.keys()
        for key, label in asked.items():
            assert (label == trained[key]).mean() >= (1.0 if backend == "eager" else 0.999), (backend, key)
    if name == "whole":
        runner, files = open_runner(paths[0]), open_validation(config)
        for index, label in enumerate(trained.values()):
            np.testing.assert_array_equal(runner.labels(files.image(index)), label)
        assert export_model(paths[0], tmp_path / "exported").agreement >= 0.999


# Options.


def test_a_mirrored_view_is_the_mirrored_images_own(model, image):
    plain, mirrored = logits_of(model, image, flip=True).views
    np.testing.assert_array_equal(plain, logits_of(model, image).views[0])
    np.testing.assert_array_equal(mirrored[:, :, ::-1], logits_of(model, image[:, ::-1]).views[0])


def test_levels_are_added_with_their_weights(model, image):
    main, aux, both = (
        logits_of(model, image, levels=levels).views[0]
        for levels in (MAIN, (("aux", 1.0),), (("main", 1.0), ("aux", 0.5)))
    )
    np.testing.assert_allclose(both, main + 0.5 * aux, atol=1e-5)
    with pytest.raises(ConfigError, match="no level 'auxx': did you mean 'aux'"):
        logits_of(model, image, levels=(("auxx", 1.0),))


def test_windows_cover_everything_and_one_of_the_whole_size_changes_nothing(model, image):
    seen = np.zeros(SIZE, int)
    for rows, columns in windows(SIZE, (40, 32)):
        assert rows.stop - rows.start == 32 and columns.stop - columns.start == 40
        seen[rows, columns] += 1
    assert seen.min() >= 1 and seen.max() > 1
    whole = logits_of(model, image)
    large = logits_of(model, image, window=(500, 500))
    assert_same_but_for_ties(whole.labels(SIZE), large.labels(SIZE), whole.probabilities(SIZE))
    stitched = logits_of(model, image, window=(40, 32)).views[0]
    assert stitched.shape == (5, *SIZE)
    parts = stitched.rows(0, SIZE[0])
    corner = logits_of(model, np.ascontiguousarray(image[:32, :40]))
    np.testing.assert_array_equal(parts[:, :8, :8].argmax(0), corner.labels((32, 40))[:8, :8])


def test_windows_with_a_stride_follow_each_other_and_the_last_is_shifted_inwards():
    places = [(rows.start, columns.start) for rows, columns in windows((90, 100), (64, 64), (32, 48))]
    assert places == [(y, x) for y in (0, 26) for x in (0, 32, 36)]
    assert [(r.start, c.start) for r, c in windows((64, 64), (64, 64), (32, 32))] == [(0, 0)]
    assert list(windows((30, 20), (64, 64), (32, 32))) == [(slice(0, 30), slice(0, 20))]


@pytest.mark.parametrize("average", ["logits", "softmax"])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_average_logits_or_probabilities(kind, average):
    rng = np.random.default_rng(2)
    parts = [rng.normal(0, 2, (4, 3, 6)).astype(np.float32) for _ in range(2)]
    places = [(slice(0, 3), slice(0, 6)), (slice(0, 3), slice(2, 8))]
    total, count = np.zeros((4, 3, 8)), np.zeros((3, 8))
    for (rows, columns), part in zip(places, parts):
        p = np.exp(part.astype(np.float64))
        total[:, rows, columns] += p / p.sum(0) if average == "softmax" else part
        count[rows, columns] += 1
    mean = total / count
    expected = mean if average == "softmax" else np.exp(mean) / np.exp(mean).sum(0)
    views = [part.copy() if kind == "host" else paddle.to_tensor(part) for part in parts]
    blended = KINDS[kind].blend(zip(places, views), (3, 8), True, average)
    np.testing.assert_allclose(np.asarray(KINDS[kind]([blended]).probabilities((3, 8))), expected, atol=1e-5)


def test_the_configurations_windows_are_used_by_training_command_prediction_and_export(tiny, tmp_path):
    """Wherever an image becomes labels; an option of the command line goes before them."""
    sliding = ["eval.window=[48, 32]", "eval.stride=[24, 16]", "eval.average=softmax"]
    config = tiny("toy/adaptsegnet_multi", "model.width=8", "run.output=" + str(tmp_path / "run"), *sliding)
    model = network(3, config.model.name, 19)
    save_weights(tmp_path / "w.pdparams", arrays_of(model), dump(config), {})
    explicit = Predictor(model, config.data.pixels, PLAIN.within(config.eval))
    files = open_validation(config)
    expected = [np.asarray(explicit.scaled_logits(files.image(i)).labels((48, 96))) for i in range(len(files))]
    whole = [Predictor(model, config.data.pixels).labels(files.image(i)) for i in range(len(files))]
    assert any((one != other).any() for one, other in zip(expected, whole))
    evaluate_model(model, config, save=tmp_path / "trained")
    shown = dict(panels(model, files, config))["0"]
    np.testing.assert_array_equal(shown[:48, 96:], colourise(expected[0], label_space(config)))
    request = Request((str(tmp_path / "w.pdparams"),), save=str(tmp_path / "asked"))
    found = evaluate_request(request, lambda line: None)
    assert found.prediction == "window 48x32 every 24x16, mean of softmax; eager fp32"
    for folder in ("trained", "asked"):
        for label, ours in zip(saved(tmp_path / folder).values(), expected):
            np.testing.assert_array_equal(label, ours)
    for i, ours in enumerate(expected):
        np.testing.assert_array_equal(open_runner(tmp_path / "w.pdparams").labels(files.image(i)), ours)
    assert export_model(tmp_path / "w.pdparams", tmp_path / "exported").agreement >= 0.999
    runner = open_runner(tmp_path / "exported")  # of one window, for images of any size
    assert runner.labels(np.full((70, 150, 3), 90, np.uint8)).shape == (70, 150)
    assert runner.labels(np.full((300, 20, 3), 90, np.uint8)).shape == (300, 20)
    assert InferenceOptions(window=(96, 48)).within(config.eval) == InferenceOptions(window=(96, 48))


def test_the_configurations_windows_are_computed_in_batches(tiny, monkeypatch):
    one, seen = tiny("toy/adaptsegnet_multi", "model.width=8", "eval.window=[48, 32]", "eval.stride=[24, 16]"), []
    model, cut = network(3, one.model.name, 19), predictor_module.cut
    monkeypatch.setattr(predictor_module, "cut", lambda *given: seen.append(len(given[1])) or cut(*given))
    expected = evaluate_model(model, one)
    assert set(seen) == {1}
    seen.clear()
    found = evaluate_model(model, override(one, "eval.windows_at_once=4"))
    assert max(seen) == 4
    np.testing.assert_array_equal(found.counts, expected.counts)
    asked = InferenceOptions(windows_at_once=2)
    assert asked.within(one.eval).windows_at_once == 2
    assert asked.within(override(one, "eval.windows_at_once=4").eval).windows_at_once == 2


@pytest.mark.parametrize(
    "wrong",
    [
        "eval.windows_at_once=0",
        "eval.window=[0,32]",
        "eval.stride=[16,16]",
        "eval.average=mean",
        "eval.stride=[9,8] eval.window=[8,8]",
    ],
)
def test_impossible_windows_are_refused(tiny, wrong):
    with pytest.raises(ConfigError, match=wrong.partition("=")[0].replace(".", r"\.")):
        tiny("toy/source_only", *wrong.split())


def test_logits_of_the_mmsegmentation_family_are_resized_to_the_input_first(model, image):
    coarse = logits_of(model, image).views[0]
    assert coarse.shape[1:] != SIZE
    model.input_first = True
    try:
        found = logits_of(model, image)
    finally:
        del model.input_first
    expected = filled_rows(widened(coarse, SIZE[1], True), np.arange(SIZE[0]), SIZE[0], True)
    np.testing.assert_allclose(found.views[0].rows(0, SIZE[0]), expected, atol=1e-5)


def test_every_member_of_an_ensemble_gives_its_view_of_every_scale(model, image):
    both = Ensemble([model, network(4)], [3, 1])
    found = logits_of(both, [image, np.ascontiguousarray(image[::2, ::2])])
    np.testing.assert_allclose(found.weights, [0.375, 0.125, 0.375, 0.125])
    np.testing.assert_array_equal(found.views[0], logits_of(model, image).views[0])


def test_an_image_of_another_shape_is_predicted_at_as_many_pixels_and_labelled_at_its_own_size(model):
    image, seen = np.full((90, 90, 3), 100, np.uint8), []

    def backend(model, options):
        return lambda batch: seen.append(tuple(batch.shape)) or np.zeros((1, 5, 2, 2), np.float32)

    predictor = Predictor(model, Pixels(), InferenceOptions(scales=(0.5, 1.0)), backend, size=(48, 72))
    assert predictor.labels(image).shape == (90, 90) and seen == [(1, 3, 28, 28), (1, 3, 56, 56)]


def test_a_prediction_leaves_the_modes_of_training_as_they_were(model, image):
    model.train()
    model.sublayers()[1].eval()
    before = [layer.training for layer in model.sublayers()]
    first = Predictor(model, Pixels()).labels(image)
    assert [layer.training for layer in model.sublayers()] == before
    np.testing.assert_array_equal(Predictor(model, Pixels()).labels(image), first)


def test_options_are_read_from_text_and_what_is_wrong_is_said():
    options = InferenceOptions.parse(True, "0.5,1", "512x256", "main,aux=0.5", "eager", "fp32")
    assert options == InferenceOptions(True, (0.5, 1.0), (512, 256), (("main", 1.0), ("aux", 0.5)), "eager", "fp32")
    assert list(options.effects()) == ["plain", "flip", "scales 0.5, 1", "window 512x256", "levels 1 main + 0.5 aux",
                                       "all together"]  # fmt: skip
    assert list(InferenceOptions(flip=True).effects()) == ["plain", "flip"]
    assert list(InferenceOptions().effects()) == ["plain"]
    sliding = InferenceOptions.parse(False, "1", "512x256", "main", "eager", "fp32", "256x128", "softmax")
    assert list(sliding.effects()) == ["plain", "window 512x256 every 256x128, mean of softmax"]
    usual = InferenceOptions(window=(512, 256))
    assert list(InferenceOptions(flip=True, window=(512, 256)).effects(usual)) == ["plain", "flip"]
    assert InferenceOptions(flip=True, window=(512, 256)).effects(usual)["plain"] == usual
    for options in ({"average": "mean"}, {"stride": (16, 16)}):
        with pytest.raises(ConfigError, match=f"--{next(iter(options))}"):
            InferenceOptions(**options)
    wrong = {"--scales": ("0", None, "main"), "--window": ("1", "512", "main"), "--levels": ("1", None, "main=x")}
    for flag, (scales, window, levels) in wrong.items():
        with pytest.raises(ConfigError, match=flag):
            InferenceOptions.parse(False, scales, window, levels, "eager", "fp32")
    with pytest.raises(ConfigError, match="unknown --precision 'fp8'"):
        InferenceOptions(precision="fp8")


# Programs.


@pytest.mark.parametrize("name", ["small", "small_twin"])
def test_a_program_predicts_like_the_network_at_any_size_it_is_given(name, image):
    model = network(5, name)
    images = [image, np.ascontiguousarray(image[:48, :64])]
    slow, fast = logits_of(model, images), logits_of(model, images, programs.onednn)
    for one, other in zip(slow.views, fast.views):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_program_in_bf16_rounds_as_bf16_does_and_labels_like_the_network(model, image):
    if not paddle.amp.is_bfloat16_supported():
        pytest.skip("bf16 was not run: this CPU has none that oneDNN uses")
    half, plain = logits_of(model, image, programs.onednn, precision="bf16"), logits_of(model, image)
    assert (half.labels(SIZE) == plain.labels(SIZE)).mean() > 0.95
    away = np.abs(half.views[0] - plain.views[0]).max() / np.abs(plain.views[0]).max()
    assert 1e-4 < away < 0.1  # bf16 has 8 bits; programs in 32 bits are within 1e-5


def test_the_limits_of_half_precision_are_said(model, image):
    with pytest.raises(ConfigError, match="fp16 runs on GPUs only"):
        logits_of(model, image, programs.onednn, precision="fp16")
    with pytest.raises(ConfigError, match="needs --backend onednn"):
        logits_of(model, image, precision="bf16")


def test_where_no_program_can_be_made_the_network_itself_predicts_with_a_note(model, image, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("an operator is missing")

    monkeypatch.setattr(programs, "logits_program", broken)
    found = logits_of(model, [image, image], programs.automatic)
    np.testing.assert_array_equal(found.views[1], logits_of(model, image).views[0])
    assert capsys.readouterr().err.count("cannot run this network (an operator is missing)") == 1


@pytest.mark.parametrize("alone", [{"stride": (8, 8)}, {"average": "softmax"}])
def test_options_of_windows_without_a_window_are_refused_and_never_ignored(alone):
    with pytest.raises(ConfigError, match="give --window"):
        InferenceOptions(**alone)


def test_windows_that_leave_pixels_out_are_refused():
    with pytest.raises(ConfigError, match="--stride must be no more than --window"):
        InferenceOptions(window=(48, 32), stride=(48, 33))
    InferenceOptions(window=(48, 32), stride=(48, 32))

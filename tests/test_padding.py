"""What is padded counts for nothing on the target, as the ignored labels see to it on the source."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import numpy as np
import paddle
import pytest
from conftest import ROOT
from paddle import nn
from test_methods import VARIANTS, batch

from paddle_adaptseg.config.schema import Component, Pixels
from paddle_adaptseg.core.labels import IGNORE
from paddle_adaptseg.data import TrainData
from paddle_adaptseg.data.augment import normalise
from paddle_adaptseg.methods import METHODS, Clock, build_method
from paddle_adaptseg.methods.base import Trained
from paddle_adaptseg.models.segmenter import Segmenter

AREAS = ((0.5, 0.75), (1.0, 0.25))
OTHERS = ("source_only", "bn_adapt", "v3plus", "masked")  # masks and mixing: tests/test_self_training.py
ADAPTING = [
    name for name, (method, _) in VARIANTS.items() if method != "self_training" and not any(o in name for o in OTHERS)
]


class Pointwise(Segmenter):
    """A network whose output at a pixel depends on that pixel alone."""

    feature_channels = 8

    def __init__(self, levels):
        super().__init__()
        self.levels = ("main", *(level for level in levels if level != "main"))
        self.body = nn.Conv2D(3, 8, 1)
        self.heads = nn.LayerDict({level: nn.Conv2D(8, 4, 1) for level in levels})

    def features(self, image):
        return dict.fromkeys(self.heads, nn.functional.tanh(self.body(image)))

    def classify(self, features):
        logits = super().classify(features)
        return logits if "main" in logits else {"main": logits["first"] + logits["second"], **logits}


def pointwise(variant):
    paddle.seed(3)
    name, params = VARIANTS[variant]

    def make():
        return Pointwise(("first", "second") if name == "clan" else ("main", "aux"))

    names = tuple(map(str, range(4)))
    return build_method(
        Component(name, params), make(), 4, make, names=names, trained=lambda path: Trained(make(), Pixels(), names)
    )


def padded(fill, image, areas):
    """The images with `fill` where the areas mark padding."""
    image = image.numpy().copy()
    for one, (down, right) in zip(image, areas):
        one[..., round(one.shape[-2] * down) :, :] = fill
        one[..., :, round(one.shape[-1] * right) :] = fill
    return paddle.to_tensor(image)


def scaled_batch(fill=0.0, areas=AREAS):
    """A batch of smaller images, padded with `fill`."""
    whole = batch()
    return replace(
        whole,
        source_image=padded(fill, whole.source_image, areas),
        source_label=padded(IGNORE, whole.source_label, areas),
        target_image=padded(fill, whole.target_image, areas),
        source_areas=areas,
        target_areas=areas,
    )


def outcome(method, given):
    """All terms, and the gradients that they give together."""
    terms = {}
    method.before_step([given], Clock(3, 10))
    for group in method.losses(given, Clock(3, 10, watch=True)):
        sum(term.weight * term.loss for term in group.values()).backward()
        terms.update(group)
    gradients = {name: p.grad.numpy().copy() for name, p in method.named_parameters() if p.grad is not None}
    method.clear_gradients()
    return terms, gradients


@pytest.mark.parametrize("variant", ADAPTING)
def test_what_lies_in_the_padding_changes_no_term_no_gradient_and_no_reading(variant):
    method = pointwise(variant)
    black, grads = outcome(method, scaled_batch(0.0))
    seen = {k: np.asarray(v) for k, v in method.observed.items() if not k.endswith("_prediction")}
    other, other_grads = outcome(method, scaled_batch(5.0))
    for name, term in black.items():
        np.testing.assert_allclose(float(other[name].loss), float(term.loss), rtol=1e-5, err_msg=name)
    for name, gradient in grads.items():
        np.testing.assert_allclose(other_grads[name], gradient, rtol=1e-3, atol=1e-6, err_msg=name)
    for name, value in seen.items():
        np.testing.assert_allclose(np.asarray(method.observed[name]), value, rtol=1e-5, err_msg=name)
    unmarked, _ = outcome(method, replace(scaled_batch(5.0), source_areas=None, target_areas=None))
    assert any(float(unmarked[n].loss) != pytest.approx(float(t.loss), rel=1e-3) for n, t in black.items())


@pytest.mark.parametrize("variant", ADAPTING)
def test_areas_that_are_whole_images_change_nothing(variant):
    method = pointwise(variant)
    plain, grads = outcome(method, batch())
    marked, marked_grads = outcome(method, scaled_batch(0.0, ((1.0, 1.0), (1.0, 1.0))))
    for name, term in plain.items():
        np.testing.assert_allclose(float(marked[name].loss), float(term.loss), rtol=2e-6, err_msg=name)
    for name, gradient in grads.items():
        np.testing.assert_allclose(marked_grads[name], gradient, rtol=1e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("variant", [v for v in ADAPTING if VARIANTS[v][0] == "target_prior"])
def test_a_prior_on_a_padded_image_is_the_prior_on_the_image_without_padding(variant):
    method = pointwise(variant)
    given, (down, right) = scaled_batch(), AREAS[0]
    one = replace(given, target_image=given.target_image[:1], target_areas=AREAS[:1])
    picture = given.target_image[:1, :, : round(64 * down), : round(64 * right)]
    small = replace(one, target_image=picture, target_areas=None)
    terms, expected = (outcome(method, b)[0] for b in (one, small))
    for name in expected:
        np.testing.assert_allclose(float(terms[name].loss), float(expected[name].loss), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("variant", ADAPTING)
def test_processes_with_images_of_different_sizes_have_the_mean_of_their_common_batch(variant):
    method = pointwise(variant)
    common, _ = outcome(method, scaled_batch())
    parts = []
    for i in range(2):
        whole = scaled_batch()
        images = {n: getattr(whole, n)[i : i + 1] for n in ("source_image", "source_label", "target_image")}
        parts.append(outcome(method, replace(whole, **images, source_areas=AREAS[i : i + 1],
                                             target_areas=AREAS[i : i + 1]))[0])  # fmt: skip
    for name, term in common.items():
        shares = [1.0 if part[name].pixels is None else float(part[name].pixels) for part in parts]
        mean = np.average([float(part[name].loss) for part in parts], weights=shares)
        np.testing.assert_allclose(mean, float(term.loss), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("more", [[], ["data.augment.crop=[64, 48]"], ["data.augment.mirror=true"]])
def test_areas_tell_what_was_padded(tiny, more):
    config = tiny("toy/adaptsegnet_multi", "data.augment.scale=[0.5, 1.0]", "data.batch_size=4", *more)
    shares = []
    for given in TrainData(config, True).batches(0):
        for image, areas in ((given.source_image, given.source_areas), (given.target_image, given.target_areas)):
            black = padded(-1000.0, image, areas).numpy() == -1000.0
            nothing = normalise(paddle.zeros([1, 1, 1, 3], "uint8"), config.data.pixels).numpy()
            assert (np.broadcast_to(nothing, image.shape)[black] == image.numpy()[black]).all()
            inside = (image.numpy() != nothing).any(axis=1)
            for one, (down, right) in zip(inside, areas):
                assert one[round(one.shape[0] * down) - 1].any() and one[:, round(one.shape[1] * right) - 1].any()
            shares += [down * right for down, right in areas]
        label = padded(IGNORE, given.source_label, given.source_areas)
        assert (label.numpy() == given.source_label.numpy()).all()
    assert min(shares) < 0.7 and len(set(shares)) > 5


@pytest.mark.parametrize("more", [[], ["data.augment.scale=[1.0, 2.0]"],
                                  ["data.augment.scale=[0.5, 1.0]", "data.augment.crop=[48, 24]"]])  # fmt: skip
def test_settings_that_never_pad_mark_nothing(tiny, more):
    given = next(TrainData(tiny("toy/adaptsegnet_multi", *more), True).batches(0))
    assert given.source_areas is None and given.target_areas is None
    assert (
        next(TrainData(tiny("toy/source_only", "data.augment.scale=[0.5, 1.0]"), False).batches(0)).target_areas is None
    )


def test_the_page_says_which_methods_have_no_ramp():
    without = {name for name, kind in METHODS.items() if "ramp" not in inspect.signature(kind).parameters}
    text = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"on any method but (.*?) delays its\s+adaptation", text)
    assert set(re.findall(r"`(\w+)`", said)) == without

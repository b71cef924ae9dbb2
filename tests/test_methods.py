"""Each loss reaches only its player, the target label is out of reach, and edges give no NaN."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddle_adaptseg.config.schema import Component, Pixels
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods import METHODS, Clock, build_method
from paddle_adaptseg.methods.base import Ramp, Trained
from paddle_adaptseg.models import build_model
from paddle_adaptseg.training.run import fit

CLASSES = 4
SEG = {"main": 1.0, "aux": 0.1}
ADV = {"weights": {"main": 0.1, "aux": 0.02}, "seg_weights": SEG, "discriminator_width": 4}
PRIOR = {"weights": {"main": 0.1, "aux": 0.02}, "seg_weights": SEG}
SELF = {"seg_weights": SEG, "weights": {"main": 1.0}}
SURE = {"weight": "image", "threshold": 0.2}
MASKED, NEAR = {"block": 16, "images": "one_of_each"}, {"things": ["0", "1"], "min_ratio": 0.1, "weight": 0.1}
# Every method in METHODS has at least one variant here (asserted below).
VARIANTS = {
    "source_only": ("source_only", {"seg_weights": SEG}),
    "multi": ("output_adversarial", ADV),
    "single_ls": ("output_adversarial", {**ADV, "weights": {"main": 0.1}, "seg_weights": {"main": 1.0}, "gan": "LS"}),
    "self_information": ("output_adversarial", {**ADV, "represent": "self_information"}),
    "half_size_maps": ("output_adversarial", {**ADV, "discriminator_scale": 0.5}),
    "features": ("feature_adversarial", {**ADV, "weights": {"main": 0.1}}),
    "bn_adapt": ("bn_adapt", {"seg_weights": SEG}),
    "minent": ("target_prior", {**PRIOR, "target_loss": "entropy"}),
    "minent_range": ("target_prior", {**PRIOR, "target_loss": "entropy", "options": {"ratio": 0.3}}),
    "max_square": ("target_prior", {**PRIOR, "target_loss": "max_square"}),
    "iw_max_square": ("target_prior", {**PRIOR, "target_loss": "iw_max_square"}),
    "iw_entropy": ("target_prior", {**PRIOR, "target_loss": "iw_entropy"}),
    "hard": ("target_prior", {**PRIOR, "target_loss": "hard", "options": {"threshold": 0.2}}),
    "guided": (
        "target_prior",
        {**PRIOR, "weights": {"main": 0.1}, "target_loss": "iw_max_square", "guidance": 0.2},
    ),
    "dacs": ("self_training", {**SELF, "teacher": {"decay": 0.99, "update": "after"}, "source_mean": "valid"}),
    "daformer_step": ("self_training", {**SELF, "pseudo_labels": {"weight": "pixel", "threshold": 0.3}}),
    "unmixed": (
        "self_training",
        {**SELF, "mix": "none", "pseudo_labels": SURE, "classes_from": "image"},
    ),
    "masked_and_near": ("self_training", {**SELF, "masked": MASKED, "feature_distance": NEAR}),
    "adversary_masked_and_near": (
        "output_adversarial",
        {**ADV, "masked": {**MASKED, "teacher": {}}, "feature_distance": NEAR},
    ),
    "source_free": (
        "source_free",
        {
            "weights": {"main": 1.0},
            "entropy": 0.1,
            "diversity": 0.1,
            "balance": 0.5,
            "pseudo_labels": SURE,
            "augment": None,
        },
    ),
    "distil": ("distil", {"teacher_weights": "x", "weights": {"main": 1.0, "aux": 0.1}, "seg_weights": SEG}),
    "clan_plain": ("clan", {"preheat": 5, "discriminator_width": 4}),
    "clan_weighted": ("clan", {"preheat": -1, "discriminator_width": 4}),
}
MAIN = {"weights": {"main": 0.1}, "seg_weights": {"main": 1.0}}
# The same methods on DeepLabV3+: with its main level alone, and on both with its auxiliary head.
V3PLUS = {
    "v3plus_source_only": ("source_only", {"seg_weights": {"main": 1.0}}),
    "v3plus_single": ("output_adversarial", {**MAIN, "discriminator_width": 4}),
    "v3plus_features": ("feature_adversarial", {**MAIN, "discriminator_width": 4}),
    "v3plus_max_square": ("target_prior", {**MAIN, "target_loss": "max_square"}),
    "v3plus_bn_adapt": ("bn_adapt", {"seg_weights": {"main": 1.0}}),
    "v3plus_multi": ("output_adversarial", ADV),
    "v3plus_guided": VARIANTS["guided"],
}
VARIANTS.update(V3PLUS)
MODELS = {
    "bn_adapt": {"width": 8, "norm": "batch"},
    "v3plus_bn_adapt": {"width": 8, "norm": "batch"},
    "v3plus_multi": {"width": 8, "aux": True},
    "v3plus_guided": {"width": 8, "aux": True},
}
# by the first word of a term's name
PLAYERS = {"seg": "segmenter", "adv": "segmenter", "d": "discriminators", "ent": "segmenter", "target": "segmenter",
           "weight": "segmenter", "mix": "segmenter", "masked": "segmenter", "fd": "segmenter", "pseudo": "segmenter",
           "diversity": "segmenter", "distil": "segmenter"}  # fmt: skip


def build(variant):
    paddle.seed(1)
    name, params = VARIANTS[variant]
    network = "small_v3plus" if variant in V3PLUS else "small_twin" if name == "clan" else "small"

    def make_segmenter():
        return build_model(Component(network, MODELS.get(variant, {"width": 8})), CLASSES)

    def trained(path):
        return Trained(make_segmenter(), Pixels(), tuple(map(str, range(CLASSES))))

    method = build_method(Component(name, params), make_segmenter(), CLASSES, make_segmenter, trained=trained)
    if name == "source_free":
        method.shares.set_value(paddle.arange(1, CLASSES + 1).astype("float32") / sum(range(CLASSES + 1)))
    for part in method.parts():
        part.loaded()
        for parameter in part.fixed.parameters() if hasattr(part, "fixed") else ():
            parameter.set_value(parameter * 1.1)  # at equal features the distance pulls nowhere
    return method.train()


def losses(method, batch, step=0):
    """What a step yields."""
    for part in method.parts():
        part.before_step([batch], Clock(step, 10))
    return method.all_losses(batch, Clock(step, 10))


def batch(label=None):
    paddle.seed(2)
    label = paddle.randint(0, CLASSES, [2, 64, 64]) if label is None else paddle.full([2, 64, 64], label, "int64")
    return Batch(paddle.randn([2, 3, 64, 64]), label, paddle.randn([2, 3, 64, 64]))


def test_every_method_is_tried_here():
    assert {name for name, _ in VARIANTS.values()} == set(METHODS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_loss_reaches_only_its_player(variant):
    method = build(variant)
    assert_players(method)


def assert_players(method):
    players = {n: [p for g in groups for p in g.parameters] for n, groups in method.players().items()}
    seen = set()
    for terms in losses(method, batch()):
        for name, term in terms.items():
            player = PLAYERS[name.split("_")[0]]
            seen.add(player)
            (term.loss * 1.0).backward(retain_graph=True)
            for owner, parameters in players.items():
                moved = [p for p in parameters if p.grad is not None and float(p.grad.abs().sum()) > 0]
                assert bool(moved) == (owner == player), f"{name} on {owner}"
            method.clear_gradients()
    assert seen == set(players)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("label", [255, 0])
def test_unlabelled_and_single_class_crops_give_finite_losses_and_gradients(variant, label):
    method = build(variant)
    for terms in losses(method, batch(label)):
        sum(t.weight * t.loss for t in terms.values()).backward()
        assert all(np.isfinite(float(t.loss)) for t in terms.values())
    assert all(np.isfinite(p.grad.numpy()).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_certain_predictions_give_finite_losses_and_gradients(variant):
    method = build(variant)
    for head in method.segmenter.heads.values():
        bias = np.full(CLASSES, -1e4, np.float32)
        bias[0] = 1e4  # p is exactly 0 and 1
        next(p for name, p in head.named_parameters() if name.endswith("bias")).set_value(bias)
    for terms in losses(method, batch()):
        sum(t.weight * t.loss for t in terms.values()).backward()
        assert all(np.isfinite(float(t.loss)) for t in terms.values())
    assert all(np.isfinite(p.grad.numpy()).all() for p in method.parameters() if p.grad is not None)


def test_source_only_never_looks_at_the_target():
    method = build("source_only")
    assert not method.uses_target
    real = batch()
    without = Batch(real.source_image, real.source_label, None)
    assert [list(terms) for terms in method.losses(without, Clock(0, 10))] == [["seg_main", "seg_aux"]]


def test_one_weight_is_single_level_and_two_are_multi_level():
    assert set(build("single_ls").discriminators) == {"main"}
    assert set(build("multi").discriminators) == {"main", "aux"}


def test_before_its_ramp_an_adversary_costs_nothing_and_then_grows():
    assert [Ramp(2, 4)(s) for s in range(8)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [Ramp(2)(s) for s in range(4)] == [0, 0, 1, 1]
    method = build("multi")
    method.ramp = Ramp(start=5, steps=2)
    assert len(list(method.losses(batch(), Clock(4, 10)))) == 1
    groups = list(method.losses(batch(), Clock(5, 10)))
    assert len(groups) == 3
    assert groups[1]["adv_main"].weight == pytest.approx(0.05)


SIZES = {"source": "data.source.size=", "target": "data.target.size=", "augment.crop": "data.augment.crop="}


@pytest.mark.parametrize("size", ["[1, 1]", "[97, 1]", "[15, 96]"])
@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize(
    "name", ["source_only", "adaptsegnet_multi", "minent", "clan", "bn_adapt", "feature_adversarial"]
)
def test_images_that_are_too_small_for_the_network_are_refused_with_the_least_size(tiny, name, key, size):
    if name == "source_only" and key == "target":
        return  # which it never reads
    config = tiny(f"toy/{name}", f"{SIZES[key]}{size}")
    least = math.ceil(16 / config.method.params.get("discriminator_scale", 1))
    message = f"data.{key}.*=.* is too small for {config.method.name}: width and height must be at least {least}$"
    with pytest.raises(ConfigError, match=message):
        fit(config)


def test_the_least_size_is_large_enough(tiny):
    for name in ("adaptsegnet_multi", "clan", "minent"):
        size = 32 if name != "minent" else 16
        sizes = [f"data.{d}.size=[{size}, {size}]" for d in ("source", "target", "validation")]
        assert fit(tiny(f"toy/{name}", *sizes, "method.ramp.start=0", "schedule.stop=1"), overwrite=True).step == 1


def test_evaluating_at_less_than_the_least_size_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"data.validation.size=\[97, 1\] is too small .*: .* at least 16$"):
        fit(tiny("toy/source_only", "data.validation.size=[97, 1]"))


def test_the_state_of_a_method_is_complete():
    assert {name.split(".")[0] for name in build("multi").state_dict()} == {"segmenter", "discriminators"}


def test_a_level_that_the_model_lacks_is_refused():
    vgg = build_model(Component("deeplabv2_vgg16"), CLASSES)
    with pytest.raises(ConfigError, match="no level 'aux'"):
        build_method(Component("source_only", {"seg_weights": SEG}), vgg, CLASSES)


def test_a_method_without_any_weight_is_refused():
    model = build_model(Component("small", {"width": 8}), CLASSES)
    for name, params in (("source_only", {"seg_weights": {}}), ("output_adversarial", {**ADV, "weights": {}})):
        with pytest.raises(ConfigError, match="must name a level: main, aux"):
            build_method(Component(name, params), model, CLASSES)

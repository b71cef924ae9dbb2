"""Training and networks compute what the originals computed (figures in tests/parity or $PARITY_DIR)."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from parity_runner import (
    CHANGE_FLOOR,
    CHANGE_RTOL,
    FIGURES,
    LOSS_ATOL,
    LOSS_RTOL,
    SHIPPED,
    all_files,
    configuration,
    files_of,
    kind_of,
    load_rules,
    run_case,
)

from paddle_adaptseg.config.schema import Component
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.discriminator import discriminator
from paddle_adaptseg.weights.names import rename

FORWARD_TOLERANCE = 3e-3  # of the output's rms
pytestmark = pytest.mark.usefixtures("constant_weights")  # the figures' own are set


def test_there_are_figures():
    assert list(FIGURES.rglob("*.json")), f"no figures (*.json) in {FIGURES}"


@pytest.mark.parametrize("path", all_files(), ids=lambda p: p.stem)
def test_every_figure_is_of_a_kind_method_and_network_that_is_replayed(path):
    case = json.loads(path.read_text())
    if kind_of(path) == "trajectory":
        configuration(case["config"])
    else:
        for name in case["networks"]:
            network(name)


def test_what_cannot_be_replayed_fails_by_its_name(tmp_path):
    (tmp_path / "rcs.json").write_text('{"probabilities": {}, "retry": {}}')
    with pytest.raises(AssertionError, match=r"rcs.json: figures of no kind .* \(they hold probabilities, retry\)"):
        kind_of(tmp_path / "rcs.json")
    with pytest.raises(AssertionError, match="figures of method 'dacs': known here are minent, maxsquare, clan"):
        configuration({"method": "dacs"})
    with pytest.raises(AssertionError, match="figures of network 'mit_b5': known here are deeplabv2_resnet101_2branch"):
        network("mit_b5")


def test_the_rules_beside_the_figures_are_used(tmp_path):
    assert load_rules(tmp_path).__file__ == str(SHIPPED / "rules.py")
    for name in ("rules_other.py", "rules.py"):
        (tmp_path / name).write_text(f"name = '{name}'")
        assert load_rules(tmp_path).name == name


@pytest.mark.parametrize("path", files_of("trajectory"), ids=lambda p: p.stem)
def test_training_follows_the_original_and_what_that_leaves_alone_stays(path):
    case = json.loads(path.read_text())
    readings, change = run_case(case, configuration(case["config"]))
    assert len(readings) == len(case["steps"])
    for step, (ours, theirs) in enumerate(zip(readings, case["steps"])):
        for name, value in theirs.items():
            assert name in ours, f"step {step}: no reading '{name}'; there are {', '.join(ours)}"
            np.testing.assert_allclose(ours[name], value, LOSS_RTOL, LOSS_ATOL, err_msg=f"step {step} {name}")
    for name, (total, norm) in case["change"].items():
        if "running_" in name or norm <= CHANGE_FLOOR:
            continue
        assert name in change, f"no tensor '{name}'"
        own = change[name]
        assert np.linalg.norm(own) == pytest.approx(norm, rel=CHANGE_RTOL), name
        assert abs(own.sum() - total) <= CHANGE_RTOL * norm * np.sqrt(own.size), name
    still = [n for n, (_, norm) in case["change"].items() if norm == 0.0 and "running_" not in n]
    assert still
    assert all(np.abs(change[n]).max() == 0 for n in still if n in change)


FASTER, STEPS = 4, 5


@pytest.mark.slow
@pytest.mark.parametrize("path", files_of("trajectory"), ids=lambda p: p.stem)
def test_training_with_larger_rates_and_other_weights_computes_what_it_computes_in_float64(path):
    """In float64 the same code gives the originals' figures to 1e-6, so it stands for them where there are none."""
    case = json.loads(path.read_text())
    c = case["config"]
    given = {k: FASTER * c[k] for k in ("lr", "lr_d")}
    case["config"] = {**c, **given, "steps": STEPS, "salt": f"{c['salt']}, another"}
    config = configuration(case["config"])
    single = run_case(case, config)
    paddle.set_default_dtype("float64")
    try:
        readings, change = run_case(case, config)
    finally:
        paddle.set_default_dtype("float32")
    for step, (ours, exact) in enumerate(zip(single[0], readings)):
        for name in case["steps"][0]:
            np.testing.assert_allclose(ours[name], exact[name], FASTER * LOSS_RTOL, 1e-4, err_msg=f"step {step} {name}")
    for name, exact in change.items():
        norm = np.linalg.norm(exact)
        if "running_" not in name and norm > CHANGE_FLOOR:
            assert np.linalg.norm(single[1][name]) == pytest.approx(norm, rel=CHANGE_RTOL), name


def resnet(depths, branches):
    params = {"depths": depths, "aspp_branches": branches}
    return lambda: build_model(Component("deeplabv2_resnet", params), 19), "deeplabv2_resnet", ("aux", "main")


NETWORKS = {
    "deeplabv2_resnet101_2branch": resnet([3, 4, 23, 3], 2),
    "deeplabv2_resnet101_4branch": resnet([3, 4, 23, 3], 4),
    "clan_resnet101": (
        lambda: build_model(Component("deeplabv2_resnet_twin", {"aspp_branches": 4}), 19),
        "deeplabv2_resnet_twin",
        ("first", "second"),
    ),
    "deeplabv2_eval_1111": resnet([1, 1, 1, 1], 2),
    "deeplabv3plus_resnet101": (
        lambda: build_model(Component("deeplabv3plus_resnet"), 19),
        "deeplabv3plus_resnet",
        ("main",),
    ),
    "deeplabv2_vgg16": (lambda: build_model(Component("deeplabv2_vgg16"), 19), "deeplabv2_vgg16", ("main",)),
    "discriminator": (lambda: discriminator(19), "discriminator", (None,)),
}
FORWARD_CASES = [(path, name) for path in files_of("forward") for name in json.loads(path.read_text())["networks"]]


def network(name):
    """How a network of the figures is built; one that is not known here is an error."""
    assert name in NETWORKS, f"figures of network '{name}': known here are {', '.join(NETWORKS)}"
    return NETWORKS[name]


@pytest.mark.parametrize(("path", "key"), FORWARD_CASES, ids=lambda value: getattr(value, "stem", value))
def test_network_computes_what_the_original_computes(path, key):
    assert network_deviation(path, key) <= FORWARD_TOLERANCE


def network_deviation(path, key) -> float:
    """How far a network's outputs are from the figures at most, as a part of the output's rms."""
    build, kind, levels = network(key)
    figures, rules = json.loads(path.read_text()), load_rules()
    case, salt = figures["networks"][key], figures["salt"]
    net = build()
    own = net.state_dict()
    given = {rename(name, kind): (name, shape) for name, shape in case["tensors"].items()}
    assert set(own) <= set(given)
    for name, tensor in own.items():
        original, shape = given[name]
        assert list(tensor.shape) == shape
        tensor.set_value(rules.values("G." + original, tuple(shape), salt))
    net.train() if case["mode"] == "train" else net.eval()
    for layer in net.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.eval()  # the figures were made without dropout
    image, probability = rules.forward_input(salt, figures["input"])
    with paddle.no_grad():
        if levels == (None,):
            outputs = {None: net(paddle.to_tensor(probability))}
        elif case["outputs"][0]["shape"][2:] == list(image.shape[2:]):
            outputs = net(paddle.to_tensor(image))
        else:
            outputs = net.logits(paddle.to_tensor(image))
    assert len(case["outputs"]) == len(levels)
    worst = 0.0
    for level, expected in zip(levels, case["outputs"]):
        value = outputs[level].numpy().astype(np.float64)
        assert list(value.shape) == expected["shape"]
        rms = expected["l2"] / np.sqrt(value.size)
        worst = max(worst, np.abs(value.ravel()[expected["index"]] - expected["value"]).max() / rms)
    return worst

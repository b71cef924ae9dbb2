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
    configuration,
    load_rules,
    run_case,
    trajectory_files,
)

from paddle_adaptseg.config import Component
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.discriminator import discriminator
from paddle_adaptseg.weights.names import rename

FORWARD_TOLERANCE = 3e-3  # of the output's rms


@pytest.mark.parametrize("path", trajectory_files(), ids=lambda p: p.stem)
def test_training_follows_the_original(path):
    case = json.loads(path.read_text())
    config = configuration(case["config"])
    if isinstance(config, str):
        pytest.skip(f"method '{config}' is not built yet")
    readings, change = run_case(case, config)
    for step, (ours, theirs) in enumerate(zip(readings, case["steps"])):
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, LOSS_RTOL, LOSS_ATOL, err_msg=f"step {step} {name}")
    for name, (total, norm) in case["change"].items():
        if "running_" in name or norm <= CHANGE_FLOOR:
            continue
        own = change[name]
        assert np.linalg.norm(own) == pytest.approx(norm, rel=CHANGE_RTOL), name
        assert abs(own.sum() - total) <= CHANGE_RTOL * norm * np.sqrt(own.size), name


@pytest.mark.parametrize("path", trajectory_files(), ids=lambda p: p.stem)
def test_what_the_original_leaves_alone_stays(path):
    case = json.loads(path.read_text())
    config = configuration(case["config"])
    if isinstance(config, str):
        pytest.skip(f"method '{config}' is not built yet")
    still = [n for n, (_, norm) in case["change"].items() if norm == 0.0 and "running_" not in n]
    _, change = run_case({**case, "config": {**case["config"], "steps": 1}}, config)
    assert still
    assert all(np.abs(change[n]).max() == 0 for n in still if n in change)


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
FORWARD = FIGURES / "forward.json"
FORWARD_CASES = json.loads(FORWARD.read_text()) if FORWARD.exists() else {"networks": {}}


@pytest.mark.parametrize("key", FORWARD_CASES["networks"])
def test_network_computes_what_the_original_computes(key):
    if key not in NETWORKS:
        pytest.skip(f"network '{key}' is not built yet")
    build, kind, levels = NETWORKS[key]
    case, rules, salt = FORWARD_CASES["networks"][key], load_rules(), FORWARD_CASES["salt"]
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
    image, probability = rules.forward_input(salt, FORWARD_CASES["input"])
    with paddle.no_grad():
        if levels == (None,):
            outputs = {None: net(paddle.to_tensor(probability))}
        elif case["outputs"][0]["shape"][2:] == list(image.shape[2:]):
            outputs = net(paddle.to_tensor(image))
        else:
            outputs = net.logits(paddle.to_tensor(image))
    assert len(case["outputs"]) == len(levels)
    for level, expected in zip(levels, case["outputs"]):
        value = outputs[level].numpy().astype(np.float64)
        assert list(value.shape) == expected["shape"]
        rms = expected["l2"] / np.sqrt(value.size)
        np.testing.assert_allclose(
            value.ravel()[expected["index"]], expected["value"], 0, FORWARD_TOLERANCE * rms, err_msg=str(level)
        )

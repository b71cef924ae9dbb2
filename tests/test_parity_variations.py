"""The replays take figures of HRDA of other shapes: other numbers of classes, one attention, other sizes and blocks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ROOT
from parity_evaluation import run_inference
from parity_networks import classes_of
from parity_self_training import Replay, run_gradient, run_network
from test_parity_self_training import TOLERANCE, check_step

from paddle_adaptseg.core import runtime

FIGURES = ROOT / "tests/parity_selftraining"
CLASSES = 11


def figures(name):
    return json.loads((FIGURES / f"{name}.json").read_text())


def other(part, **hrda):
    """A figure whose network has other classes, and one attention for all of them."""
    model = part.get("config", part)["model"]
    if "hrda" in model:
        model["hrda"].update(attention_classwise=False, **hrda)
    for name, shape in part["tensors"].items():
        if shape[0] == 19:
            shape[0] = 1 if "scale_attention" in name else CLASSES
    return part


def of_networks(kind, name, **more):
    return {**figures(f"{kind}_selftraining")["networks"][name], **more}


@pytest.mark.parametrize("name", ["hrda_train", "hrda_eval", "hrda_dlv2_train", "daformer_mit_b0"])
def test_a_network_of_other_classes_is_replayed(name):
    part = other(of_networks("forward", name))
    assert classes_of(part["tensors"]) == CLASSES
    outputs, _ = run_network(part, name)
    assert {value.shape[1] for key, value in outputs.items() if key in ("fused", "logits")} == {CLASSES}


@pytest.mark.parametrize("size", [(72, 240), (152, 248)])
def test_windows_of_other_classes_and_sizes_are_replayed(size):
    part = other(of_networks("evaluation", "hrda_slide_rescaled", input=[1, 3, *size], ori_shape=[77, 131]))
    found = run_inference(part)
    assert found.shape == (CLASSES, 77, 131)
    np.testing.assert_allclose(found.sum(axis=0), 1.0, rtol=1e-5)


def test_a_gradient_of_other_classes_is_replayed():
    part = other(of_networks("gradient", "dlv2red_r1111v1c"))
    loss, own = run_gradient(part)
    assert np.isfinite(loss) and set(own) == set(part["gradient"])


def replayed(case):
    with runtime.fresh_names():
        return Replay(case).step(0)


def test_steps_of_other_classes_sizes_and_blocks_are_replayed():
    case = other(figures("mic_hrda"), crop=[72, 88], feature_scale="all", lr_loss_weight=0.1, divisible=16)
    c, boxes = case["config"], {"seg": [0, 72, 16, 104], "mix": [48, 120, 32, 120], "masked": [16, 88, 0, 88]}
    c.update(classes=CLASSES, n=1, size=[128, 192], label_cell=48)
    c["mask"].update(block=40, mode="separate", alpha=0.9)
    case["given"] = [{"crops": boxes, "classes": [[0, 1, 2, 3, 4]], "blocks": np.ones([2, 3, 5]).tolist()}]
    shown = replayed(case)
    terms = {f"{name}{level}" for name in ("seg", "mix", "masked") for level in ("", "_lr", "_hr")}
    assert terms <= set(shown) and all(np.isfinite(shown[name]) for name in terms)
    assert len(shown["ps_labels"]) == len(shown["mask_ps_labels"]) == CLASSES and shown["fd_scales"] == 2


def test_feature_distance_of_which_one_scale_has_no_cell_is_not_compared():
    shown = {"fd": 3.0, "fd_cells": 2.0, "fd_scales": 2}
    check_step(shown, {"fd": None, "fd_cells": 2.0}, TOLERANCE, "here")
    with pytest.raises(AssertionError):
        check_step({**shown, "fd_scales": 1}, {"fd": None, "fd_cells": 2.0}, TOLERANCE, "here")
    with pytest.raises(AssertionError):
        check_step(shown, {"fd": 4.0, "fd_cells": 2.0}, TOLERANCE, "here")

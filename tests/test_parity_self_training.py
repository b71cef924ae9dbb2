"""Self-training computes what the original programs computed (figures in tests/parity_* or $PARITY_DIR)."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from parity_runner import KINDS
from parity_self_training import (
    SAME_START,
    TOLERANCE,
    all_files,
    check_probe,
    files,
    kind_of,
    load_rules,
    parts,
    rare_rule,
    run_gradient,
    run_network,
    sampling_counts,
)
from parity_vfm_uda import COMPONENTS as VFM_COMPONENTS
from parity_vfm_uda import replay_of

from paddle_adaptseg.config.schema import Schedule
from paddle_adaptseg.core import runtime
from paddle_adaptseg.data.rare_classes import files_of, first_good, is_enough, probabilities
from paddle_adaptseg.methods.augment import blur_kernel
from paddle_adaptseg.methods.feature_distance import pool_label
from paddle_adaptseg.methods.mixing import block_grid, block_mask, choose_half, paste, pasted_pixels, present_values
from paddle_adaptseg.methods.teacher import Teacher, without_margins
from paddle_adaptseg.training.optim import poly
from paddle_adaptseg.weights.names import rename

KNOWN = ("trajectory", "rcs", "forward", "gradient", "evaluation", "components")


def test_every_file_of_figures_is_of_a_known_kind():
    read = {path: json.loads(path.read_text()) for path in all_files()}
    ours = {
        path: figures for path, figures in read.items() if set(figures) not in KINDS.values()
    }  # or test_parity.py's
    unknown = [path.name for path, figures in ours.items() if kind_of(figures) not in KNOWN]
    assert not unknown, f"no replay for {unknown}"


@pytest.mark.parametrize("path", files("trajectory"), ids=lambda p: p.stem)
def test_training_follows_the_original(path):
    case = json.loads(path.read_text())
    tolerance = SAME_START if (case["config"].get("fd") or {}).get("imnet") == "G" else TOLERANCE
    with runtime.fresh_names():
        replay = replay_of(case)
        known = {rename(name, replay.kind): name for name in replay.start}
        wanted = {key: {rename(n, replay.kind) for n in names} & set(known) for key, names in case["groups"].items()}
        assert replay.groups() == {key: names for key, names in wanted.items() if names}
        for number, (ours, theirs) in enumerate(zip(replay.run(), case["steps"])):
            check_step(ours, theirs, tolerance, f"{path.stem} step {number}")
        for part, network in replay.networks().items():
            check_change(replay.change(network), case, part, tolerance)


def check_step(ours, theirs, tolerance, where):
    for name, value in theirs.items():
        place = f"{where} {name}"
        if name == "lr":
            assert ours[name] == pytest.approx(value, rel=tolerance.rate), place
        elif name.endswith("ps_labels"):
            assert np.abs(np.subtract(ours[name], value)).max() <= tolerance.pixels * sum(value), place
        elif name.endswith("ps_weight"):
            assert ours[name] == pytest.approx(value, abs=tolerance.weight), place
        elif name == "logged":
            check_logged(ours.get(name, {}), value, tolerance, place)
        elif name == "no_gradient":
            assert ours[name] == sorted(value), place
        elif name in ("fd_cells", "ps_weighted_pixels"):
            assert ours[name] == value, place
        elif name == "fd" and value is None and ours["fd_scales"] > 1:
            continue  # an empty mask of one scale made the original's sum NaN, whatever the other scale is
        else:
            assert ours[name] == pytest.approx(value or 0.0, rel=tolerance.loss, abs=1e-6), (
                place
            )  # null: NaN of nothing


def check_logged(own, logged, tolerance, place):
    for name, value in own.items():
        assert value == pytest.approx(logged[name], rel=tolerance.loss, abs=1e-6), f"{place} {name}"


def check_change(own, case, part, tolerance):
    halves, thirds = (case.get(key, {}).get(part, {}) for key in ("change_v_half", "change_qv"))
    for name, (total, norm) in case["change"][part].items():
        if name not in own:  # nothing uses it
            assert norm == 0.0 or name in case["noise"], name
            continue
        array = own[name]
        if name in thirds:
            third = array.size // 3
            check_tensor(array[:third], *thirds[name][:2], tolerance, f"{part} {name} of q")
            check_tensor(array[-third:], *thirds[name][2:], tolerance, f"{part} {name} of v")
        elif name in halves:
            check_tensor(array[array.size // 2 :], *halves[name], tolerance, f"{part} {name} of v")
        elif name not in case["noise"] and "running_" not in name:
            check_tensor(array, total, norm, tolerance, f"{part} {name}")


def check_tensor(array, total, norm, tolerance, name):
    if norm > tolerance.floor:
        assert np.linalg.norm(array) == pytest.approx(norm, rel=tolerance.change), name
        assert abs(array.sum() - total) <= tolerance.change * norm * np.sqrt(array.size), name
    elif norm == 0.0:
        assert np.linalg.norm(array) < 1e-6, name


@pytest.mark.parametrize(("path", "name"), parts("forward"))
def test_a_network_computes_what_the_original_computes(path, name):
    part = json.loads(path.read_text())["networks"][name]
    outputs, depth = run_network(part, name)
    assert set(outputs) == set(part["outputs"])
    for key, expected in part["outputs"].items():
        value, rms = outputs[key], expected["l2"] / np.sqrt(np.prod(expected["shape"]))
        assert list(value.shape) == expected["shape"], key
        tolerance = TOLERANCE.deep_probe if depth > 20 else TOLERANCE.probe
        np.testing.assert_allclose(value.ravel()[expected["index"]], expected["value"], 0, tolerance * rms, err_msg=key)


@pytest.mark.parametrize(("path", "name"), parts("gradient"))
def test_a_gradient_is_that_of_the_original(path, name):
    part = json.loads(path.read_text())["networks"][name]
    loss, own = run_gradient(part)
    assert loss == pytest.approx(part["loss"], rel=TOLERANCE.gradient_loss)
    for tensor, (_, norm) in part["gradient"].items():
        array = own[tensor]
        if tensor in part["gradient_v_half"]:
            norm, array = part["gradient_v_half"][tensor][1], array[array.size // 2 :]
        elif tensor in part["noise"]:
            continue
        assert np.linalg.norm(array) == pytest.approx(norm, rel=TOLERANCE.gradient), tensor


@pytest.mark.parametrize("path", files("rcs"), ids=lambda p: p.stem)
def test_rare_classes_are_sampled_as_by_the_original(path):
    figures = json.loads(path.read_text())
    names, counts = sampling_counts(figures)
    tables = [(counts.sum(axis=0), float(t), row) for t, row in figures["probabilities"].items()]
    for row in figures.get("shipped", {}).values():
        totals = np.array([row["totals"].get(str(c), 0) for c in range(19)])
        tables.append((totals, 0.05, row))  # of VFM-UDA's release
    for totals, temperature, row in tables:
        classes, chance = probabilities(totals, temperature)
        assert classes.tolist() == row["classes"]
        np.testing.assert_allclose(chance, row["float64"], atol=1e-10)
        np.testing.assert_allclose(chance, row["float32"], atol=1e-5)
    own = {str(c): [names[i] for i in found] for c, found in files_of(counts, figures["min_pixels"]).items()}
    expected = {c: [str(name) for name in found] for c, found in figures["files_per_class"].items()}
    assert {c: found for c, found in own.items() if found or c in expected} == expected


@pytest.mark.parametrize("path", files("rcs"), ids=lambda p: p.stem)
def test_crops_are_drawn_again_as_by_the_original(path):
    figures = json.loads(path.read_text())
    assert {"retry", "crops"} & set(figures)
    for case in figures.get("retry", {}).get("cases", []):
        rule, pixels = rare_rule(figures, figures["retry"]), case["pixels_of_each_draw"]
        labels = [np.repeat([0, 1], [n, 512 * 512 - n]).astype(np.uint8) for n in pixels]
        draws, label = first_good(labels.__getitem__, lambda x, rule=rule: is_enough(x, 0, rule), rule.tries)
        assert (draws, int((label == 0).sum())) == (case["draws"], case["kept_pixels"])
    for case in figures.get("crops", []):
        rule = rare_rule(figures, figures, tries=20, largest_share=0.75)
        label = load_rules("vfm").label3(case["salt"], 1, case["size"], 19, case["cell"])[0].astype(np.uint8)
        for y1, y2, x1, x2, value in case["edits"]:
            label[y1:y2, x1:x2] = value
        side = figures["crop_size"]
        padded = np.full([max(n, side) for n in label.shape], 255, np.uint8)
        padded[: label.shape[0], : label.shape[1]] = label

        def load(attempt, boxes=case["boxes"], padded=padded):
            y, x, height, width = boxes[attempt]
            return padded[y : y + height, x : x + width]

        draws, crop = first_good(load, lambda x, c=case, r=rule: is_enough(x, c["chosen"], r), rule.tries)
        assert (draws, int((crop == case["chosen"]).sum())) == (case["draws"], case["kept_pixels"])
        assert int(crop.astype(np.int64).sum()) == case["label_sum"] and case["boxes"][draws - 1] == case["box"]


def classmix(part):
    source, label, target = load_rules().batch2(0, part["salt"], part["n"], part["size"], part["classes"], part["cell"])
    pseudo = load_rules().batch2(1, part["salt"], part["n"], part["size"], part["classes"], part["cell"])[1]
    label, pseudo = paddle.to_tensor(label), paddle.to_tensor(np.where(pseudo == 255, 10, pseudo))
    top, bottom = part["zero_rows_top_bottom"]
    weight = without_margins(paddle.full(label.shape, part["weight"]), (top, bottom, 0, 0))
    ranks = np.full((part["n"], 256), 0.9, np.float32)
    for row, chosen in zip(ranks, part["chosen"]):
        row[chosen] = 0.1
    present = present_values(label).max(axis=0, keepdim=True).expand([part["n"], 256])
    pasted = pasted_pixels(label, choose_half(present, paddle.to_tensor(ranks)))
    image = paste(pasted, paddle.to_tensor(source), paddle.to_tensor(target))
    check_probe(image, part["image"])
    check_probe(paste(pasted, paddle.ones_like(weight), weight), part["weight_out"])
    mixed = np.bincount(paste(pasted, label, pseudo).numpy().ravel(), minlength=256)
    assert mixed.tolist() == part["label_counts"]


def fd_label(part):
    label = load_rules().label2(part["salt"], part["n"], part["size"], 19, part["cell"])
    size = [n // part["scale"] for n in part["size"]]
    pooled = pool_label(paddle.to_tensor(label), size, 19, part["min_ratio"])
    np.testing.assert_array_equal(pooled.numpy(), part["pooled"])


def block_masks(cases):
    for case in cases:
        grid = block_grid(case["size"], case["block"])
        assert list(grid) == case["grid"]
        drawn = load_rules().mask_stream(case["salt"], 0).uniform(size=(case["n"], 1, *grid))[:, 0] > case["ratio"]
        kept = np.array(case["kept"], bool)
        assert kept.shape == drawn.shape
        mask = block_mask(kept, case["size"]).numpy()[:, 0]
        np.testing.assert_array_equal(mask.sum(axis=2), case["rows_kept"])
        np.testing.assert_array_equal(mask.sum(axis=1), case["columns_kept"])


def poly_warmup(part):
    schedule = Schedule(part["max_iters"], part["max_iters"], part["power"], part["warmup_iters"], part["warmup_ratio"])
    for step, rate in part["rates"].items():
        assert part["lr"] * poly(int(step), schedule) == pytest.approx(rate, rel=TOLERANCE.rate), step


def ema_factor(part):
    for step, factor in part["factor_of_the_old_teacher"].items():
        assert Teacher(part["alpha"]).factor(int(step)) == pytest.approx(factor, rel=1e-9), step


def blur_kernels(part):
    assert {side: blur_kernel(int(side)) for side in part} == part


COMPONENTS = {"classmix": classmix, "block_masks": block_masks, "poly_warmup": poly_warmup, "ema_factor": ema_factor,
              "blur_kernel": blur_kernels}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "name"),
    [pytest.param(p, n, id=f"{p.stem}-{n}") for p in files("components") for n in json.loads(p.read_text())],
)
def test_a_part_alone_is_that_of_the_original(path, name):
    figures = json.loads(path.read_text())
    replays = VFM_COMPONENTS if "vit_in_img_size" in figures else COMPONENTS
    replay = fd_label if name.startswith("fd_label") else replays.get(name)
    assert replay is not None, f"no replay for '{name}'"
    replay(figures[name])

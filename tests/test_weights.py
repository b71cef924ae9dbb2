"""Weights come in from every format and kind without running anything that a file says."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paddle.nn.initializer import Assign
from parity_runner import SHIPPED, load_rules

from paddle_adaptseg.config.loading import dump
from paddle_adaptseg.config.schema import Component
from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.models import build_model
from paddle_adaptseg.weights import arrays_of, coverage, load_arrays, save_weights
from paddle_adaptseg.weights.kinds import KINDS, identify, trained_branches, translate
from paddle_adaptseg.weights.load import convert_weights, fitting_weights, load_model
from paddle_adaptseg.weights.reader import read_weights
from paddle_adaptseg.weights.zoo import check_entry, find_entry, zoo, zoo_page

torch = pytest.importorskip("torch", reason="PyTorch, which only the tests need, has no build here")

CASES = json.loads((SHIPPED / "forward.json").read_text())
PROOF = Path("/tmp/adaptseg_must_not_run")


def tensors(key):
    """The tensors of a parity network under their original names."""
    rules = load_rules()
    shapes = CASES["networks"][key]["tensors"]
    return OrderedDict((n, rules.values("G." + n, tuple(s), CASES["salt"])) for n, s in shapes.items())


def translated_weights(path, config):
    return fitting_weights(read_weights(path), path, config)


def save(path, arrays, zipped, wrap=lambda x: x):
    state = OrderedDict((k, torch.from_numpy(np.array(v))) for k, v in arrays.items())
    torch.save(wrap(state), path, _use_new_zipfile_serialization=zipped)
    return path


WRAPS = {
    "alone": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "best": np.float64(0.5)},
    "model, module.": lambda s: {"model": OrderedDict((f"module.{k}", v) for k, v in s.items())},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stacked pickles"])
@pytest.mark.parametrize("wrap", WRAPS)
def test_both_formats_of_pytorch_are_read_to_the_last_bit(tmp_path, zipped, wrap):
    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones(3, np.float16),
        "count": np.array(7),
        "empty": np.zeros((0, 2), np.float32),
    }
    loaded, text, _ = read_weights(save(tmp_path / "w.pth", arrays, zipped, WRAPS[wrap]))
    assert text == "" and set(loaded) == set(arrays)
    assert all(np.array_equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in arrays.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_views_parameters_and_bfloat16_are_read(tmp_path, zipped):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"t": base.t(), "slice": base[1:, ::2], "p": torch.nn.Parameter(base), "b": base.bfloat16()}
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    loaded = read_weights(tmp_path / "w.pth").arrays
    assert all(np.array_equal(loaded[k], v.detach().float().numpy()) for k, v in state.items())


NETWORKS = {  # parity network -> (kind, model, levels)
    "deeplabv2_eval_1111": ("multi", {"name": "deeplabv2_resnet", "depths": [1, 1, 1, 1], "aspp_branches": 2}),
    "deeplabv2_vgg16": ("vgg", {"name": "deeplabv2_vgg16", "aspp_branches": 2}),
    "deeplabv2_resnet101_4branch": ("multi", {"name": "deeplabv2_resnet", "aspp_branches": 4}),
    "clan_resnet101": ("clan", {"name": "deeplabv2_resnet_twin", "aspp_branches": 4}),
    "deeplabv3plus_resnet101": ("v3plus", {"name": "deeplabv3plus_resnet"}),
}


@pytest.mark.parametrize("key", NETWORKS)
def test_original_checkpoints_are_covered_whole_and_give_the_original_outputs(tmp_path, key, constant_weights):
    kind, params = NETWORKS[key]
    arrays = read_weights(save(tmp_path / "w.pth", tensors(key), zipped=key != "clan_resnet101")).arrays
    assert identify(arrays) == kind
    params = dict(params)
    model = build_model(Component(params.pop("name"), params), 19)
    branches = params.get("aspp_branches")
    assert load_arrays(model, translate(arrays, kind, branches), "file") == []
    case = CASES["networks"][key]
    model.train() if case["mode"] == "train" else model.eval()
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.eval()
    image = paddle.to_tensor(load_rules().forward_input(CASES["salt"], CASES["input"])[0])
    with paddle.no_grad():
        outputs = model(image) if kind == "v3plus" else model.logits(image)
    names = {"clan": ("first", "second"), "vgg": ("main",), "v3plus": ("main",)}.get(kind, ("aux", "main"))
    for level, expected in zip(names, case["outputs"]):
        rms = expected["l2"] / np.sqrt(np.prod(expected["shape"]))
        found = outputs[level].numpy().ravel()[expected["index"]]
        np.testing.assert_allclose(found, expected["value"], 0, 3e-3 * rms)


def small(prefix="", classes=19, fc=False):
    arrays = {n: a for n, a in tensors("deeplabv2_eval_1111").items() if not n.startswith(("layer5", "layer6"))}
    if classes:
        arrays["layer5.conv2d_list.0.weight"] = np.zeros((classes, 2048, 3, 3), np.float32)
        arrays["layer5.conv2d_list.0.bias"] = np.zeros(classes, np.float32)
    if fc:
        arrays["fc.weight"] = np.zeros((1000, 2048), np.float32)
    return {prefix + n: a for n, a in arrays.items()}


def test_kinds_are_told_apart():
    assert identify(small("Scale.", 21)) == "initial"
    assert identify(small()) == "single"
    assert identify(small(classes=0, fc=True)) == "imagenet_resnet"
    vgg = {f"features.{n}.weight": np.zeros(1) for n in (0, 24, 26, 28)}
    assert identify({**vgg, "classifier.0.weight": np.zeros(1)}) == "imagenet_vgg"
    assert set(translate(vgg, "imagenet_vgg")) == {f"backbone.{n}.weight" for n in (0, 23, 25, 27)}
    assert identify({"heads.main.branches.0.bias": np.zeros(1)}) == "ours"
    assert identify({"encoder.weight": np.zeros(1)}) is None
    assert not [n for n in translate(small("Scale.", 21), "initial") if "layer5" in n or "heads" in n]


def single(level):
    """AdaptSegNet's single-level network calls its head layer5, ADVENT's layer6."""
    arrays = {n: a for n, a in tensors("deeplabv2_eval_1111").items() if not n.startswith("layer5")}
    return {n.replace("layer6", level): a for n, a in arrays.items()}


def backbone(prefix="", **more):
    arrays = {n: a for n, a in tensors("deeplabv2_eval_1111").items() if not n.startswith(("layer5", "layer6"))}
    counted = {n[: -len("running_mean")] + "num_batches_tracked": np.array(5) for n in arrays if "running_mean" in n}
    return {**{prefix + n: a for n, a in {**arrays, **counted}.items()}, **more}


def vgg_of_torchvision():
    ours = {n: a for n, a in tensors("deeplabv2_vgg16").items() if n.startswith("features.")}
    ours = {n: a for n, a in ours.items() if int(n.split(".")[1]) < 29}
    back = {"23": "24", "25": "26", "27": "28"}
    arrays = {re.sub(r"\.(23|25|27)\.", lambda m: f".{back[m.group(1)]}.", n): a for n, a in ours.items()}
    return {**arrays, "classifier.0.weight": np.zeros((8, 8), np.float32), "classifier.0.bias": np.zeros(8, np.float32)}


def resnet_vd():
    """PaddleSeg's names, spelt out from a network of ours."""
    model = build_model(Component("deeplabv2_resnet", {"depths": [1, 2, 1, 1], "variant": "vd"}), 19)
    arrays = {}
    for name, array in arrays_of(model.backbone).items():
        parts = name.split(".")
        if parts[0] == "stem":
            number, kind = divmod(int(parts[1]), 3)
            name = f"conv1_{number + 1}.{('_conv', '_batch_norm')[kind]}.{parts[2]}"
        else:
            layer = {"conv": "_conv", "bn": "_batch_norm", "0": "_conv", "1": "_batch_norm"}
            shortcut = parts[2] == "downsample"
            part = "short" if shortcut else f"conv{int(parts[2][-1]) - 1}"
            kind = layer[parts[3] if shortcut else parts[2][:-1]]
            name = f"bb_{int(parts[0][-1]) - 1}_{parts[1]}.{part}.{kind}.{parts[-1]}"
        arrays[name] = array
    return {**arrays, "out.weight": np.zeros((4, 4), np.float32)}


ONE = {"depths": [1, 1, 1, 1]}
HEAD21 = {f"Scale.layer5.conv2d_list.{i}.{p}": np.zeros((21, 4, 3, 3) if p == "weight" else 21, np.float32)
          for i in range(4) for p in ("weight", "bias")}  # fmt: skip
FC = {"fc.weight": np.zeros((1000, 2048), np.float32), "fc.bias": np.zeros(1000, np.float32)}
KNOWN = {  # kind -> (tensors under original names, model name, parameters, what may start anew)
    "multi": (lambda: tensors("deeplabv2_eval_1111"), "deeplabv2_resnet", {**ONE, "aspp_branches": 4}, ""),
    "single": (lambda: single("layer5"), "deeplabv2_resnet", {**ONE, "aux": False, "aspp_branches": 4}, ""),
    "single_last": (lambda: single("layer6"), "deeplabv2_resnet", {**ONE, "aux": False, "aspp_branches": 4}, ""),
    "vgg": (lambda: tensors("deeplabv2_vgg16"), "deeplabv2_vgg16", {"aspp_branches": 4}, ""),
    "initial": (lambda: backbone("Scale.", **HEAD21), "deeplabv2_resnet", ONE, "heads."),
    "imagenet_resnet": (lambda: backbone(**FC), "deeplabv2_resnet", {**ONE, "stride_in": "3x3"}, "heads."),
    "imagenet_vgg": (vgg_of_torchvision, "deeplabv2_vgg16", {}, ("heads.", "backbone.29.", "backbone.31.")),
    "paddleseg_resnet_vd": (
        resnet_vd, "deeplabv2_resnet", {"depths": [1, 2, 1, 1], "variant": "vd", "stride_in": "3x3"}, "heads."
    ),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stacked pickles"])
@pytest.mark.parametrize("kind", KNOWN)
def test_every_kind_is_covered_whole_from_both_formats(tmp_path, kind, zipped, constant_weights):
    make, name, params, anew = KNOWN[kind]
    arrays = read_weights(save(tmp_path / "w.pth", make(), zipped, WRAPS["model, module."])).arrays
    assert identify(arrays) == kind
    model = build_model(Component(name, params), 19)
    found = coverage(model, translate(arrays, kind, params.get("aspp_branches")))
    assert not found.unused and not found.reshaped
    assert not [n for n in found.missing if not (anew and n.startswith(anew))]
    assert not [n for n in found.missing if not re.search(KINDS[kind].absent, n)]
    assert len(found.fitting) + len(found.missing) == len(model.state_dict())


def test_files_of_the_paddle_ports_and_of_paddle_vision_are_read_as_paddle_writes_them(tmp_path):
    port = {n.replace("running_mean", "_mean").replace("running_var", "_variance"): paddle.to_tensor(a)
            for n, a in tensors("deeplabv2_eval_1111").items()}  # fmt: skip
    paddle.save(port, str(tmp_path / "port.pdparams"))
    arrays = read_weights(tmp_path / "port.pdparams").arrays
    model = build_model(Component("deeplabv2_resnet", {**ONE, "aspp_branches": 4}), 19)
    assert identify(arrays) == "multi" and load_arrays(model, translate(arrays, "multi", 4), "file") == []

    theirs = paddle.vision.models.resnet50(pretrained=False)
    paddle.save(theirs.state_dict(), str(tmp_path / "resnet.pdparams"))
    arrays = read_weights(tmp_path / "resnet.pdparams").arrays
    assert identify(arrays) == "imagenet_resnet"
    model = build_model(Component("deeplabv2_resnet", {"depths": [3, 4, 6, 3], "stride_in": "3x3"}), 19)
    translated = translate(arrays, "imagenet_resnet")
    report = load_arrays(model, translated, "file", absent=KINDS["imagenet_resnet"].absent)
    assert report[0].startswith("8 missing: heads.") and len(report) == 1
    theirs.eval(), model.eval()
    x = paddle.randn([1, 3, 65, 65])
    with paddle.no_grad():
        stem = theirs.relu(theirs.bn1(theirs.conv1(x)))
        same = theirs.layer2(theirs.layer1(model.backbone.pool(stem)))  # what follows is dilated in ours
        found, same = model.backbone(x)[1].numpy(), same.numpy()
        np.testing.assert_allclose(found, same, 0, 2e-5 * np.abs(same).max())  # of the largest: weights are random


def test_the_vd_shortcut_averages_before_its_convolution():
    block = build_model(Component("deeplabv2_resnet", {"depths": [1, 1, 1, 1], "variant": "vd"}), 19).backbone.layer2[0]
    block.eval()
    x = paddle.randn([1, 256, 7, 9])
    with paddle.no_grad():
        y = block.bn3(block.conv3(F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))))))
        short = block.downsample(F.avg_pool2d(x, 2, 2, ceil_mode=True))
        np.testing.assert_allclose(block(x).numpy(), F.relu(y + short).numpy(), rtol=1e-5, atol=1e-5)
    assert block.downsample[0]._stride == [1, 1]


def test_partial_weights_are_refused_unless_their_kind_is_known_to_lack_what_is_missing(tmp_path):
    arrays = backbone("Scale.", **HEAD21)
    del arrays["Scale.layer3.0.conv2.weight"]
    with pytest.raises(CheckpointError, match="1 missing|backbone.layer3.0.conv2.weight"):
        convert_weights(save(tmp_path / "w.pth", arrays, True), None, config())


@pytest.mark.parametrize("kind", ["single", "initial", "paddleseg_resnet_vd"])
def test_a_converted_file_remembers_its_origin_and_starts_training(tmp_path, kind):
    make, name, params, _ = KNOWN[kind]
    source, output = save(tmp_path / "theirs.pth", make(), False), tmp_path / "ours.pdparams"
    depths = f"model.depths={params['depths']}"
    lines = convert_weights(source, output, config(depths))
    assert "0 unused, 0 of another shape" in lines[1]
    weights = read_weights(output)
    assert weights.origin["kind"] == kind and weights.origin["source"] == "theirs.pth"
    assert weights.origin["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert set(weights.origin) == {"source", "sha256", "kind", "aspp_branches", "norm", "pixels"}
    settings = config(depths, *KINDS[kind].overrides(), *(["model.aspp_branches=4"] if kind == "single" else []))
    arrays, known = translated_weights(output, settings)
    load_arrays(build_model(settings.model, 19), arrays, "file", absent=known.absent)
    if kind == "paddleseg_resnet_vd":
        with pytest.raises(CheckpointError, match="was trained on other pixels"):
            translated_weights(output, config(depths))


@pytest.mark.parametrize(
    ("saved", "used", "message"),
    [
        (
            ["data.pixels.order=rgb"],
            [],
            r"\(weights of this project\) was trained on other pixels: use -o .*order=rgb$",
        ),
        ([], ["data.pixels.std=[2,2,2]"], r"was trained on other pixels: use -o data.pixels.std=\[1.0,1.0,1.0\]"),
        (["model.stride_in=3x3"], [], "needs -o model.stride_in=3x3"),
        ([], ["model.stride_in=3x3"], "needs -o model.stride_in=1x1"),
    ],
)
def test_our_own_weights_are_held_to_the_configuration_that_they_carry(tmp_path, saved, used, message):
    model = build_model(config(*saved).model, 19)
    save_weights(tmp_path / "w.pdparams", arrays_of(model), dump(config(*saved)))
    assert translated_weights(tmp_path / "w.pdparams", config(*saved, "model.norm=frozen"))
    with pytest.raises(CheckpointError, match=message):
        translated_weights(tmp_path / "w.pdparams", config(*used))


def test_a_bias_before_a_norm_as_in_clan_paddle_goes_into_its_mean_and_changes_no_output(tmp_path):
    arrays = tensors("deeplabv2_eval_1111")
    rng = np.random.default_rng(0)
    biases = {
        n.replace("weight", "bias"): rng.normal(size=len(a)).astype(np.float32)
        for n, a in arrays.items()
        if n.endswith("downsample.0.weight")
    }
    assert len(biases) == 4
    model = build_model(Component("deeplabv2_resnet", {**ONE, "aspp_branches": 4}), 19)
    load_arrays(model, translate(arrays, "multi", 4), "file")
    model.eval()
    for name, bias in biases.items():  # the network that such weights were trained in
        shortcut = getattr(model.backbone, name.split(".")[0])[0].downsample
        shortcut[0].bias = paddle.create_parameter([len(bias)], "float32", default_initializer=Assign(bias))
    image = paddle.randn([1, 3, 65, 97])
    with paddle.no_grad():
        wanted = model.logits(image)["main"].numpy()
    names = {n: n.replace("running_mean", "_mean").replace("running_var", "_variance") for n in arrays}
    theirs = {names.get(n, n): paddle.to_tensor(a) for n, a in {**arrays, **biases}.items()}
    paddle.save(theirs, str(tmp_path / "SYS_100000.pdparams"))
    read = read_weights(tmp_path / "SYS_100000.pdparams").arrays
    folded = build_model(Component("deeplabv2_resnet", {**ONE, "aspp_branches": 4}), 19)
    assert load_arrays(folded, translate(read, "multi", 4), "file") == []
    folded.eval()
    with paddle.no_grad():
        found = folded.logits(image)["main"].numpy()
    np.testing.assert_allclose(found, wanted, 0, 2e-5 * np.sqrt((wanted**2).mean()))


def test_a_file_is_checked_against_the_model_zoo(tmp_path, monkeypatch):
    path = save(tmp_path / "GTA2Cityscapes_multi-ed35151c.pth", tensors("deeplabv2_eval_1111"), True)
    arrays = read_weights(path).arrays
    name, entry = find_entry(path, arrays)
    assert name == "GTA2Cityscapes_multi"
    lines = dict(map(reversed, check_entry(path, arrays, entry)))
    assert lines["kind multi"] and lines["classes 19"]
    assert not lines["tensors 101, but 536 is expected"] and not lines["trained pyramid branches 4, but 2 is expected"]
    assert any(line.startswith("sha256") and not good for line, good in lines.items())
    other = save(tmp_path / "mine.pth", tensors("deeplabv2_eval_1111"), True)
    with pytest.raises(CheckpointError, match=r"name one: --check ENTRY \(of this kind: GTA2Cityscapes_multi, "):
        find_entry(other, arrays)
    assert find_entry(other, arrays, "ADVENT")[1].branches == 4
    with pytest.raises(CheckpointError, match="did you mean 'ADVENT'"):
        find_entry(other, arrays, "ADVEN")


def test_the_model_zoo_names_kinds_that_exist_and_its_page_is_up_to_date():
    from conftest import ROOT

    for name, entry in zoo().items():
        assert entry.kind in KINDS, name
        in_name = re.search(r"-([0-9a-f]{8})\.pth$", entry.file)
        assert entry.sha256 == (in_name.group(1) if in_name else ""), name
    assert (ROOT / "docs/model_zoo.md").read_text() == zoo_page(), "run: make pages"


def test_untrained_pyramid_branches_are_noticed():
    rng = np.random.default_rng(0)
    heads = {f"layer6.conv2d_list.{i}.weight": rng.normal(0, 0.05 if i < 2 else 0.01, (19, 64, 3, 3)) for i in range(4)}
    assert trained_branches(heads) == 2
    heads["layer6.conv2d_list.3.weight"] *= 3
    assert trained_branches(heads) == 4 and trained_branches({}) is None


def config(*overrides):
    from conftest import ROOT

    from paddle_adaptseg.config.loading import load_config

    return load_config(ROOT / "configs/gta5_cityscapes/adaptsegnet_multi.yml", ["model.depths=[1,1,1,1]", *overrides])


def test_conversion_tells_what_it_found_and_its_output_needs_nothing_else(tmp_path):
    source = save(tmp_path / "w.pth", tensors("deeplabv2_eval_1111"), zipped=True)
    lines = convert_weights(source, tmp_path / "w.pdparams", config())
    assert "two levels" in lines[0] and lines[1].endswith("101 tensors loaded, 0 missing, 0 unused, 0 of another shape")
    assert "aspp_branches=4" in lines[2]
    model, saved = load_model(tmp_path / "w.pdparams")
    assert saved.model.params["aspp_branches"] == 4
    assert len(model.heads["main"].branches) == 4


def test_initial_weights_start_training_with_new_heads(tmp_path):
    source = save(tmp_path / "init.pth", small("Scale.", 21), zipped=False)
    arrays, kind = translated_weights(source, config())
    model = build_model(config().model, 19)
    (report,) = load_arrays(model, arrays, "file", absent=kind.absent)
    assert report.startswith("8 missing: heads.")


def test_imagenet_weights_bring_their_preprocessing_and_stride(tmp_path):
    source = save(tmp_path / "resnet.pth", small(classes=0, fc=True), zipped=True)
    with pytest.raises(
        CheckpointError, match=r"was trained on other pixels: use -o data.pixels.order=rgb data.pixels.mean"
    ):
        translated_weights(source, config())
    pixels = [
        f"data.pixels.{k}={list(v) if isinstance(v, tuple) else v}" for k, v in KINDS["imagenet_resnet"].pixels.items()
    ]
    with pytest.raises(CheckpointError, match="needs -o model.stride_in=3x3"):
        translated_weights(source, config(*pixels))
    assert translated_weights(source, config(*pixels, "model.stride_in=3x3"))[0]


def test_imagenet_weights_of_mobilenet_compute_what_paddle_vision_computes():
    from paddle.vision.models import mobilenet_v2

    paddle.seed(3)
    theirs = mobilenet_v2(pretrained=False)
    arrays = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    assert identify(arrays) == "imagenet_mobilenetv2"
    ours = build_model(Component("deeplabv3plus_mobilenetv2", {"width": 8}), 5)
    report = load_arrays(ours, translate(arrays, "imagenet_mobilenetv2"), "file", partial=True)
    assert not [line for line in report if "unused" in line or "shape" in line or "backbone" in line]
    theirs.eval(), ours.eval()
    x = paddle.randn([1, 3, 64, 96])
    with paddle.no_grad():
        stages = ours.backbone(x)
        for index, block in enumerate(theirs.features[:14]):
            x = block(x)
            if index in (3, 6, 13):  # up to stride 16 nothing is dilated
                np.testing.assert_allclose(stages[(3, 6, 13).index(index)].numpy(), x.numpy(), 1e-4, 1e-5)


class Run:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def pickled(value):
    return pickle.dumps(value, protocol=2)


def torch_zip(path, pickle_bytes, members=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle_bytes)
        for name, data in members:
            archive.writestr(name, data)


def tensor_pickle(offset=0, shape=(2,), stride=(1,), numel=2, kind="FloatStorage", module="torch._utils"):
    """A hand-made pickle of {"w": tensor} as PyTorch writes it."""

    def number(value):
        return b"J" + struct.pack("<i", value)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    storage += number(numel) + b"tQ"
    rebuild = b"c" + module.encode() + b"\n_rebuild_tensor_v2\n("
    return (b"\x80\x02}X\x01\x00\x00\x00w" + rebuild + storage + number(offset) + numbers(shape)
            + numbers(stride) + b"\x89ccollections\nOrderedDict\n)RtRs.")  # fmt: skip


DATA = [("x/data/0", np.array([1, 2], np.float32).tobytes())]
HOSTILE = {
    "os.system": lambda p: p.write_bytes(pickled({"w": Run(os.system, f"touch {PROOF}")})),
    "eval": lambda p: p.write_bytes(pickled({"w": Run(eval, f"open('{PROOF}', 'w')")})),
    "nested global": lambda p: p.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0cf2py.os.exec\x93."),
    "getattr": lambda p: p.write_bytes(pickled(Run(getattr, "", "join"))),
    "inside a torch zip": lambda p: torch_zip(p, pickled({"w": Run(os.system, f"touch {PROOF}")}), DATA),
    "inside stacked pickles": lambda p: p.write_bytes(
        b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}, Run(os.system, f"touch {PROOF}")))
    ),
    "zip bomb": lambda p: torch_zip(p, tensor_pickle(), [("x/data/0", bytes(300 * 2**20))]),
    "view beyond its data": lambda p: torch_zip(p, tensor_pickle(shape=(1000,)), DATA),
    "negative offset": lambda p: torch_zip(p, tensor_pickle(offset=-4), DATA),
    "negative stride": lambda p: torch_zip(p, tensor_pickle(stride=(-1,)), DATA),
    "repeated by stride 0": lambda p: torch_zip(p, tensor_pickle(shape=(2**30,), stride=(0,)), DATA),
    "longer than its data": lambda p: torch_zip(p, tensor_pickle(numel=2**30), DATA),
    "data missing": lambda p: torch_zip(p, tensor_pickle(), []),
    "path trick": lambda p: torch_zip(p, tensor_pickle(), [("x/data/../../0", DATA[0][1])]),
    "unknown storage": lambda p: torch_zip(p, tensor_pickle(kind="EvilStorage"), DATA),
    "unknown rebuilder": lambda p: torch_zip(p, tensor_pickle(module="torch.evil"), DATA),
    "memo of gigabytes": lambda p: p.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f."),
    "array of gigabytes": lambda p: p.write_bytes(pickled({"w": np.zeros(3)}).replace(b"K\x03", b"J\xff\xff\xff\x7f")),
    "objects in an array": lambda p: p.write_bytes(
        pickled({"w": np.array([Run(os.system, f"touch {PROOF}")], object)})
    ),
    "extension": lambda p: p.write_bytes(b"\x80\x02\x82\x01."),
    "truncated": lambda p: p.write_bytes(pickled({"w": np.zeros(100)})[:-50]),
    "random": lambda p: p.write_bytes(np.random.default_rng(0).bytes(1000)),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("<html>404 not found</html>"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_and_broken_files_get_one_clear_error_and_run_nothing(tmp_path, kind):
    path = tmp_path / "w.pth"
    HOSTILE[kind](path)
    with pytest.raises(CheckpointError) as error:
        read_weights(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not PROOF.exists()


def test_the_hand_made_tensor_is_read_when_nothing_is_wrong_with_it(tmp_path):
    torch_zip(tmp_path / "w.pth", tensor_pickle(), DATA)
    assert read_weights(tmp_path / "w.pth")[0]["w"].tolist() == [1.0, 2.0]


def seeds(folder):
    """Small valid files of every format, to be damaged."""
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.arange(3)}
    paths = [save(folder / f"{zipped}.pth", arrays, zipped) for zipped in (True, False)]
    (folder / "p.pdparams").write_bytes(pickle.dumps(arrays, 4))
    return [p.read_bytes() for p in (*paths, folder / "p.pdparams")]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused_but_never_crash(tmp_path, data):
    content = bytearray(data.draw(st.sampled_from(seeds(tmp_path))))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    (tmp_path / "damaged").write_bytes(content)
    try:
        arrays = read_weights(tmp_path / "damaged").arrays
        assert all(isinstance(a, np.ndarray) and a.dtype.kind in "biufc" for a in arrays.values())
    except CheckpointError:
        pass

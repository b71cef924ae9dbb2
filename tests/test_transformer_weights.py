"""Weights of transformers come in from every project that publishes them, whole, and compute what they did there."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import paddle
import parity_networks as figures
import pytest

from paddle_adaptseg.config.schema import Component, Config, Data, Domain, Pixels, Run
from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.models import build_model
from paddle_adaptseg.weights.kind import TORCHVISION_PIXELS
from paddle_adaptseg.weights.kinds import identify
from paddle_adaptseg.weights.load import convert_weights, fill_segmenter, find_weights, load_model
from paddle_adaptseg.weights.reader import read_weights

torch = pytest.importorskip("torch", reason="PyTorch, which only the tests need, has no build here")

FORWARD = {path.parent.name: path for path in figures.SHIPPED.glob("parity_*/forward_*.json")}
SELF_TRAINING, VFM = FORWARD["parity_selftraining"], FORWARD["parity_vfm"]


def original(path, name, prefix="", salt=None):
    """A figure's tensors as the original has them."""
    part, given = figures.read(path)[name], figures.rules(path)
    shapes = part["tensors"].items()
    return {n: given.values2(f"G.{prefix}{n}", tuple(s), salt or part["salt"]) for n, s in shapes}


def config(path, name, accepts=True):
    """A configuration of the figure's network, under a small head where it has none."""
    section = figures.component(figures.read(path)[name]["model"])
    params = {"head": {"name": "daformer", "channels": 8, "embed_dims": 8}, **section.params}
    unused = Domain("gta5", "unused", "all", (1, 1))
    data = Data(unused, unused, unused, pixels=Pixels(**TORCHVISION_PIXELS))
    run = Run(restore_labelled=accepts)
    return Config(Component("encode_decode", params), Component("source_only"), data, run=run)


def loaded(file, path, name):
    """The network of a figure with the weights of a file, and what loading says."""
    chosen = config(path, name)
    network = build_model(chosen.model, figures.CLASSES)
    said = fill_segmenter(network, file, chosen)
    network.eval()
    return network, said


def check(network, path, name):
    """The outputs of a figure."""
    part, given = figures.read(path)[name], figures.rules(path)
    image = given.image3 if path == VFM else given.image2
    with paddle.no_grad():
        x = paddle.to_tensor(image(part["salt"], part["input"]))
        outputs = {f"feature{i}": stage for i, stage in enumerate(network.backbone(x))}
        if "logits" in part["outputs"]:
            outputs["logits"] = network(x)["main"]
        if part["what"] == "encoder":
            after = network.backbone.norm(network.backbone.tokens(x)[-1])
            outputs["x_norm_patchtokens"] = after[:, 1 + part["model"]["registers"] :]
    compared = set(outputs) & set(part["outputs"])
    assert compared
    for key in compared:
        probe, value = part["outputs"][key], outputs[key].numpy()
        rms = probe["l2"] / np.sqrt(value.size)
        np.testing.assert_allclose(value.ravel()[probe["index"]], probe["value"], 0, figures.PROBE * rms, err_msg=key)


def save_torch(path, arrays, **more):
    state = OrderedDict((name, torch.from_numpy(np.array(x))) for name, x in arrays.items())
    torch.save({"state_dict": state, "meta": {"epoch": 1}} if more.get("wrapped") else state, path)
    return path


def save_safetensors(arrays, path, metadata=None):
    library = pytest.importorskip("safetensors.numpy", reason="safetensors, which Paddle 3 brings, is not installed")
    library.save_file(arrays, path, metadata)
    return path


def reversed_stages(arrays, key):
    return {**arrays, key: np.concatenate(np.split(arrays[key], 4, axis=1)[::-1], axis=1)}


def nvlabs(tmp_path):
    arrays = original(SELF_TRAINING, "mit_b0", "backbone.")
    return save_torch(tmp_path / "mit_b0.pth", {**arrays, "head.weight": np.ones((1000, 256), np.float32)})


def paddleseg(tmp_path):
    arrays = original(SELF_TRAINING, "mit_b0", "backbone.")
    own = {n: paddle.to_tensor(np.ascontiguousarray(x.T if x.ndim == 2 else x)) for n, x in arrays.items()}
    paddle.save(own, str(tmp_path / "mix_vision_transformer_b0.pdparams"))
    return tmp_path / "mix_vision_transformer_b0.pdparams"


def daformer(tmp_path):
    """A checkpoint of self-training: student, teacher and the ImageNet network."""
    student = original(SELF_TRAINING, "daformer_mit_b0")
    arrays = {f"model.{n}": x for n, x in student.items()}
    arrays.update((f"ema_model.{n}", x) for n, x in original(SELF_TRAINING, "daformer_mit_b0", salt="other").items())
    arrays.update((f"imnet_model.{n}", x) for n, x in student.items())
    return save_torch(tmp_path / "iter_40000.pth", arrays, wrapped=True)


def segformer(tmp_path):
    arrays = original(SELF_TRAINING, "segformer_mit_b0")
    arrays = {re.sub(r"linear_c\.(\d)", lambda f: f"linear_c{int(f[1]) + 1}", n): x for n, x in arrays.items()}
    arrays = reversed_stages(arrays, "decode_head.linear_fuse.conv.weight")
    return save_torch(tmp_path / "segformer.b0.pth", arrays, wrapped=True)


def paddleseg_segformer(tmp_path):
    """PaddleSeg's whole network: linear weights as Paddle keeps them, the deepest stage fused first."""
    arrays = {n: x for n, x in original(SELF_TRAINING, "segformer_mit_b0").items() if "conv_seg" not in n}
    arrays = reversed_stages(arrays, "decode_head.linear_fuse.conv.weight")
    own = {}
    for name, x in arrays.items():
        name = re.sub(r"linear_c\.(\d)", lambda f: f"linear_c{int(f[1]) + 1}", name.replace("decode_head.", ""))
        name = name.replace("fuse.conv.", "fuse._conv.").replace("fuse.bn.", "fuse._batch_norm.")
        name = name.replace("running_mean", "_mean").replace("running_var", "_variance")
        own[name] = paddle.to_tensor(np.ascontiguousarray(x.T if x.ndim == 2 else x))
    paddle.save(own, str(tmp_path / "model.pdparams"))
    return tmp_path / "model.pdparams"


def newer_mmseg_name(name):
    """As mmsegmentation's converter names the backbone since 0.20."""
    name = re.sub(r"^patch_embed(\d)\.proj", lambda f: f"layers.{int(f[1]) - 1}.0.projection", name)
    name = re.sub(r"^patch_embed(\d)\.norm", lambda f: f"layers.{int(f[1]) - 1}.0.norm", name)
    name = re.sub(r"^block(\d)", lambda f: f"layers.{int(f[1]) - 1}.1", name)
    name = re.sub(r"^norm(\d)", lambda f: f"layers.{int(f[1]) - 1}.2", name).replace(
        "attn.proj.", "attn.attn.out_proj."
    )
    for old, new in (("fc1", "0"), ("dwconv.dwconv", "1"), ("fc2", "4")):
        name = name.replace(f".mlp.{old}.", f".ffn.layers.{new}.")
    return name


def newer_mmseg(arrays, prefix=""):
    """The same arrays as mmsegmentation 1.x has them: joined attention, 1x1 convolutions in the Mix-FFN."""
    found = {}
    for name, x in arrays.items():
        new = prefix + newer_mmseg_name(name)
        if ".attn.q." in name:
            new = new.replace("attn.q.", "attn.attn.in_proj_")
            found[new] = np.concatenate([x, arrays[name.replace(".attn.q.", ".attn.kv.")]])
        elif ".attn.kv." not in name:
            found[new] = x[:, :, None, None] if re.search(r"\.mlp\.fc\d\.weight", name) else x
    return found


def newer_mmseg_mit(tmp_path):
    return save_torch(tmp_path / "mit_b0_20220624.pth", newer_mmseg(original(SELF_TRAINING, "mit_b0", "backbone.")))


def hugging_face_name(name):
    """As transformers' own conversion of SegFormer names them."""
    name = re.sub(r"^backbone\.patch_embed(\d)", lambda f: f"backbone.patch_embeddings.{int(f[1]) - 1}", name)
    name = re.sub(r"^backbone\.norm(\d)", lambda f: f"backbone.layer_norm.{int(f[1]) - 1}", name)
    name = re.sub(r"^backbone\.block(\d)", lambda f: f"backbone.block.{int(f[1]) - 1}", name)
    name = re.sub(r"\.norm([12])\.", r".layer_norm_\1.", name)
    name = re.sub(r"\.norm\.", ".layer_norm.", name)
    name = name.replace("attn.q.", "attention.self.query.").replace("attn.proj.", "attention.output.dense.")
    name = re.sub(r"\.mlp\.fc([12])\.", r".mlp.dense\1.", name).replace(".attn.", ".attention.self.")
    name = name.replace("linear_fuse.conv.", "linear_fuse.").replace("linear_fuse.bn.", "batch_norm.")
    return name.replace("linear_pred", "classifier").replace("backbone.", "segformer.encoder.")


def hf_segformer(tmp_path):
    arrays = reversed_stages(original(SELF_TRAINING, "segformer_mit_b0"), "decode_head.linear_fuse.conv.weight")
    found = {}
    for name, x in arrays.items():
        for part, half in zip(("key", "value"), np.split(x, 2) if ".attn.kv." in name else ()):
            found[hugging_face_name(name).replace("self.kv.", f"self.{part}.")] = np.ascontiguousarray(half)
        if ".attn.kv." not in name and "conv_seg" not in name:
            found[hugging_face_name(name)] = x
    return save_safetensors(found, tmp_path / "model.safetensors", {"format": "pt"})


def hub(tmp_path, name="encoder"):
    return save_torch(tmp_path / "dinov2_vits14_pretrain.pth", original(VFM, name, "encoder."))


def chunks(tmp_path):
    arrays = original(VFM, "encoder", "encoder.")
    return save_torch(tmp_path / "chunks.pth", {n.replace("blocks.", "blocks.0."): x for n, x in arrays.items()})


def timm(tmp_path):
    """With registers, as timm's own conversion changes them."""
    arrays = original(VFM, "encoder_registers", "encoder.")
    arrays["cls_token"] = arrays["cls_token"] + arrays["pos_embed"][:, :1]
    arrays["pos_embed"] = arrays["pos_embed"][:, 1:].copy()
    arrays["reg_token"] = arrays.pop("register_tokens")
    del arrays["mask_token"]
    return save_safetensors(arrays, tmp_path / "timm.safetensors")


def hf_dinov2(tmp_path, name="encoder"):
    tokens = {"pos_embed": "position_embeddings"}
    found = {}
    for original_name, x in original(VFM, name, "encoder.").items():
        new = re.sub(r"^blocks\.", "encoder.layer.", original_name).replace(".attn.proj.", ".attention.output.dense.")
        new = re.sub(r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1", new)
        new = new.replace(".mlp.w12.", ".mlp.weights_in.").replace(".mlp.w3.", ".mlp.weights_out.")
        new = re.sub(r"^norm\.", "layernorm.", new).replace(
            "patch_embed.proj.", "embeddings.patch_embeddings.projection."
        )
        new = f"embeddings.{tokens.get(new, new)}" if "." not in new else new
        if ".attn.qkv." in new:
            for part, third in zip(("query", "key", "value"), np.split(x, 3)):
                found[new.replace(".attn.qkv.", f".attention.attention.{part}.")] = np.ascontiguousarray(third)
        else:
            found[new] = x
    return save_safetensors(found, tmp_path / "model.safetensors", {"format": "pt"})


def vfm_uda(tmp_path):
    arrays = original(VFM, "network")
    arrays["token_masking.mask_token"] = arrays["encoder.mask_token"]
    both = {f"network.{n}": x for n, x in arrays.items()}
    both.update((f"network_ema.{n}", x) for n, x in original(VFM, "network", salt="other").items())
    return save_torch(tmp_path / "vfm_uda.ckpt", both, wrapped=True)


# how a file is made, the kind that it is, the figure whose outputs it must give, whether it brings a head
FILES = {
    "NVlabs mit_b0.pth": (nvlabs, "mit", SELF_TRAINING, "mit_b0", False),
    "PaddleSeg": (paddleseg, "mit", SELF_TRAINING, "mit_b0", False),
    "DAFormer": (daformer, "mmseg_mit", SELF_TRAINING, "daformer_mit_b0", True),
    "SegFormer": (segformer, "segformer", SELF_TRAINING, "segformer_mit_b0", True),
    "PaddleSeg SegFormer": (paddleseg_segformer, "paddleseg_segformer", SELF_TRAINING, "segformer_mit_b0", True),
    "mmsegmentation 1.x": (newer_mmseg_mit, "mmseg1_mit", SELF_TRAINING, "mit_b0", False),
    "Hugging Face SegFormer": (hf_segformer, "hf_segformer_trained", SELF_TRAINING, "segformer_mit_b0", True),
    "DINOv2": (hub, "dinov2", VFM, "encoder", False),
    "DINOv2 in chunks": (chunks, "dinov2", VFM, "encoder", False),
    "DINOv2 with registers": (lambda p: hub(p, "encoder_registers"), "dinov2", VFM, "encoder_registers", False),
    "timm": (timm, "dinov2", VFM, "encoder_registers", False),
    "Hugging Face DINOv2": (hf_dinov2, "hf_dinov2", VFM, "encoder", False),
    "Hugging Face SwiGLU": (lambda p: hf_dinov2(p, "encoder_swiglu"), "hf_dinov2", VFM, "encoder_swiglu", False),
}


@pytest.mark.parametrize("case", FILES)
def test_foreign_weights_load_whole_and_compute_the_same(case, tmp_path):
    make, kind, path, name, has_head = FILES[case]
    file = make(tmp_path)
    assert identify(read_weights(file).arrays) == kind
    network, said = loaded(file, path, name)
    left = said.partition("initialised anew: ")[2]
    if has_head:
        assert not left
    elif case != "timm":  # which has no mask token
        assert re.fullmatch(r"\d+ missing: heads\..*", left) and "backbone" not in left
    check(network, path, name)


def test_a_segformer_of_newer_mmsegmentation_computes_what_its_head_does(tmp_path):
    """Its head has a convolution, norm and ReLU for every stage; computed here with PyTorch from the file itself."""
    rng, width, classes = np.random.default_rng(0), 16, figures.CLASSES
    backbone = original(SELF_TRAINING, "mit_b0", "backbone.")
    arrays = newer_mmseg(backbone, "backbone.")
    sizes = {f"convs.{i}": channels for i, channels in enumerate((32, 64, 160, 256))} | {"fusion_conv": 4 * width}
    for name, channels in sizes.items():
        arrays[f"decode_head.{name}.conv.weight"] = rng.normal(0, channels**-0.5, (width, channels, 1, 1))
        for key, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            arrays[f"decode_head.{name}.bn.{key}"] = rng.uniform(low, low + 1, width)
    arrays["decode_head.conv_seg.weight"] = rng.normal(0, 1, (classes, width, 1, 1))
    arrays["decode_head.conv_seg.bias"] = rng.normal(0, 1, classes)
    arrays = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
    file = save_torch(tmp_path / "segformer_mit-b0_8x1_1024x1024_160k_cityscapes.pth", arrays, wrapped=True)
    chosen = config(SELF_TRAINING, "mit_b0")
    chosen.model.params["head"] = {"name": "segformer", "embed_dim": width, "embedding": "conv"}
    network = build_model(chosen.model, classes)
    assert "anew" not in fill_segmenter(network, file, chosen)
    network.eval()
    image = paddle.to_tensor(rng.normal(0, 1, (1, 3, 64, 96)).astype(np.float32))
    with paddle.no_grad():
        stages = [torch.from_numpy(stage.numpy()) for stage in network.backbone(image)]
        ours = network.logits(image)["main"].numpy()
    state = {name: torch.from_numpy(x) for name, x in arrays.items()}

    def module(x, name):
        parts = (state[f"decode_head.{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        x = torch.nn.functional.conv2d(x, state[f"decode_head.{name}.conv.weight"])
        return torch.relu(torch.nn.functional.batch_norm(x, *parts))

    embedded = [
        torch.nn.functional.interpolate(module(x, f"convs.{i}"), stages[0].shape[2:], mode="bilinear")
        for i, x in enumerate(stages)
    ]
    classifier = state["decode_head.conv_seg.weight"], state["decode_head.conv_seg.bias"]
    theirs = torch.nn.functional.conv2d(module(torch.cat(embedded, 1), "fusion_conv"), *classifier).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    with pytest.raises(CheckpointError, match="has seen labels of Cityscapes"):
        fill_segmenter(network, file, replace(chosen, run=Run()))


def test_resnet_v1c_starts_from_mmsegmentations_imagenet_weights(tmp_path):
    unused = Domain("gta5", "unused", "all", (1, 1))
    data = Data(unused, unused, unused, pixels=Pixels(**TORCHVISION_PIXELS))
    chosen = Config(Component("deeplabv2_resnet_v1c", {"depths": [1, 1, 1, 1]}), Component("source_only"), data)
    source, network = (build_model(chosen.model, figures.CLASSES) for _ in range(2))
    own = {n.removeprefix("backbone."): t.numpy() for n, t in source.state_dict().items() if n.startswith("backbone.")}
    arrays = {n.replace("._mean", ".running_mean").replace("._variance", ".running_var"): x for n, x in own.items()}
    arrays |= {"fc.weight": np.ones((1000, 2048), np.float32), "fc.bias": np.ones(1000, np.float32)}
    file = save_torch(tmp_path / "resnet101_v1c-e67eebb6.pth", arrays, wrapped=True)
    assert identify(read_weights(file).arrays) == "resnet_v1c"
    said = fill_segmenter(network, file, chosen)
    assert re.fullmatch(r"\d+ missing: heads\..*", said.partition("initialised anew: ")[2])
    for name, x in own.items():
        np.testing.assert_array_equal(network.state_dict()[f"backbone.{name}"].numpy(), x, err_msg=name)


@pytest.mark.parametrize("make", [segformer, hf_segformer])
def test_weights_that_have_seen_the_targets_labels_are_no_start_unless_accepted(make, tmp_path):
    refusing = config(SELF_TRAINING, "segformer_mit_b0", accepts=False)
    with pytest.raises(CheckpointError, match="has seen labels of Cityscapes or ADE20K, .*run.restore_labelled=true"):
        fill_segmenter(build_model(refusing.model, figures.CLASSES), make(tmp_path), refusing)
    converted = tmp_path / "ours.pdparams"
    convert_weights(make(tmp_path), converted, refusing)
    with pytest.raises(CheckpointError, match="has seen labels"):
        fill_segmenter(build_model(refusing.model, figures.CLASSES), converted, refusing)
    backbone = config(SELF_TRAINING, "mit_b0", accepts=False)
    assert "heads." in fill_segmenter(build_model(backbone.model, figures.CLASSES), nvlabs(tmp_path), backbone)


def test_vfm_uda_checkpoints_bring_student_and_teacher(tmp_path):
    file, chosen = vfm_uda(tmp_path), config(VFM, "network")
    found = {}
    for part in ("", "@teacher"):
        network = build_model(chosen.model, figures.CLASSES)
        assert "anew" not in fill_segmenter(network, f"{file}{part}", chosen)
        found[part] = network.heads["main"].out.weight.numpy()
    np.testing.assert_array_equal(found[""], original(VFM, "network")["out.weight"])
    np.testing.assert_array_equal(found["@teacher"], original(VFM, "network", salt="other")["out.weight"])


def test_a_part_of_a_checkpoint_is_chosen_by_name(tmp_path):
    file = daformer(tmp_path)
    name = "backbone.norm1.weight"
    assert find_weights(f"{file}@teacher").name == "iter_40000.pth@teacher"
    student, teacher = (read_weights(find_weights(f"{file}{part}")).arrays for part in ("", "@teacher"))
    assert set(student) == set(teacher) == set(original(SELF_TRAINING, "daformer_mit_b0"))
    assert (student[name] != teacher[name]).all()
    with pytest.raises(CheckpointError, match="it has no part 'teacher', only one network"):
        read_weights(find_weights(f"{nvlabs(tmp_path)}@teacher"))
    with pytest.raises(CheckpointError, match="holds no weights 'best'"):
        find_weights(f"{file}@best")


def test_converted_weights_are_loaded_as_our_own(tmp_path):
    chosen = config(SELF_TRAINING, "daformer_mit_b0")
    lines = convert_weights(find_weights(f"{daformer(tmp_path)}@student"), tmp_path / "ours.pdparams", chosen)
    assert any(" 0 missing, 0 unused, 0 of another shape" in line for line in lines)
    network, _ = load_model(tmp_path / "ours.pdparams")
    network.eval()
    check(network, SELF_TRAINING, "daformer_mit_b0")


# The safetensors reader.


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"])
def test_every_type_of_numbers_is_read(kind, tmp_path):
    array = (np.arange(12).reshape(3, 4) % 2).astype(kind)
    save_safetensors({"a": array, "scalar": np.ones((), kind), "empty": np.ones((0, 2), kind)}, tmp_path / "x")
    arrays = read_weights(tmp_path / "x").arrays
    np.testing.assert_array_equal(arrays["a"], array)
    assert arrays["a"].dtype == kind and arrays["scalar"].shape == () and arrays["empty"].shape == (0, 2)


def test_bfloat16_becomes_float32(tmp_path):
    library = pytest.importorskip("safetensors.torch", reason="safetensors, which Paddle 3 brings, is not installed")
    values = torch.tensor([[1.5, -2.0], [0.0078125, 3e38]], dtype=torch.bfloat16)
    library.save_file({"a": values}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(read_weights(tmp_path / "x.safetensors").arrays["a"], values.float().numpy())


def written(path, header, data=b"\0" * 16, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(**more):
    return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **more}}


@pytest.mark.parametrize(("header", "message"), [
    (entry(data_offsets=[0, 20]), "numbers of 'a' are not where"),
    (entry(data_offsets=[4, 20]), "numbers of 'a' are not where"),
    (entry(data_offsets=[-16, 0]), "numbers of 'a' are not where"),
    (entry(data_offsets=[0, True]), "does not say where"),
    (entry(data_offsets="0:16"), "does not say where"),
    (entry(shape=[2**40, 2**40]), "are not where"),
    (entry(shape=[-2, -2]), "impossible shape"),
    (entry(shape=[1e0, 4]), "impossible shape"),
    (entry(shape={"0": 4}), "impossible shape"),
    (entry(dtype="F8_E4M3"), "unknown type"),
    (entry(dtype=None), "unknown type"),
    (entry(more=1), "in an unknown way"),
    ({"a": [1, 2]}, "in an unknown way"),
    (b"{" + b"[" * 5000, "no JSON"),
    (b'{"a": 1, "a": 2}', "twice"),
    (b"{\xff}", "no JSON"),
    ({}, "more than named arrays"),
])  # fmt: skip
def test_a_damaged_header_is_one_line(header, message, tmp_path):
    with pytest.raises(CheckpointError, match=message) as error:
        read_weights(written(tmp_path / "x.safetensors", header))
    assert "\n" not in str(error.value)


def test_a_header_that_claims_too_much_is_not_believed(tmp_path):
    for length in (2**24 + 1, 2**55):
        with pytest.raises(CheckpointError, match="more than any network needs"):
            read_weights(written(tmp_path / "x", entry(), length=length))
    with pytest.raises(CheckpointError, match="ends before its data"):
        read_weights(written(tmp_path / "x", entry(), length=2**20))
    many = {f"n{i}": {"dtype": "F32", "shape": [2**24], "data_offsets": [0, 2**26]} for i in range(12)}
    with pytest.raises(CheckpointError, match="larger than its size allows"):  # all of them the same bytes
        read_weights(written(tmp_path / "y", many, b"\0" * 2**26))

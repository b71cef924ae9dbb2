"""Files that transformers and timm write themselves load whole, and our networks compute what those libraries do.

Needs them: `make test-reference`. Without them these tests are skipped by name.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_adaptseg.config.schema import Component, Config, Data, Domain, Pixels, Run
from paddle_adaptseg.models import build_model
from paddle_adaptseg.weights import coverage
from paddle_adaptseg.weights.kind import TORCHVISION_PIXELS
from paddle_adaptseg.weights.load import fill_segmenter, fitting_weights
from paddle_adaptseg.weights.reader import read_weights

torch = pytest.importorskip("torch", reason="PyTorch, which only the tests need, has no build here")
CLASSES, TOLERANCE = 7, 1e-4  # of the largest value
MIT = {"embed_dims": [16, 32, 48, 64], "num_heads": [1, 2, 3, 4], "depths": [1, 2, 1, 1]}
VIT = {"width": 48, "depth": 2, "num_heads": 3, "stored_grid": 5}
REGISTERS = {"registers": 4, "offset": 0.0, "antialias": True}


def randomised(model):
    """Values that leave no tensor without effect, whatever a library starts it with."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            fan_in = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
            if "running_var" in name or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.copy_(1 + 0.1 * noise.abs())
            else:
                tensor.copy_(noise * (fan_in**-0.5 if tensor.ndim > 1 else 0.1))
    return model.eval()


def loaded(file, backbone, head=None):
    """Our network with the weights of a file: all of them are used, and nothing stays that the file could bring."""
    unused = Domain("gta5", "unused", "all", (1, 1))
    data = Data(unused, unused, unused, pixels=Pixels(**TORCHVISION_PIXELS))
    model = Component("encode_decode", {"backbone": backbone, "head": head or {"name": "light"}})
    config = Config(model, Component("source_only"), data, run=Run(restore_labelled=True))
    network = build_model(model, CLASSES)
    found = coverage(network, fitting_weights(read_weights(file), file, config)[0])
    absent = () if head else ("heads.", "backbone.mask_token")
    assert not found.unused and not found.reshaped
    assert not [name for name in found.missing if not name.startswith(absent or ("nothing",))]
    fill_segmenter(network, str(file), config)
    network.eval()
    return network


def same(ours, theirs):
    theirs = theirs.detach().numpy()
    assert ours.shape == list(theirs.shape) and np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours.numpy(), theirs, atol=TOLERANCE * np.abs(theirs).max())


def pixels(height, width):
    return np.random.default_rng(1).normal(0, 1, (1, 3, height, width)).astype(np.float32)


def patch_tokens(network, image):
    """The normalised patch tokens [1, tokens, width]."""
    encoder = network.backbone
    with paddle.no_grad():
        return encoder.norm(encoder.tokens(paddle.to_tensor(image))[-1])[:, 1 + encoder.registers :]


def written(model, folder):
    """A model as its library saves it."""
    model.save_pretrained(folder)
    files = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")]
    assert len(files) == 1
    return files[0]


def test_a_segformer_that_transformers_saves_gives_its_logits(tmp_path):
    library = pytest.importorskip("transformers", reason="transformers is not installed (make test-reference)")
    config = library.SegformerConfig(
        hidden_sizes=MIT["embed_dims"], num_attention_heads=MIT["num_heads"], depths=MIT["depths"],
        decoder_hidden_size=24, num_labels=CLASSES,
    )  # fmt: skip
    model = randomised(library.SegformerForSemanticSegmentation(config))
    head = {"name": "segformer", "embed_dim": 24}
    network, image = loaded(written(model, tmp_path), {"name": "mit", **MIT}, head), pixels(64, 96)
    with torch.no_grad(), paddle.no_grad():
        same(network.logits(paddle.to_tensor(image))["main"], model(torch.from_numpy(image)).logits)


def test_a_mix_transformer_that_transformers_saves_gives_its_features(tmp_path):
    library = pytest.importorskip("transformers", reason="transformers is not installed (make test-reference)")
    config = library.SegformerConfig(
        hidden_sizes=MIT["embed_dims"], num_attention_heads=MIT["num_heads"], depths=MIT["depths"], num_labels=10
    )
    model = randomised(library.SegformerForImageClassification(config))
    network, image = loaded(written(model, tmp_path), {"name": "mit", **MIT}), pixels(64, 96)
    with torch.no_grad(), paddle.no_grad():
        theirs = model.segformer(torch.from_numpy(image)).last_hidden_state
        same(network.backbone(paddle.to_tensor(image))[-1], theirs)


@pytest.mark.parametrize("kind", ["mlp", "swiglu", "registers"])
def test_a_dinov2_that_transformers_saves_gives_its_tokens(kind, tmp_path):
    library = pytest.importorskip("transformers", reason="transformers is not installed (make test-reference)")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 70, "patch_size": 14,
             "use_swiglu_ffn": kind == "swiglu"}  # fmt: skip
    if kind == "registers":
        model = library.Dinov2WithRegistersModel(library.Dinov2WithRegistersConfig(num_register_tokens=4, **sizes))
    else:
        model = library.Dinov2Model(library.Dinov2Config(**sizes))
    more = {"mlp": {}, "swiglu": {"ffn": "swiglu"}, "registers": REGISTERS}[kind]
    model, image = randomised(model), pixels(70, 70)
    network = loaded(written(model, tmp_path), {"name": "dinov2", **VIT, **more})
    with torch.no_grad():
        theirs = model(torch.from_numpy(image)).last_hidden_state
    same(patch_tokens(network, image), theirs[:, 1 + 4 * (kind == "registers") :])


@pytest.mark.parametrize("name", ["small", "small_reg4", "giant", "giant_reg4"])
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_dinov2_of_timm_gives_its_tokens(name, form, tmp_path):
    library = pytest.importorskip("timm", reason="timm is not installed (make test-reference)")
    size, _, registers = name.partition("_")
    title = f"vit_{size}_patch14{'_reg4' if registers else ''}_dinov2"
    model = library.create_model(title, img_size=70, embed_dim=48, depth=2, num_heads=3, num_classes=0)
    model, image = randomised(model), pixels(70, 70)
    file, state = tmp_path / f"model.{form}", {n: x.contiguous() for n, x in model.state_dict().items()}
    if form == "pth":
        torch.save(state, file)
    else:
        pytest.importorskip("safetensors.torch", reason="safetensors is not installed").save_file(state, file)
    more = {**({"ffn": "swiglu"} if size == "giant" else {}), **(REGISTERS if registers else {})}
    network = loaded(file, {"name": "dinov2", **VIT, **more})
    with torch.no_grad():
        theirs = model.forward_features(torch.from_numpy(image))
    same(patch_tokens(network, image), theirs[:, 1 + 4 * bool(registers) :])

"""Backbones and heads that a configuration combines: groups, sizes, masks, drop path, recomputing, errors."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import paddle
import pytest
from conftest import ROOT, tiny_overrides

from paddle_adaptseg.config.loading import load_config, override
from paddle_adaptseg.config.schema import Component
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.encode_decode import BACKBONES, SIZES, build_backbone
from paddle_adaptseg.models.positions import bicubic_matrix
from paddle_adaptseg.models.recompute import set_recompute
from paddle_adaptseg.models.transformer import DropPath
from paddle_adaptseg.training.checkpoint import load_state, state_path
from paddle_adaptseg.training.counters import allocated
from paddle_adaptseg.training.memory import estimate
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.training.start import build_state

MIT = {"name": "mit", "embed_dims": [8, 16, 24, 32], "num_heads": [1, 2, 3, 4], "depths": [1, 2, 1, 1]}
VIT = {"name": "dinov2", "width": 24, "depth": 4, "num_heads": 3, "stored_grid": 4}
DAFORMER = {"name": "daformer", "channels": 8, "embed_dims": 8}
PAIRS = {
    "mit-daformer": (MIT, DAFORMER),
    "mit-aspp": (MIT, {**DAFORMER, "fusion": "aspp", "pool": True}),
    "mit-conv": (MIT, {**DAFORMER, "fusion": "conv"}),
    "mit-isa": (MIT, {**DAFORMER, "fusion": "isa", "isa_channels": 4, "down_factor": [3, 5]}),
    "mit-segformer": (MIT, {"name": "segformer", "embed_dim": 8}),
    "mit-light": (MIT, {"name": "light"}),
    "dinov2-light": (VIT, {"name": "light"}),
    "dinov2-daformer": ({**VIT, "layers": [0, 1, 2, 3]}, DAFORMER),
    "registers-swiglu-light": ({**VIT, "registers": 4, "antialias": True, "offset": 0.0, "ffn": "swiglu"},
                               {"name": "light"}),
}  # fmt: skip


def network(pair="mit-daformer", classes=5, **more):
    backbone, head = PAIRS[pair]
    return build_model(Component("encode_decode", {"backbone": backbone, "head": head, **more}), classes)


@pytest.mark.parametrize("pair", PAIRS)
def test_any_backbone_goes_with_any_head_at_any_size_and_all_of_it_learns(pair):
    model = network(pair)
    logits = model(paddle.randn([2, 3, 45, 61]))["main"]
    assert logits.shape == [2, 5, 45, 61]
    logits.sin().mean().backward()
    without = {n for n, p in model.named_parameters() if not p.stop_gradient and p.grad is None}
    assert without == ({"backbone.mask_token"} if "mit" not in pair else set())


@pytest.mark.parametrize("pair", PAIRS)
def test_one_image_gives_the_same_alone_and_in_a_batch(pair):
    model = network(pair)
    model.eval()
    images = paddle.randn([2, 3, 33, 49])
    with paddle.no_grad():
        together, alone = model(images)["main"][1:].numpy(), model(images[1:])["main"].numpy()
    np.testing.assert_allclose(alone, together, atol=1e-5)


def by_factors(model):
    own = {p.name: n for n, p in model.named_parameters()}
    found = {}
    for group in model.groups():
        found.setdefault((round(group.lr_factor, 6), group.decay), set()).update(own[p.name] for p in group.parameters)
    return found


def test_the_head_wins_over_norms_and_norms_of_the_backbone_do_not_decay():
    model = network()
    groups = by_factors(model)
    names = {n for n, p in model.named_parameters() if not p.stop_gradient}
    assert groups[10.0, 1.0] == {n for n in names if n.startswith("heads.")}
    assert groups[1.0, 0.0] == {n for n in names if n.startswith("backbone.") and "norm" in n}
    assert "backbone.block1.0.attn.norm.bias" in groups[1.0, 0.0]
    assert groups[1.0, 1.0] == names - groups[10.0, 1.0] - groups[1.0, 0.0]


def test_a_vision_transformers_blocks_learn_slower_the_earlier_they_are():
    rates = {"head_rate": 1.0, "backbone_rate": 0.1, "norm_decay": 1.0, "layer_decay": 0.8}
    model = network("dinov2-light", **rates)
    groups = by_factors(model)
    assert set(groups) == {(rate, 1.0) for rate in (1.0, 0.1, 0.08, 0.064, 0.0512, 0.04096)}
    assert all(n.startswith("backbone.blocks.1.") for n in groups[0.064, 1.0])
    stems = {f"backbone.{n}" for n in ("cls_token", "pos_embed", "mask_token", "norm.weight", "norm.bias",
                                       "patch_embed.proj.weight", "patch_embed.proj.bias")}  # fmt: skip
    assert groups[0.04096, 1.0] == stems
    with pytest.raises(ConfigError, match="layer_decay: 'mit' has no single row of blocks"):
        network(layer_decay=0.8)


@pytest.mark.parametrize("name", SIZES)
def test_named_sizes_are_those_of_the_papers(name, constant_weights):
    kind, size = SIZES[name]
    assert kind in BACKBONES
    if name in ("mit_b0", "mit_b2", "dinov2_vits14", "dinov2_vits14_reg"):  # the others take seconds to fill
        count = sum(p.size for p in build_backbone(Component(name)).parameters())
        millions = {"mit_b0": 3.32, "mit_b2": 24.20, "dinov2_vits14": 22.06, "dinov2_vits14_reg": 22.06}[name]
        assert count / 1e6 == pytest.approx(millions, abs=0.01)
    elif kind == "mit":
        assert sum(size["depths"]) == {"mit_b1": 8, "mit_b3": 28, "mit_b4": 41, "mit_b5": 52}[name]
    else:
        assert (size["width"], size["depth"]) == {"b": (768, 12), "l": (1024, 24), "g": (1536, 40)}[name[10]]


def test_sizes_of_input_follow_vfm_uda_or_the_next_multiples():
    free, fixed = (build_backbone(Component("dinov2", {**rest, "image_size": n})) for n in (0, 512)
                   for rest in ({k: v for k, v in VIT.items() if k != "name"},))  # fmt: skip
    assert free.working_size(28, 45) == (28, 56) and free.grid(28, 45) == (2, 4)
    assert fixed.working_size(512, 512) == (560, 560) == fixed.working_size(90, 90)
    assert fixed.working_size(512, 1024) == (560, 1120)
    assert build_backbone(Component("dinov2", {**rest_of(VIT), "image_size": 100})).working_size(64, 64) == (98, 98)


def rest_of(section):
    return {k: v for k, v in section.items() if k != "name"}


def test_masked_tokens_are_the_mask_token_and_nothing_of_their_pixels_is_left():
    model, image = network("dinov2-light"), paddle.randn([1, 3, 56, 56])
    model.eval()
    kept = np.ones([1, 4, 4], np.float32)
    kept[0, 1, 2] = 0
    other = image.clone()
    other[:, :, 14:28, 28:42] = 7.0
    with paddle.no_grad():
        mask = paddle.to_tensor(kept)
        one, two, plain = (model(x, kept=k)["main"].numpy() for x, k in ((image, mask), (other, mask), (image, None)))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - plain).max() > 1e-6
    with pytest.raises(ConfigError, match="tokens of 'mit' cannot be masked"):
        network()(image, kept=mask)


def test_stored_positions_are_untouched_on_a_square_of_their_size_only():
    backbone = network("dinov2-light").backbone
    assert backbone.positions(4, 4) is backbone.pos_embed
    oblong = backbone.positions(2, 8)
    assert oblong.shape == [1, 17, 24]
    np.testing.assert_array_equal(oblong[:, 0].numpy(), backbone.pos_embed[:, 0].numpy())


@pytest.mark.parametrize("antialias", [True, False])
def test_resizing_positions_keeps_a_constant(antialias):
    for new in (2, 9, 41):
        np.testing.assert_allclose(bicubic_matrix(16, new, 16 / (new + 0.1), antialias).sum(axis=1), 1.0, atol=1e-6)


def test_drop_path_leaves_out_whole_branches_and_keeps_their_mean():
    drop, x = DropPath(0.25), paddle.ones([4000, 2, 3])
    paddle.seed(0)
    y = drop(x).numpy()
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert (y == y[:, :1, :1]).all() and abs(y.mean() - 1) < 0.05
    drop.eval()
    assert drop(x) is x


@pytest.mark.parametrize(("pair", "stages"), [("mit-daformer", ["block2"]), ("dinov2-light", ["*"])])
def test_blocks_of_transformers_can_recompute(pair, stages):
    model, image, found = network(pair), paddle.randn([2, 3, 56, 56]), []
    for chosen in ((), tuple(stages)):
        set_recompute(model, chosen)
        paddle.seed(3)
        model.clear_gradients()
        model(image)["main"].sin().mean().backward()
        found.append({n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        np.testing.assert_allclose(found[1][name], gradient, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(("section", "message"), [
    ({"backbone": {"name": "mit_b6"}}, "unknown model.backbone 'mit_b6': did you mean 'mit_b"),
    ({"backbone": {"name": "mit", "num_heads": [3, 3, 3, 3]}}, "3 attention heads do not divide 32 channels"),
    ({"backbone": {"name": "mit_b0", "depth": 3}}, "unknown key 'model.backbone.depth'"),
    ({"head": {"name": "daformer", "fusion": "sum"}}, "unknown model.head.fusion 'sum'"),
    ({"head": {"name": "dafromer"}}, "unknown model.head 'dafromer': did you mean 'daformer'"),
    ({"head": "daformer"}, "'model.head' must be a mapping with a 'name'"),
    ({"backbone": {**VIT, "layers": [4]}}, r"layers must be blocks 0 to 3, not \[4\]"),
])  # fmt: skip
def test_a_wrong_part_is_named(section, message):
    with pytest.raises(ConfigError, match=message):
        build_model(Component("encode_decode", {"backbone": MIT, "head": DAFORMER, **section}), 5)


def test_a_transformers_run_resumes_bit_for_bit(toy_root, tmp_path):
    given = [text for text in tiny_overrides(toy_root, tmp_path / "run") if not text.startswith("model.")]
    config = load_config(ROOT / "configs/toy/source_only_daformer.yml", [*given, "run.eval_every=2"])
    fit(override(config, f"run.output={tmp_path / 'straight'}"))
    fit(override(config, "schedule.stop=4"))
    fit(config, resume="latest")
    one, other = (load_state(state_path(tmp_path / folder, 6)).arrays for folder in ("straight", "run"))
    assert set(one) == set(other)
    assert all(np.array_equal(array, other[name]) for name, array in one.items())
    assert any(name.endswith("block1.0.attn.q.weight") for name in one)


def needed(side, backbone):
    """Bytes that a step is expected to need with pictures of a side."""
    base = load_config(ROOT / "configs/toy/source_only_daformer.yml")
    model = Component("encode_decode", {"backbone": backbone, "head": {"name": "light"}})
    data = replace(base.data, **{d: replace(getattr(base.data, d), size=(side, side)) for d in ("source", "target")})
    config = replace(base, model=model, data=data)
    gc.collect()
    others = allocated()  # by tests before this one
    return estimate(build_state(config), config).total - others


def test_the_memory_of_attention_is_expected_to_grow_with_the_square_of_the_area():
    small, large = (needed(side, {**VIT, "num_heads": 12, "stored_grid": 8}) for side in (224, 448))
    assert large > 7 * small  # four times the area, and most of it is attention
    assert needed(448, {**VIT, "num_heads": 12, "image_size": 448}) == pytest.approx(large, rel=0.5)  # it works at 490

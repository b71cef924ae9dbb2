"""Networks keep the segmenter contract, and norm policies hold whatever mode is set."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_adaptseg.config.schema import Component
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.models import MODELS, build_model
from paddle_adaptseg.models.deeplabv3plus import ImagePooling
from paddle_adaptseg.models.discriminator import discriminator
from paddle_adaptseg.models.layers import NORMS, frozen, inference, resize, resize_by_products

SMALL = {
    "encode_decode": {
        "backbone": {"name": "mit", "embed_dims": [8, 16, 24, 32], "num_heads": [1, 2, 3, 4], "depths": [1, 1, 1, 1]},
        "head": {"name": "daformer", "channels": 8, "embed_dims": 8},
    },
    "deeplabv2_resnet": {"depths": [1, 1, 1, 1]},
    "deeplabv2_vgg16": {},
    "deeplabv2_resnet_v1c": {"depths": [1, 1, 1, 1]},
    "paddleseg": {
        "type": "PPMobileSeg",
        "backbone": {"type": "MobileSeg_Tiny", "inj_type": "AAM", "out_feat_chs": [32, 64, 128]},
    },
    "small": {"width": 8},
    "deeplabv2_resnet_twin": {"depths": [1, 1, 1, 1]},
    "small_twin": {"width": 8},
    "deeplabv3plus_resnet": {"depths": [1, 1, 1, 1], "width": 16},
    "deeplabv3plus_mobilenetv2": {"width": 16},
    "small_v3plus": {"width": 8},
}
SMALL["hrda"] = {"network": {"name": "encode_decode", **SMALL["encode_decode"]}, "crop": [64, 64], "attention_width": 8}


def build(name, **params):
    if name == "paddleseg":
        pytest.importorskip("paddleseg", reason="PaddleSeg is not installed (docs/paddleseg.md)")
    return build_model(Component(name, {**SMALL[name], **params}), 5)


@pytest.mark.parametrize("name", MODELS)
def test_logits_come_at_image_size_for_every_level(name):
    model, size = build(name), [66, 98] if name == "hrda" else [33, 49]
    model.eval()
    with paddle.no_grad():
        out = model(paddle.randn([1, 3, *size]))
        wide = model(paddle.randn([1, 3, *size]), size=(40, 60))
    assert set(out) == set(model.levels)
    assert all(x.shape == [1, 5, *size] for x in out.values())
    assert all(x.shape == [1, 5, 40, 60] for x in wide.values())


@pytest.mark.parametrize("name", MODELS)
def test_groups_list_every_trainable_parameter_once(name):
    model = build(name)
    listed = [p.name for g in model.groups() for p in g.parameters]
    assert sorted(listed) == sorted(p.name for p in model.parameters() if not p.stop_gradient)


def test_the_head_learns_ten_times_faster_and_legacy_listings_are_counted():
    groups = {(g.name, g.listings): g for g in build("deeplabv2_resnet").groups()}
    assert groups["heads", 1].lr_factor == 10.0
    assert {k: len(g.parameters) for k, g in groups.items()} == {
        ("backbone", 1): 1,  # stem
        ("backbone", 3): 12,  # three convs in each of four blocks
        ("backbone", 4): 4,  # four downsample convs
        ("heads", 1): 8,  # two heads of two branches with bias
    }


@pytest.mark.parametrize(("name", "aux"), [("deeplabv2_resnet", False), ("deeplabv3plus_resnet", True),
                                           ("small_v3plus", True)])  # fmt: skip
def test_the_auxiliary_head_is_a_choice(name, aux):
    model = build(name, aux=aux)
    assert model.levels == (("main", "aux") if aux else ("main",)) == tuple(model(paddle.randn([2, 3, 32, 32])))
    with pytest.raises(ConfigError, match="has no auxiliary head to leave out"):
        build("deeplabv2_resnet_twin", aux=False)


@pytest.mark.parametrize("name", ["deeplabv3plus_resnet", "deeplabv3plus_mobilenetv2"])
@pytest.mark.parametrize("stride", [8, 16])
def test_the_output_stride_is_a_choice_of_deeplabv3plus(name, stride):
    model = build(name, output_stride=stride)
    stages = model.backbone(paddle.randn([1, 3, 64, 64]))
    assert [x.shape[1] for x in stages] == list(model.backbone.widths)
    assert stages[0].shape[2:] == [16, 16] and stages[-1].shape[2:] == [64 // stride] * 2
    with pytest.raises(ConfigError, match="output_stride must be .*, not 4"):
        build(name, output_stride=4)


@pytest.mark.parametrize("name", [n for n in MODELS if "v3plus" in n])
def test_deeplabv3plus_becomes_a_static_program_that_computes_the_same(name, tmp_path):
    class Deployed(paddle.nn.Layer):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x)["main"]

    net, image = Deployed(build(name)), paddle.randn([1, 3, 32, 48])
    net.eval()
    with paddle.no_grad():
        expected = net(image).numpy()
    paddle.jit.save(net, str(tmp_path / "net"), input_spec=[paddle.static.InputSpec([1, 3, 32, 48], "float32")])
    np.testing.assert_allclose(paddle.jit.load(str(tmp_path / "net"))(image).numpy(), expected, 1e-4, 1e-5)


def test_image_pooling_of_a_single_image_is_not_erased_by_its_own_statistics():
    paddle.seed(0)
    pool, one = ImagePooling(4, 4, NORMS["batch"]), paddle.randn([1, 4, 8, 8])
    trained = pool(one).numpy()
    pool.eval()
    assert np.ptp(trained) > 0 and np.array_equal(trained, pool(one).numpy())
    pool.train()
    pool(paddle.randn([2, 4, 8, 8]))
    assert float(pool.project[1]._mean.abs().sum()) > 0


@pytest.mark.parametrize("branches", [2, 4])
def test_pyramid_branches_are_a_choice(branches):
    assert len(build("deeplabv2_resnet", aspp_branches=branches).heads["main"].branches) == branches


@pytest.mark.parametrize("policy", NORMS)
def test_a_norm_policy_survives_train_and_eval(policy):
    paddle.seed(0)
    layer, x = NORMS[policy](8), paddle.randn([2, 8, 4, 4]) * 3 + 1
    layer.train()
    trained = layer(x).numpy()
    statistics = {k: v.numpy() for k, v in layer.state_dict().items() if k in ("_mean", "_variance")}
    layer.eval()
    evaluated = layer(x).numpy()
    uses_batch = NORMS[policy].stats == "batch"
    assert np.allclose(trained, evaluated, atol=1e-5) != uses_batch
    if NORMS[policy].stats == "frozen":
        assert (statistics["_mean"] == 0).all() and (statistics["_variance"] == 1).all()
    assert layer.weight.stop_gradient != NORMS[policy].affine and layer.bias.stop_gradient != NORMS[policy].affine


def test_fixed_affine_parameters_are_kept_in_the_state():
    assert "backbone.bn1.weight" in build("deeplabv2_resnet").state_dict()


def test_frozen_lets_gradients_through_to_the_input_only_and_restores():
    network = discriminator(3, width=4)
    network[0].bias.stop_gradient = True  # frozen() must not free what was fixed before
    x = paddle.randn([1, 3, 64, 64])
    x.stop_gradient = False
    with frozen(network):
        loss = network(x).sum()
    loss.backward()
    assert float(x.grad.abs().sum()) > 0
    assert all(p.grad is None for p in network.parameters())
    assert network[0].bias.stop_gradient and not network[0].weight.stop_gradient


def test_inference_restores_the_mode_of_every_sublayer():
    model = build("small")
    model.train()
    model.heads.eval()
    with inference(model):
        assert not model.training and paddle.is_grad_enabled() is False
    assert model.training and not model.heads.training and paddle.is_grad_enabled()


def test_resize_aligns_corners():
    x = paddle.to_tensor([[[[0.0, 1.0]]]])
    np.testing.assert_allclose(resize(x, (1, 3)).numpy().ravel(), [0.0, 0.5, 1.0])
    assert resize(x, (1, 2)) is x


@pytest.mark.parametrize("size", [(1, 1), (2, 4), (4, 4), 3])
def test_adaptive_means_are_those_of_paddle_while_a_program_is_written(size):
    x = paddle.randn([2, 3, 5, 7])
    plain = paddle.nn.functional.adaptive_avg_pool2d(x, size).numpy()
    with resize_by_products():
        found = paddle.nn.AdaptiveAvgPool2D(size)(x).numpy()
    np.testing.assert_allclose(found, plain, 1e-5, 1e-6)


@pytest.mark.parametrize(("options", "shape"), [
    ({"size": [9, 4]}, (9, 4)), ({"scale_factor": 2}, (10, 14)), ({"size": [9, 4], "align_corners": True}, (9, 4)),
])  # fmt: skip
def test_paddles_interpolate_is_itself_while_a_program_is_written(options, shape):
    x, interpolate = paddle.randn([2, 3, 5, 7]), paddle.nn.functional.interpolate
    plain = interpolate(x, mode="bilinear", **options).numpy()
    with resize_by_products():
        found = paddle.nn.functional.interpolate(x, mode="bilinear", **options)
        assert paddle.shape(found) == [2, 3, *shape]
    np.testing.assert_allclose(found.numpy(), plain, 1e-4, 1e-5)
    assert paddle.nn.functional.interpolate is interpolate

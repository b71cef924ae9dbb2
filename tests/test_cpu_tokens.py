"""Inside accelerate(), what oneDNN computes of a transformer is what Paddle computes layer by layer."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from test_cpu import compare, randomised

from paddle_adaptseg.config.schema import Component
from paddle_adaptseg.cpu import accelerate, library, operations, token_layers, tokens
from paddle_adaptseg.evaluation.options import PLAIN
from paddle_adaptseg.evaluation.programs import logits_program
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.dinov2 import MLP, SelfAttention
from paddle_adaptseg.models.mit import EfficientAttention, MixFFN
from paddle_adaptseg.models.transformer import attention

pytestmark = pytest.mark.skipif(library.library() is None, reason="this Paddle ships no oneDNN of version 3")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tensors of any size are oneDNN's."""
    monkeypatch.setattr(token_layers, "LEAST", 0)
    monkeypatch.setattr(token_layers, "LEAST_SCORES", 0)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda: nn.LayerNorm(24, 1e-6), [2, 5, 7, 24]),
        (lambda: nn.Linear(24, 40), [2, 9, 24]),
        (lambda: MLP(24, 4.0), [2, 9, 24]),
        (lambda: MixFFN(16, 64), [2, 5, 7, 16]),
        (lambda: MixFFN(20, 36), [1, 4, 3, 20]),
        (lambda: EfficientAttention(24, 3, 2), [2, 6, 8, 24]),
        (lambda: EfficientAttention(16, 1, 1), [1, 5, 4, 16]),
        (lambda: SelfAttention(24, 2), [2, 11, 24]),
    ],
    ids=["norm", "linear", "mlp", "mix ffn", "odd mix ffn", "efficient attention", "one head", "self-attention"],
)
def test_a_layer_of_a_transformer_is_paddles(layer, shape, monkeypatch):
    monkeypatch.setattr(tokens, "BLOCK", 64)  # attention in several blocks
    paddle.seed(1)
    compare(nn.Sequential(randomised(layer())), paddle.randn(shape))


def test_layers_accept_tokens_that_lie_otherwise():
    x = paddle.randn([2, 16, 5, 7]).transpose([0, 2, 3, 1])
    for layer in (nn.LayerNorm(16), nn.Linear(16, 8), MixFFN(16, 32)):
        compare(nn.Sequential(randomised(layer)), x)


def test_a_linear_layer_without_bias_and_a_layer_with_a_hook_stay_paddles():
    hooked = MLP(8, 2.0)
    hooked.fc1.register_forward_post_hook(lambda layer, inputs, y: y * 2)
    for layer in (nn.Linear(8, 4, bias_attr=False), hooked):
        compare(nn.Sequential(randomised(layer)), paddle.randn([3, 8]))


@pytest.mark.parametrize("backbone, head", [("mit_b0", "daformer"), ("mit_b0", "segformer"), ("dinov2", "light")])
def test_a_whole_transformer_has_paddles_results_and_gradients(backbone, head):
    more = {"width": 48, "depth": 3, "num_heads": 3, "stored_grid": 5} if backbone == "dinov2" else {"drop_path": 0.0}
    parts = {"backbone": {"name": backbone, **more}, "head": {"name": head}}
    if head != "light":
        parts["head"]["dropout"] = 0.0
    network = build_model(Component("encode_decode", parts), 7)
    image = paddle.randn([2, 3, 64, 64])

    def found() -> list[np.ndarray]:
        network.clear_gradients()
        logits = network(image)["main"]
        (logits * paddle.cos(paddle.arange(logits.size, dtype="float32").reshape(logits.shape))).sum().backward()
        return [logits.numpy(), *(p.grad.numpy() for p in network.parameters() if p.grad is not None)]

    theirs = found()
    with accelerate(network):
        ours = found()
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        np.testing.assert_allclose(mine, other, 0, 2e-4 * np.abs(other).max() + 1e-6)


def test_attention_by_blocks_keeps_no_scores(monkeypatch):
    taken: list[tuple[int, ...]] = []
    real = tokens.operations.softmax_of
    monkeypatch.setattr(tokens.operations, "softmax_of", lambda shape: taken.append(shape) or real(shape))
    monkeypatch.setattr(tokens, "BLOCK", 256)
    q = paddle.randn([1, 64, 2, 8])
    q.stop_gradient = False
    plain, ours = (way(q * 1.0, q * 2.0, q * 3.0) for way in (attention, tokens.attention))
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), 1e-5, 1e-5)
    assert set(taken) == {(4, 64)}  # four queries at once


def test_a_kernel_of_which_channels_collide_in_the_cache_leaves_layouts_to_onednn_and_is_paddles():
    network = nn.Sequential(nn.Conv2D(1024, 8, 3, padding=1, bias_attr=False), nn.BatchNorm2D(8), nn.ReLU())
    assert operations.collides(((1, 1024, 6, 7), (8, 1024, 3, 3), (1, 1), (1, 1), (1, 1)))
    compare(network, paddle.randn([1, 1024, 6, 7]))


def test_a_program_is_traced_inside_a_session_too():
    head, backbone = {"name": "daformer", "channels": 16, "embed_dims": 16}, {"name": "mit", "depths": [1, 1, 1, 1]}
    small = {"embed_dims": [8, 16, 16, 16], "num_heads": [1, 1, 2, 2]}
    network = build_model(Component("encode_decode", {"backbone": {**backbone, **small}, "head": head}), 5)
    network.eval()
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    with paddle.no_grad():
        expected = network.logits(paddle.to_tensor(image))["main"].numpy()
    with accelerate(network):
        found = logits_program(network, PLAIN, (64, 64))(image)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())

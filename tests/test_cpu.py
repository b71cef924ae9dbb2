"""What oneDNN computes as one operation on a CPU is what Paddle computes layer by layer, and no map is copied."""

from __future__ import annotations

import gc

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_adaptseg.cpu import onednn, operations, pixelwise, without_onednn
from paddle_adaptseg.cpu.arena import STEP, Arena, arena, empty
from paddle_adaptseg.cpu.onednn import Operation, empty_last, lies_last
from paddle_adaptseg.models.convolution import Conv2D, ConvSequence, shared
from paddle_adaptseg.models.deeplabv3plus import DeepLabV3PlusResNet
from paddle_adaptseg.models.discriminator import discriminator
from paddle_adaptseg.models.layers import NORMS, frozen, inference, resize
from paddle_adaptseg.models.pooling import MaxPool2D
from paddle_adaptseg.models.resnet import Bottleneck, ResNet
from paddle_adaptseg.models.unit import ConvNorm

TOLERANCE = 2e-5  # of the largest value of each array; gradients through batch norm are differences of large sums

pytestmark = pytest.mark.skipif(onednn.library() is None, reason="this Paddle ships no oneDNN of version 3")


def looked_at(network, x):
    """Results, gradients and running statistics of a pass, by name."""
    x = x.detach()
    x.stop_gradient = False
    network.clear_gradients()
    results = network(x)
    results = list(results) if isinstance(results, (tuple, list)) else [results]
    weights = (paddle.cos(paddle.arange(y.size, dtype="float32").reshape(y.shape)) for y in results)
    sum((weight * y).sum() for weight, y in zip(weights, results)).backward()
    found = {f"result {i}": y.numpy() for i, y in enumerate(results)}
    found["input"] = x.grad.numpy()
    found.update({name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None})
    found.update({name: buffer.numpy() for name, buffer in network.named_buffers()})
    return found


def compare(network, x):
    """One pass in oneDNN's operations equals one in Paddle's."""
    before = {name: value.numpy() for name, value in network.state_dict().items()}
    ours = looked_at(network, x)
    network.set_state_dict(before)
    with without_onednn():
        theirs = looked_at(network, x)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, 0, TOLERANCE * np.abs(value).max() + 1e-12, err_msg=name)


def randomised(network, seed=0):
    """Weights and norms unlike their first values, so that nothing is right by chance."""
    paddle.seed(seed)
    for parameter in network.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.3 + (1.0 if parameter.ndim == 1 else 0.0))
    return network


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("policy", ["batch_fixed_affine", "frozen", "batch"])
@pytest.mark.parametrize("project, stride, dilation", [(True, 2, 1), (False, 1, 2), (True, 1, 1)])
def test_a_residual_block_is_paddles(policy, project, stride, dilation, training):
    fan_in = 12 if project else 32
    block = randomised(Bottleneck(fan_in, 8, NORMS[policy], stride, dilation, project, "1x1"))
    block.train() if training else block.eval()
    calls = block.register_forward_post_hook(lambda layer, inputs, y: lies.append(lies_last(y)))
    lies: list[bool] = []
    compare(block, paddle.randn([2, fan_in, 9, 11]))
    calls.remove()
    assert lies == [True, False]  # channels last, and Paddle's own


@pytest.mark.parametrize(
    "network",
    [
        lambda: discriminator(5, 8),
        lambda: ConvSequence(
            Conv2D(5, 8, 3, padding=1), nn.ReLU(), MaxPool2D(2, 2), Conv2D(8, 4, 3), nn.LeakyReLU(0.1)
        ),
        lambda: nn.Sequential(ConvNorm(Conv2D(5, 8, 3, bias_attr=False), nn.BatchNorm2D(8), nn.ReLU()), nn.Sigmoid()),
        lambda: nn.Sequential(ConvNorm(Conv2D(5, 8, 1, bias_attr=False), nn.BatchNorm2D(8)), nn.Sigmoid()),
    ],
    ids=["critic", "pooled", "unit", "unit without ReLU"],
)
def test_convolutions_with_what_follows_them_are_paddles(network):
    compare(randomised(network()), paddle.randn([2, 5, 65, 70]))


@pytest.mark.parametrize("size", [(13, 17), (14, 16)])
@pytest.mark.parametrize("kernel, stride, padding, ceil", [(3, 2, 1, True), (3, 2, 1, False), (2, 2, 0, False)])
def test_pooling_channels_last_is_paddles(kernel, stride, padding, ceil, size):
    paddle.seed(1)
    x = paddle.randn([2, 4, *size])
    last = empty_last(x.shape)
    paddle.assign(x.transpose([0, 2, 3, 1]), output=(held := last.transpose([0, 2, 3, 1])))
    found = []
    for value in (held.transpose([0, 3, 1, 2]), x):
        value.stop_gradient = False
        y = MaxPool2D(kernel, stride, padding, ceil_mode=ceil)(value)
        (y * paddle.arange(y.size, dtype="float32").reshape(y.shape)).sum().backward()
        found.append((lies_last(y), y.numpy(), value.grad.numpy()))
    assert [lies for lies, *_ in found] == [True, False]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_array_equal(found[0][2], found[1][2])


def test_a_whole_backbone_copies_no_map_between_its_operations(monkeypatch):
    """Only what comes in and what goes out may be copied: kernels, the picture, and gradients from outside.

    On AVX2, gradients of kernels have to copy their maps, because oneDNN is slow without.
    """
    network, copied, find = ResNet((2, 1, 1, 1), NORMS["batch_fixed_affine"]), [], Operation._way

    def watched(self, name, tensor):
        way = find(self, name, tensor)
        if way.copy is not None and name not in self.chosen:
            copied.append((name, tuple(tensor.shape)))
        return way

    monkeypatch.setattr(Operation, "_way", watched)
    y = network(paddle.randn([1, 3, 64, 64]))[-1]
    (y * 1.0).sum().backward()
    picture = (1, 3, 64, 64)
    assert {shape for _, shape in copied} <= {picture, tuple(y.shape)}
    assert len(copied) <= 3


def test_early_and_late_features_of_deeplabv3plus_reach_both_their_readers():
    network = DeepLabV3PlusResNet(5, (1, 1, 1, 1), width=16, aux=True)
    network.eval()  # batch statistics of few pixels amplify rounding
    x = paddle.randn([1, 3, 65, 65])
    x.stop_gradient = False
    (network(x)["main"] ** 2).sum().backward()
    ours = network.backbone.conv1.weight.grad.numpy()
    network.clear_gradients()
    with without_onednn():
        (network(x)["main"] ** 2).sum().backward()
    theirs = network.backbone.conv1.weight.grad.numpy()
    np.testing.assert_allclose(ours, theirs, 0, 1e-4 * np.abs(theirs).max())


def test_a_part_of_a_larger_tensor_is_read_where_it_begins():
    x, layer = paddle.randn([3, 4, 40, 40]), Conv2D(4, 6, 3)
    for part in (x[1:2], x[:, :, 3:], x.transpose([0, 1, 3, 2])):
        ours, p = layer(part), pixelwise.softmax(part)
        with without_onednn():
            np.testing.assert_allclose(ours.numpy(), layer(part).numpy(), 0, 1e-5)
            np.testing.assert_allclose(p.numpy(), pixelwise.softmax(part).numpy(), 0, 1e-6)


def test_gradients_of_strided_1x1_kernels_leave_the_layout_to_onednn():
    """Channels last, oneDNN's AVX-512 kernel writes past the end of its workspace: heaps were corrupted."""
    for channels in (3, 8, 12, 32):
        geometry = ((1, channels, 24, 48), (16, channels, 1, 1), (2, 2), (0, 0), (1, 1))
        assert {"src", "diff_dst"} <= set(operations.convolution("backward_weights", geometry, False).chosen)


def test_readers_of_one_map_add_their_gradients_and_an_unused_one_adds_none():
    x = ConvSequence(Conv2D(3, 4, 3), nn.ReLU())(paddle.randn([1, 3, 8, 8]))
    assert lies_last(x) and not x.stop_gradient
    x.retain_grads()
    one, other, _ = shared(x, 3)
    (2 * one + 3 * other).sum().backward()
    assert (x.grad == 5).all()


def test_a_frozen_critic_passes_gradients_on_and_keeps_none():
    critic, x = discriminator(3, 4), paddle.randn([1, 3, 64, 64])
    x.stop_gradient = False
    with frozen(critic):
        y = critic(x)
    y.sum().backward()
    assert np.abs(x.grad.numpy()).max() > 0 and all(p.grad is None for p in critic.parameters())


def test_looking_without_gradients_keeps_nothing_but_the_result():
    network, space = ResNet((1, 1, 1, 1), NORMS["batch_fixed_affine"]), arena()
    if space is None:
        pytest.skip("this system gives no arena")

    def used():
        gc.collect()
        return space.bytes.size - sum(space.sizes)

    with inference(network):
        before = used()
        y = network(paddle.randn([1, 3, 256, 256]))[-1]
        assert used() - before <= 4 * y.size + STEP


def test_what_is_given_back_joins_its_neighbours():
    space = Arena(64 * STEP)
    one, two, three = (space.take([1, STEP]) for _ in range(3))
    assert space.starts == [12 * STEP] and three.data_ptr() - one.data_ptr() == 8 * STEP
    del one, three
    gc.collect()
    assert (space.starts, space.sizes) == ([0, 8 * STEP], [4 * STEP, 56 * STEP])
    small = space.take([1, 100])  # the first hole that fits
    assert space.starts[0] == STEP
    del two, small
    gc.collect()
    assert (space.starts, space.sizes) == ([0], [64 * STEP])
    assert space.peak == 12 * STEP


def test_a_full_arena_and_small_tensors_are_left_to_paddle(monkeypatch):
    space = Arena(2 * STEP)
    assert space.take([3, STEP]) is None
    monkeypatch.setattr("paddle_adaptseg.cpu.arena.arena", lambda: space)
    large, tiny = empty([100, STEP]), empty([2, 3])
    assert large.shape == [100, STEP] and tiny.shape == [2, 3] and space.sizes == [2 * STEP]


def test_maps_outlive_the_names_that_they_were_made_under():
    x = empty_last([1, 64, 32, 32])
    x.fill_(2.0)
    y = x.transpose([0, 2, 3, 1])
    del x
    gc.collect()
    others = [empty_last([1, 64, 32, 32]) for _ in range(4)]
    for other in others:
        other.fill_(0.0)
    assert (y == 2.0).all()


def graded(function, *inputs):
    """A function's result and the gradients of its float inputs."""
    inputs = [x.clone().detach() for x in inputs]
    for x in inputs:
        x.stop_gradient = x.dtype != paddle.float32
    y = function(*inputs)
    weights = paddle.sin(paddle.arange(y.size, dtype="float32").reshape(y.shape)) if y.ndim else 1.0
    (y * weights).sum().backward()
    return [y.numpy(), *(x.grad.numpy() for x in inputs if not x.stop_gradient)]


PIXELWISE = {
    "softmax": pixelwise.softmax,
    "log-softmax": pixelwise.log_softmax,
    "cross entropy": lambda x: pixelwise.cross_entropy(x, LABEL, 255),
    "cross entropy without labels": lambda x: pixelwise.cross_entropy(x, paddle.full_like(LABEL, 255), 255),
    "resized": lambda x: resize(x, (40, 63)),
    "resized to one row": lambda x: resize(x[:, :, :1], (1, 30)),
}
LABEL = paddle.to_tensor(np.random.RandomState(0).choice([0, 1, 4, 255], (2, 9, 14)))


@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("name", PIXELWISE)
def test_what_is_computed_for_every_pixel_is_paddles(name, scale):
    x = paddle.to_tensor(np.random.RandomState(1).randn(2, 5, 9, 14).astype("float32") * scale)
    ours = graded(PIXELWISE[name], x)
    with without_onednn():
        theirs = graded(PIXELWISE[name], x)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, 1e-5, 1e-6 * max(1.0, np.abs(other).max()))


def test_certain_pixels_have_finite_losses_and_the_gradient_of_their_mistake():
    x = paddle.to_tensor([[[[200.0]], [[-200.0]]]])
    x.stop_gradient = False
    loss = pixelwise.cross_entropy(x, paddle.to_tensor([[[1]]]), 255)
    loss.backward()
    assert np.isfinite(float(loss)) and float(loss) > 50
    assert x.grad.flatten().tolist() == [1.0, -1.0]
    assert np.isfinite(pixelwise.log_softmax(x).numpy()).all()

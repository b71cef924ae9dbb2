"""Inside accelerate(), what oneDNN computes is what Paddle computes layer by layer; outside, nothing is left of it."""

from __future__ import annotations

import copy
import gc
import threading

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_adaptseg import fit
from paddle_adaptseg.core import runtime
from paddle_adaptseg.cpu import accelerate, layers, library, operations, switch
from paddle_adaptseg.cpu.arena import STEP, Arena, arena, empty
from paddle_adaptseg.cpu.onednn import Operation, empty_last, lies_last
from paddle_adaptseg.methods import losses
from paddle_adaptseg.models.deeplabv2 import DeepLabV2ResNet, PyramidHead
from paddle_adaptseg.models.deeplabv3plus import DeepLabV3PlusResNet
from paddle_adaptseg.models.discriminator import discriminator
from paddle_adaptseg.models.layers import NORMS, frozen, inference
from paddle_adaptseg.models.resnet import Bottleneck, ResNet

TOLERANCE = 2e-5  # of the largest value of each array; gradients through batch norm are differences of large sums

pytestmark = pytest.mark.skipif(library.library() is None, reason="this Paddle ships no oneDNN of version 3")


@pytest.fixture
def ran(monkeypatch):
    """Names of the operations of oneDNN that were made ready, in order."""
    names, real = [], Operation.__call__

    def call(self, tensors):
        names.append(tuple(tensors))
        return real(self, tensors)

    monkeypatch.setattr(Operation, "__call__", call)
    return names


def looked_at(network, x):
    """Results, gradients and running statistics of a pass, by name."""
    x = x.detach()
    x.stop_gradient = False
    network.clear_gradients()
    results = network(x * 1.0)  # a leaf that wants a gradient is left to Paddle
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
    with accelerate(network):
        ours = looked_at(network, x)
    network.set_state_dict(before)
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
        lambda: nn.Sequential(
            nn.Conv2D(5, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2D(2, 2), nn.Conv2D(8, 4, 3), nn.LeakyReLU(0.1)
        ),
        lambda: nn.Sequential(nn.Conv2D(5, 8, 3, bias_attr=False), nn.BatchNorm2D(8), nn.ReLU(), nn.Sigmoid()),
        lambda: nn.Sequential(nn.Conv2D(5, 8, 1, bias_attr=False), nn.BatchNorm2D(8), nn.ReLU6()),
        lambda: nn.Sequential(nn.Conv2D(5, 8, 1, bias_attr=False), nn.BatchNorm2D(8), nn.Conv2D(8, 3, 3), nn.Sigmoid()),
        lambda: PyramidHead(5, 3, (1, 2, 4)),
    ],
    ids=["discriminator", "pooled", "unit", "unit without ReLU", "two convolutions", "pyramid"],
)
def test_convolutions_with_what_follows_them_are_paddles(network, ran):
    compare(randomised(network()), paddle.randn([2, 5, 65, 70]))
    assert ran


@pytest.mark.parametrize("size", [(13, 17), (14, 16)])
@pytest.mark.parametrize("kernel, stride, padding, ceil", [(3, 2, 1, True), (3, 2, 1, False), (2, 2, 0, False)])
def test_pooling_channels_last_is_paddles(kernel, stride, padding, ceil, size):
    paddle.seed(1)
    x = paddle.randn([2, 4, *size])
    last = empty_last(x.shape)
    paddle.assign(x.transpose([0, 2, 3, 1]), output=(held := last.transpose([0, 2, 3, 1])))
    found, pool = [], nn.MaxPool2D(kernel, stride, padding, ceil_mode=ceil)
    with accelerate(pool):
        for value in (held.transpose([0, 3, 1, 2]), x):
            value.stop_gradient = False
            y = pool(value.transpose([0, 1, 2, 3]))
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
    with accelerate(network):
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
    with accelerate(network):
        (network(x)["main"] ** 2).sum().backward()
    ours = network.backbone.conv1.weight.grad.numpy()
    network.clear_gradients()
    (network(x)["main"] ** 2).sum().backward()
    theirs = network.backbone.conv1.weight.grad.numpy()
    np.testing.assert_allclose(ours, theirs, 0, 1e-4 * np.abs(theirs).max())


def test_a_part_of_a_larger_tensor_is_read_where_it_begins():
    x, layer = paddle.randn([3, 4, 40, 40]), nn.Conv2D(4, 6, 3)
    for part in (x[1:2], x[:, :, 3:], x.transpose([0, 1, 3, 2])):
        y, p = layer(part), losses.softmax(part)
        with accelerate(layer):
            np.testing.assert_allclose(layer(part).numpy(), y.numpy(), 0, 1e-5)
            np.testing.assert_allclose(losses.softmax(part).numpy(), p.numpy(), 0, 1e-6)


def test_gradients_of_strided_1x1_kernels_leave_the_layout_to_onednn():
    """Channels last, oneDNN's AVX-512 kernel writes past the end of its workspace: heaps were corrupted."""
    for channels in (3, 8, 12, 32):
        geometry = ((1, channels, 24, 48), (16, channels, 1, 1), (2, 2), (0, 0), (1, 1))
        assert {"src", "diff_dst"} <= set(operations.convolution("backward_weights", geometry, False).chosen)


def test_a_frozen_discriminator_passes_gradients_on_and_keeps_none(ran):
    network, x = discriminator(3, 4), paddle.randn([1, 3, 64, 64])
    x.stop_gradient = False
    with accelerate(network):
        with frozen(network):
            y = network(x * 1.0)
        y.sum().backward()
    assert np.abs(x.grad.numpy()).max() > 0 and all(p.grad is None for p in network.parameters()) and ran


def test_looking_without_gradients_keeps_nothing_but_the_result():
    network, space = ResNet((1, 1, 1, 1), NORMS["batch_fixed_affine"]), arena()
    if space is None:
        pytest.skip("this system gives no arena")

    def used():
        gc.collect()
        return space.bytes.size - sum(space.sizes) - sum(size for _, size in space.given)

    with inference(network), accelerate(network):
        before = used()
        y = network(paddle.randn([1, 3, 256, 256]))[-1]
        assert used() - before <= 4 * y.size + STEP


def test_what_is_given_back_joins_its_neighbours():
    space = Arena(64 * STEP)
    one, two, three = (space.take([1, STEP]) for _ in range(3))
    assert space.starts == [12 * STEP] and three.data_ptr() - one.data_ptr() == 8 * STEP
    del one, three
    gc.collect()
    space._join()
    assert (space.starts, space.sizes) == ([0, 8 * STEP], [4 * STEP, 56 * STEP])
    small = space.take([1, 100])  # the first hole that fits
    assert space.starts[0] == STEP
    del two, small
    gc.collect()
    space._join()
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


LABEL = paddle.to_tensor(np.random.RandomState(0).choice([0, 1, 4, 255], (2, 9, 14)))
PIXELWISE = {
    "softmax": losses.softmax,
    "log-softmax": losses.log_softmax,
    "cross entropy": lambda x: losses.cross_entropy(x, LABEL),
    "cross entropy without labels": lambda x: losses.cross_entropy(x, paddle.full_like(LABEL, 255)),
    "focal": lambda x: losses.focal_cross_entropy(x, LABEL),
    "entropy": losses.entropy_map,
}


@pytest.mark.parametrize("scale", [1.0, 10.0, 1000.0])
@pytest.mark.parametrize("name", PIXELWISE)
def test_what_is_computed_for_every_pixel_is_as_without(name, scale, ran):
    x = paddle.to_tensor(np.random.RandomState(1).randn(2, 5, 9, 14).astype("float32") * scale)
    theirs = graded(lambda x: PIXELWISE[name](x * 1.0), x)
    assert not ran
    with accelerate(nn.ReLU()):
        ours = graded(lambda x: PIXELWISE[name](x * 1.0), x)
    assert ran
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, 1e-5, 1e-6 * max(1.0, np.abs(other).max()))


# Where it steps aside.


def test_a_network_is_the_plain_one_before_and_after_whoever_else_uses_it():
    network = nn.Sequential(nn.Conv2D(3, 4, 3), nn.Sequential(nn.Conv2D(4, 4, 1), nn.ReLU()))
    kinds, before = [type(layer) for layer in network.sublayers(include_self=True)], dict(losses.PIXELWISE)
    with accelerate(network):
        with accelerate(network[1]):
            assert type(network[1][0]) is layers.FastConv2D
        assert type(network[1][0]) is type(network[0]) is layers.FastConv2D
        twin = copy.deepcopy(network)
        assert before != losses.PIXELWISE
    assert [type(layer) for layer in network.sublayers(include_self=True)] == kinds
    assert before == losses.PIXELWISE and not switch.SESSIONS
    x = paddle.randn([1, 3, 8, 8])
    assert paddle.equal_all(twin(x), network(x))  # a copy made inside is Paddle's own as well


def test_an_error_inside_leaves_the_plain_network():
    network = nn.Conv2D(3, 4, 3)
    with pytest.raises(ValueError, match="inside"), accelerate(network):
        raise ValueError("inside")
    assert type(network) is nn.Conv2D and not switch.SESSIONS


@pytest.mark.parametrize("choice, variable, fast", [("off", None, False), ("auto", "off", False), ("off", "on", True)])
def test_it_can_be_switched_off(choice, variable, fast, monkeypatch):
    monkeypatch.setattr(runtime, "_accelerate", ["auto"])
    if variable is not None:
        monkeypatch.setenv(runtime.ACCELERATE, variable)
    runtime.set_accelerate(choice)
    network = nn.Conv2D(3, 4, 3)
    with accelerate(network):
        assert (type(network) is layers.FastConv2D) == fast
    assert type(network) is nn.Conv2D


@pytest.mark.parametrize("choice, fast", [("off", False), ("false", False), ("auto", True), ("on", True)])
def test_a_run_is_accelerated_as_its_configuration_says_in_any_thread(tiny, ran, choice, fast, monkeypatch):
    monkeypatch.setattr(runtime, "_accelerate", ["auto"])
    config, ends = tiny("toy/adaptsegnet_multi", f"run.accelerate={choice}", "schedule.stop=2", "run.eval_every=2"), []
    assert config.run.accelerate == {"false": "off"}.get(choice, choice)
    thread = threading.Thread(target=lambda: ends.append(fit(config).step))
    thread.start()
    thread.join()
    assert ends == [2] and bool(ran) == fast and not switch.SESSIONS


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2D(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2D(4, 6, 3, padding=[1, 2, 0, 1]),
        nn.Conv2D(4, 6, 3, padding="same"),
        nn.Conv2D(4, 6, 3, padding=[[0, 0], [0, 0], [1, 1], [2, 2]]),
        nn.Conv2D(4, 6, 3, groups=2),
        nn.Conv2D(4, 6, 3, padding=1, data_format="NHWC"),
        nn.Sequential(nn.Conv2D(4, 6, 3, groups=2), nn.BatchNorm2D(6), nn.ReLU()),
        nn.Sequential(nn.Conv2D(4, 6, 3, padding="valid"), nn.LeakyReLU(0.2)),
    ],
    ids=["reflect", "4 numbers", "same", "pairs", "groups", "NHWC", "groups in a sequence", "valid in a sequence"],
)
def test_what_is_not_recognised_is_left_to_paddle(layer, ran):
    x = paddle.randn([2, 4, 12, 4])
    compare(layer, x)
    assert not ran


def test_hooks_of_layers_inside_a_sequence_are_called():
    network, called, x = discriminator(3, 4), [], paddle.randn([1, 3, 64, 64])
    for name, layer in network.named_sublayers():
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: called.append(name))
    with accelerate(network):
        network(x)
    assert called == [name for name, _ in network.named_sublayers()]


def test_spectral_norm_and_weight_norm_are_followed():
    x = paddle.randn([1, 3, 20, 20])
    for wrap in (nn.utils.spectral_norm, nn.utils.weight_norm):
        network = nn.Sequential(wrap(nn.Conv2D(3, 4, 3)), nn.LeakyReLU(0.2))
        network.eval()
        for _ in range(2):
            network[0].parameters()[-1].set_value(network[0].parameters()[-1] * 3)
            expected = network(x)
            with accelerate(network):
                np.testing.assert_allclose(network(x).numpy(), expected.numpy(), 1e-4, 1e-5)


def test_nothing_else_than_float32_and_no_empty_map_is_taken(ran):
    layer = nn.Conv2D(3, 4, 3)
    with accelerate(layer):
        layer.to(dtype="float64")
        layer(paddle.randn([1, 3, 8, 8]).astype("float64"))
    assert not ran


def test_maps_too_small_for_onednn_are_left_to_paddle():
    layer, x = nn.Conv2D(4, 1, 4, stride=2, padding=1), paddle.randn([1, 4, 1, 3])
    expected = layer(x)
    with accelerate(layer):
        assert layer(x).shape == expected.shape


def test_a_gradient_penalty_of_a_discriminator_is_paddles():
    network, found = discriminator(3, 4), []
    x = paddle.randn([2, 3, 64, 64])

    def penalty():
        network.clear_gradients()
        given = x.detach()
        given.stop_gradient = False
        (slope,) = paddle.grad([network(given).sum()], [given], create_graph=True)
        ((slope.square().sum([1, 2, 3]).sqrt() - 1) ** 2).mean().backward()
        return [p.grad.numpy() for p in network.parameters() if p.grad is not None]

    plain = penalty()
    with accelerate(network):
        found = penalty()
    assert len(plain) == len(found) > 4
    for one, other in zip(found, plain):
        np.testing.assert_allclose(one, other, 1e-4, 1e-6)


def test_what_cannot_be_done_twice_is_an_error_with_advice_and_no_crash(capfd):
    network, x = discriminator(3, 4), paddle.randn([1, 3, 64, 64])
    with accelerate(network):
        y = network(x).sum()
        y.backward(retain_graph=True)
        with pytest.raises((OSError, RuntimeError)):
            y.backward()
        assert "run backward once: set run.accelerate=off" in capfd.readouterr().err
        y = network(x).sum()
        with pytest.raises((OSError, RuntimeError)):
            paddle.grad([y], [network[0].weight], create_graph=True)
        assert "cannot be differentiated again" in capfd.readouterr().err


def test_an_accelerated_network_is_traced_as_the_plain_one(tmp_path):
    class Deployed(nn.Layer):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network.logits(x)["main"]

    network, x = Deployed(DeepLabV2ResNet(5, (1, 1, 1, 1))), paddle.randn([1, 3, 32, 48])
    network.eval()
    with paddle.no_grad():
        expected = network(x).numpy()
    with accelerate(network):
        spec = [paddle.static.InputSpec([1, 3, 32, 48], "float32")]
        paddle.jit.save(network, str(tmp_path / "net"), input_spec=spec)
    found = paddle.jit.load(str(tmp_path / "net"))(x).numpy()
    np.testing.assert_allclose(found, expected, 1e-3, 1e-4)


@pytest.mark.parametrize("size", [(360, 640), (37, 41)])
def test_batch_statistics_are_as_exact_as_paddles(size):
    """Of a large map, oneDNN's own keep four digits."""
    paddle.seed(0)
    conv, norm = nn.Conv2D(1, 16, 1, bias_attr=False), nn.BatchNorm2D(16, momentum=0.0)
    x = paddle.randn([1, 1, *size]) * 3 + 2
    truth = x.numpy().astype(np.float64).reshape(-1)[:, None] * conv.weight.numpy().astype(np.float64).reshape(1, -1)
    mean, variance = truth.mean(0), truth.var(0)
    expected = ((truth - mean) / np.sqrt(variance + norm._epsilon)).T.reshape(1, 16, *size)
    network, errors = nn.Sequential(conv, norm), []
    for context in (accelerate(network), accelerate(nn.ReLU())):
        with context:
            y = network(x).numpy()
        statistics = np.abs(norm._mean.numpy() - mean).max(), np.abs(norm._variance.numpy() / variance - 1).max()
        errors.append([*statistics, np.abs(y - expected).max()])
    for ours, paddles in zip(*errors):
        assert ours <= 2 * paddles + 1e-7

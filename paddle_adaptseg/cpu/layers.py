"""Layers and blocks that oneDNN computes where it can, and that are Paddle's own everywhere else.

Each is a subclass of exactly one plain class, which accelerate() puts in its place; it has the same attributes. What a
layer was not recognised for (hooks of its parts, groups, other paddings, another type, another thread's graph of
gradients) it leaves to the plain class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional, Union

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.cpu.chain import chained
from paddle_adaptseg.cpu.convolution import convolve, geometry_of, summed
from paddle_adaptseg.cpu.interleaved import takes
from paddle_adaptseg.cpu.onednn import lies_last
from paddle_adaptseg.cpu.operations import output_shape
from paddle_adaptseg.cpu.pooling import pooled, window_of
from paddle_adaptseg.cpu.residual import residual
from paddle_adaptseg.cpu.switch import on_cpu, paused, wants_own_gradient
from paddle_adaptseg.cpu.token_layers import FAST_TOKENS
from paddle_adaptseg.cpu.unit import Unit
from paddle_adaptseg.models.deeplabv2 import PyramidHead
from paddle_adaptseg.models.resnet import Bottleneck, ResNet


class FastConv2D(nn.Conv2D):
    """A convolution, unless it is a mere product of row-major matrices (1x1)."""

    def forward(self, x: Tensor) -> Tensor:
        y = _attempt_convolution(self, x)
        return nn.Conv2D.forward(self, x) if y is None else y  # tracing cannot follow super()


class FastMaxPool2D(nn.MaxPool2D):
    """Max pooling of a map that lies channels last."""

    def forward(self, x: Tensor) -> Tensor:
        y = _attempt_pooling(self, x)
        return nn.MaxPool2D.forward(self, x) if y is None else y


class FastSequential(nn.Sequential):
    """Layers in order; a convolution, its norm and its (leaky) ReLU are one operation. The result lies in rows."""

    def forward(self, x: Tensor) -> Tensor:
        y = _attempt_sequence(self, x)
        return nn.Sequential.forward(self, x) if y is None else y


class FastBottleneck(Bottleneck):
    """A residual block as one operation."""

    def forward(self, x: Tensor) -> Tensor:
        y = _attempt_block(self, x)
        return Bottleneck.forward(self, x) if y is None else y


class FastResNet(ResNet):
    """The first convolution with its norm and ReLU."""

    def start(self, x: Tensor) -> Tensor:
        y = None if self.vd else _attempt_unit(self.conv1, self.bn1, x)
        return ResNet.start(self, x) if y is None else y


class FastPyramidHead(PyramidHead):
    """The branches and their sum as one operation."""

    def forward(self, x: Tensor) -> Tensor:
        y = _attempt_sum(list(self.branches), x)
        return PyramidHead.forward(self, x) if y is None else y


FAST: Mapping[type, type] = {
    nn.Conv2D: FastConv2D,
    nn.MaxPool2D: FastMaxPool2D,
    nn.Sequential: FastSequential,
    Bottleneck: FastBottleneck,
    ResNet: FastResNet,
    PyramidHead: FastPyramidHead,
    **FAST_TOKENS,
}


@paddle.jit.not_to_static
def _attempt_convolution(conv: nn.Conv2D, x: Tensor) -> Optional[Tensor]:
    product = tuple(conv._kernel_size) == (1, 1) == _pair(conv._stride)
    if not _convolves(conv, x) or (product and not lies_last(x)):
        return None
    return convolve(x, conv.weight, conv.bias, geometry_of(conv, x.shape))


@paddle.jit.not_to_static
def _attempt_pooling(pool: nn.MaxPool2D, x: Tensor) -> Optional[Tensor]:
    numbers = (pool.ksize, pool.stride or pool.ksize, pool.padding)
    plain = all(type(n) is int for n in numbers) and not pool.return_mask and pool.data_format == "NCHW"
    if not plain or not on_cpu(x) or not lies_last(x):
        return None
    window = window_of(pool, x.shape)
    return None if window is None else pooled(x, window)


@paddle.jit.not_to_static
def _attempt_unit(conv: nn.Layer, norm: nn.Layer, x: Tensor) -> Optional[Tensor]:
    return chained(x, [Unit(conv, norm)], relu=True) if _is_unit(conv, norm) and _normalises(conv, norm, x) else None


@paddle.jit.not_to_static
def _attempt_sequence(sequence: nn.Sequential, x: Tensor) -> Optional[Tensor]:
    if paddle.in_dynamic_mode() and wants_own_gradient(x):
        with paused():
            return nn.Sequential.forward(sequence, x)
    layers = list(_flat(sequence))
    if not any(_plain(layer, nn.Conv2D) for layer in layers) or not on_cpu(x):
        return None
    while layers:
        x, layers = _step(layers, x)
    return x


def _flat(sequence: nn.Sequential) -> Iterator[nn.Layer]:
    """Its layers, and those of sequences in it."""
    for layer in sequence._sub_layers.values():
        yield from _flat(layer) if _plain(layer, nn.Sequential) else [layer]


def _step(layers: Sequence[nn.Layer], x: Tensor) -> tuple[Tensor, list[nn.Layer]]:
    """The result of the first layers that are one operation, and the layers that remain."""
    units, relu, rest = _first_units(layers, x)
    if units:
        return chained(x, units, relu, rows=not _reads_last(rest)), rest
    conv, *others = layers
    if _plain(conv, nn.Conv2D) and others and _plain(others[0], nn.ReLU, nn.LeakyReLU) and _convolves(conv, x):
        slope = float(getattr(others[0], "_negative_slope", 0.0))
        return convolve(x, conv.weight, conv.bias, geometry_of(conv, x.shape), slope), others[1:]
    return conv(x), others


def _first_units(layers: Sequence[nn.Layer], x: Tensor) -> tuple[list[Unit], bool, list[nn.Layer]]:
    """Convolutions and norms with ReLUs between them, whether one follows the last, and the layers that remain."""
    units, relu, rest, shape = list[Unit](), True, list(layers), tuple(x.shape)
    while relu and len(rest) > 1 and _is_unit(*rest[:2]) and _normalises(rest[0], rest[1], x, shape):
        units.append(Unit(rest[0], rest[1]))
        shape = units[-1].shape(shape)
        relu = len(rest) > 2 and _plain(rest[2], nn.ReLU)
        rest = rest[2 + relu :]
    return units, relu, rest


def _reads_last(layers: Sequence[nn.Layer]) -> bool:
    return bool(layers) and _plain(layers[0], nn.Conv2D, nn.MaxPool2D)


@paddle.jit.not_to_static
def _attempt_block(block: Bottleneck, x: Tensor) -> Optional[Tensor]:
    found = _units(block)
    if found is None or not on_cpu(x):
        return None
    units, shortcut = found
    shape = tuple(x.shape)
    for unit in units:
        if not _normalises(unit.conv, unit.norm, x, shape):
            return None
        shape = unit.shape(shape)
    if shortcut is not None and not _normalises(shortcut.conv, shortcut.norm, x):
        return None
    beside = tuple(x.shape) if shortcut is None else shortcut.shape(x.shape)
    return residual(x, units, shortcut) if shape == beside else None


def _units(block: Bottleneck) -> Optional[tuple[list[Unit], Optional[Unit]]]:
    """The convolutions and norms of a block and of its shortcut, if all are plain."""
    pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2), (block.conv3, block.bn3)]
    if block.shrink is not None:
        return None
    if block.downsample is not None:
        if not _plain(block.downsample, nn.Sequential) or len(block.downsample) != 2:
            return None
        pairs.append(tuple(block.downsample))
    if not all(_is_unit(*both) for both in pairs):
        return None
    units = [Unit(*both) for both in pairs]
    return units[:3], units[3] if block.downsample is not None else None


@paddle.jit.not_to_static
def _attempt_sum(convs: Sequence[nn.Layer], x: Tensor) -> Optional[Tensor]:
    if not all(_plain(conv, nn.Conv2D) and conv.bias is not None and _convolves(conv, x) for conv in convs):
        return None
    shapes = {output_shape(geometry_of(conv, x.shape)) for conv in convs}
    return summed(x, convs) if len(shapes) == 1 else None


def _plain(layer: Any, *kinds: type) -> bool:
    """Whether a layer is of one of these very types and nothing else happens when it is called."""
    if type(layer) not in kinds and type(layer) not in [FAST.get(kind) for kind in kinds]:
        return False
    return not layer._forward_pre_hooks and not layer._forward_post_hooks and "forward" not in vars(layer)


def _is_unit(conv: nn.Layer, norm: nn.Layer) -> bool:
    """Whether two layers are a convolution without bias and its batch norm."""
    if not _plain(conv, nn.Conv2D) or not _plain(norm, nn.BatchNorm2D) or conv.bias is not None:
        return False
    if norm.weight is None or norm.bias is None or norm._data_format != "NCHW":
        return False
    return norm.weight.stop_gradient == norm.bias.stop_gradient  # Paddle computes neither gradient alone


def _convolves(conv: nn.Conv2D, x: Tensor, shape: Optional[Sequence[int]] = None) -> bool:
    """Whether oneDNN has this convolution for a map of this shape, and the map may be given to it."""
    numbers = [_pair(value) for value in (conv._stride, conv._padding, conv._dilation)]
    groups = conv._groups == 1 or conv._groups == conv._in_channels == conv._out_channels
    plain = groups and conv._padding_mode == "zeros" and conv._data_format == "NCHW"
    tensors = (conv.weight,) if conv.bias is None else (conv.weight, conv.bias)
    if not plain or None in numbers or not on_cpu(x, *tensors):
        return False
    return takes(geometry_of(conv, x.shape if shape is None else shape))


def _normalises(conv: nn.Conv2D, norm: nn.BatchNorm2D, x: Tensor, shape: Optional[Sequence[int]] = None) -> bool:
    """The same for a convolution with its norm; a variance of a single value is left to Paddle."""
    if not _convolves(conv, x, shape) or not on_cpu(x, norm.weight, norm.bias, norm._mean, norm._variance):
        return False
    count, channels, height, width = output_shape(geometry_of(conv, x.shape if shape is None else shape))
    return channels == norm._num_features and count * height * width > 1


def _pair(value: Union[int, str, Sequence[Any]]) -> Optional[tuple[int, int]]:
    """Two numbers of a layer, or None where it has anything else, such as "same" or a number for each side."""
    if type(value) is int:
        return value, value
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(n) is int for n in value):
        return value[0], value[1]
    return None


def swapped(network: nn.Layer) -> Iterator[nn.Layer]:
    """The layers of a network for which there is a fast class."""
    for layer in network.sublayers(include_self=True):
        if type(layer) in FAST or type(layer) in FAST.values():
            yield layer

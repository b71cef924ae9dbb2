#!/usr/bin/env python3
"""A peer: the same step in plain eager Paddle with Paddle's defaults, written as ports of AdaptSegNet write it."""

from __future__ import annotations

import common
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn


class Bottleneck(nn.Layer):
    def __init__(self, fan_in: int, width: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2D(fan_in, width, 1, stride, bias_attr=False), norm(width)
        self.conv2 = nn.Conv2D(width, width, 3, 1, dilation, dilation, bias_attr=False)
        self.bn2 = norm(width)
        self.conv3, self.bn3 = nn.Conv2D(width, 4 * width, 1, bias_attr=False), norm(4 * width)
        shortcut = nn.Conv2D(fan_in, 4 * width, 1, stride, bias_attr=False) if project else None
        self.downsample = nn.Sequential(shortcut, norm(4 * width)) if project else None

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


def norm(channels: int) -> nn.BatchNorm2D:
    fixed = ParamAttr(trainable=False)
    return nn.BatchNorm2D(channels, weight_attr=fixed, bias_attr=fixed)


class Backbone(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2D(3, 64, 7, 2, 3, bias_attr=False), norm(64)
        self.pool = nn.MaxPool2D(3, 2, 1, ceil_mode=True)
        channels = 64
        for stage, width, stride, dilation, depth in common.blocks():
            layers = []
            for index in range(depth):
                layers.append(Bottleneck(channels, width, stride if index == 0 else 1, dilation, index == 0))
                channels = 4 * width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        stage3 = self.layer3(self.layer2(self.layer1(x)))
        return stage3, self.layer4(stage3)


class Head(nn.Layer):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.LayerList([nn.Conv2D(channels, common.CLASSES, 3, 1, d, d) for d in common.DILATIONS])

    def forward(self, x):
        return sum(branch(x) for branch in self.branches)


class Network(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.heads = nn.LayerDict({"aux": Head(1024), "main": Head(2048)})

    def forward(self, x):
        aux, main = self.backbone(x)
        return {"aux": self.heads["aux"](aux), "main": self.heads["main"](main)}


def discriminator() -> nn.Sequential:
    widths, layers = [common.CLASSES, 64, 128, 256, 512, 1], []
    for fan_in, fan_out in zip(widths, widths[1:]):
        layers += [nn.Conv2D(fan_in, fan_out, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def domain_loss(verdict, domain: float):
    return F.binary_cross_entropy_with_logits(verdict, paddle.full(verdict.shape, domain))


def enlarge(maps, image):
    return {k: F.interpolate(v, image.shape[2:], mode="bilinear", align_corners=True) for k, v in maps.items()}


def build(source: tuple[int, int], target: tuple[int, int]):
    network = Network()
    discriminators = nn.LayerDict({k: discriminator() for k in common.ADV_WEIGHTS})
    for prefix, module in (("segmenter.", network), ("discriminators.", discriminators)):
        for name, parameter in module.named_parameters():
            parameter.set_value(common.weights(prefix + name, tuple(parameter.shape)))
    trained = [p for p in network.backbone.parameters() if not p.stop_gradient]
    groups = [{"params": trained}, {"params": network.heads.parameters(), "learning_rate": 10.0}]
    segmenter_step = paddle.optimizer.Momentum(common.RATE, 0.9, parameters=groups, weight_decay=5e-4)
    trained = discriminators.parameters()
    discriminators_step = paddle.optimizer.Adam(common.DISCRIMINATOR_RATE, 0.9, 0.99, parameters=trained)

    def step(number: int, arrays: tuple):
        return train(network, discriminators, segmenter_step, discriminators_step, number, arrays)

    return step, {"name": f"plain Paddle {paddle.__version__} as shipped"}


def train(network, discriminators, segmenter_step, discriminators_step, number: int, arrays: tuple):
    """One step as the paper describes it."""
    watch, losses = common.Stopwatch(), {}
    factor = (1 - number / common.HORIZON) ** common.POWER
    segmenter_step.set_lr(common.RATE * factor)
    discriminators_step.set_lr(common.DISCRIMINATOR_RATE * factor)
    source_image, label, target_image = map(paddle.to_tensor, arrays)

    for parameter in discriminators.parameters():
        parameter.stop_gradient = True
    source = enlarge(network(source_image), source_image)
    for level in common.SEG_WEIGHTS:
        losses[f"seg_{level}"] = F.cross_entropy(source[level], label.unsqueeze(1), ignore_index=255, axis=1)
    sum(losses[f"seg_{k}"] * w for k, w in common.SEG_WEIGHTS.items()).backward()
    watch.lap("source")

    target = enlarge(network(target_image), target_image)
    for level in common.ADV_WEIGHTS:
        losses[f"adv_{level}"] = domain_loss(discriminators[level](F.softmax(target[level], 1)), 0.0)
    sum(losses[f"adv_{k}"] * w for k, w in common.ADV_WEIGHTS.items()).backward()
    watch.lap("target")

    for parameter in discriminators.parameters():
        parameter.stop_gradient = False
    for domain, maps, answer in (("source", source, 0.0), ("target", target, 1.0)):
        for level in common.ADV_WEIGHTS:
            loss = domain_loss(discriminators[level](F.softmax(maps[level].detach(), 1)), answer) / 2
            loss.backward()
            losses[f"d_{level}_{domain}"] = loss
    watch.lap("discriminators")

    segmenter_step.step()
    discriminators_step.step()
    segmenter_step.clear_grad()
    discriminators_step.clear_grad()
    values = {name: float(loss) for name, loss in losses.items()}
    watch.lap("update")
    return values, watch.seconds


def multiply() -> float:
    matrix = paddle.randn([2048, 2048])
    return common.best_rate(lambda: paddle.matmul(matrix, matrix), 2048)


if __name__ == "__main__":
    common.serve(build, multiply)

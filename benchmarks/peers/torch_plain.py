#!/usr/bin/env python3
"""A peer: AdaptSegNet's multi-level step in plain PyTorch, written from the paper, with PyTorch's defaults."""

from __future__ import annotations

import common
import torch
import torch.nn.functional as F
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, fan_in: int, width: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(fan_in, width, 1, stride, bias=False), norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), norm(4 * width)
        shortcut = nn.Conv2d(fan_in, 4 * width, 1, stride, bias=False) if project else None
        self.downsample = nn.Sequential(shortcut, norm(4 * width)) if project else None

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


def norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    layer.weight.requires_grad = layer.bias.requires_grad = False
    return layer


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), norm(64)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
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


class Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Conv2d(channels, common.CLASSES, 3, 1, d, d) for d in common.DILATIONS])

    def forward(self, x):
        return sum(branch(x) for branch in self.branches)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.heads = nn.ModuleDict({"aux": Head(1024), "main": Head(2048)})

    def forward(self, x):
        aux, main = self.backbone(x)
        maps = {"aux": self.heads["aux"](aux), "main": self.heads["main"](main)}
        return {k: F.interpolate(v, x.shape[2:], mode="bilinear", align_corners=True) for k, v in maps.items()}


def discriminator() -> nn.Sequential:
    widths, layers = [common.CLASSES, 64, 128, 256, 512, 1], []
    for fan_in, fan_out in zip(widths, widths[1:]):
        layers += [nn.Conv2d(fan_in, fan_out, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def domain_loss(verdict, domain: float):
    return F.binary_cross_entropy_with_logits(verdict, torch.full_like(verdict, domain))


def build(source: tuple[int, int], target: tuple[int, int]):
    network = Network()
    discriminators = nn.ModuleDict({k: discriminator() for k in common.ADV_WEIGHTS})
    for prefix, module in (("segmenter.", network), ("discriminators.", discriminators)):
        for name, parameter in module.named_parameters():
            parameter.data = torch.from_numpy(common.weights(prefix + name, tuple(parameter.shape)))
    groups = [
        {"params": [p for p in network.backbone.parameters() if p.requires_grad], "lr": common.RATE},
        {"params": network.heads.parameters(), "lr": 10 * common.RATE},
    ]
    segmenter_step = torch.optim.SGD(groups, common.RATE, momentum=0.9, weight_decay=5e-4)
    discriminators_step = torch.optim.Adam(discriminators.parameters(), common.DISCRIMINATOR_RATE, betas=(0.9, 0.99))

    def step(number: int, arrays: tuple):
        return train(network, discriminators, segmenter_step, discriminators_step, number, arrays)

    about = {"name": f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"}
    return step, {**about, "gflop": step_gflop(network, discriminators, source, target)}


@torch.no_grad()
def step_gflop(network, discriminators, source: tuple[int, int], target: tuple[int, int]) -> float:
    """Arithmetic of the convolutions of one step in 1e9 operations, counted by hooks on one pass at each size.

    A backward pass costs two forward passes: for the input, which the first layer does not need, and for the weights,
    which the adversarial pass does not need.
    """
    counted: list[float] = []

    def count(layer, inputs, output):
        counted.append(2 * output[0, 0].numel() * layer.weight.numel() / 1e9)

    modules = [m for part in (network, discriminators) for m in part.modules() if isinstance(m, nn.Conv2d)]
    hooks = [m.register_forward_hook(count) for m in modules]
    total = 0.0
    for size in (source, target):
        network.backbone.eval()
        passes = (lambda s=size: network(torch.zeros(1, 3, *s)), 0), (lambda s=size: verdicts(discriminators, s), 2)
        for forward, extra in passes:
            forward()
            total += 3 * sum(counted) - sum(counted[::5] if extra else counted[:1])
            total += extra * sum(counted) if size is target else 0.0
            counted.clear()
    network.train()
    for hook in hooks:
        hook.remove()
    return total


def verdicts(discriminators, size: tuple[int, int]) -> None:
    for one in discriminators.values():
        one(torch.zeros(1, common.CLASSES, *size))


def train(network, discriminators, segmenter_step, discriminators_step, number: int, arrays: tuple):
    """One step as the paper describes it."""
    watch, losses = common.Stopwatch(), {}
    factor = (1 - number / common.HORIZON) ** common.POWER
    for group, base in zip(segmenter_step.param_groups, (common.RATE, 10 * common.RATE)):
        group["lr"] = base * factor
    discriminators_step.param_groups[0]["lr"] = common.DISCRIMINATOR_RATE * factor
    segmenter_step.zero_grad()
    discriminators_step.zero_grad()
    source_image, label, target_image = map(torch.from_numpy, arrays)

    discriminators.requires_grad_(False)
    source = network(source_image)
    for level in common.SEG_WEIGHTS:
        losses[f"seg_{level}"] = F.cross_entropy(source[level], label, ignore_index=255)
    sum(losses[f"seg_{k}"] * w for k, w in common.SEG_WEIGHTS.items()).backward()
    watch.lap("source")

    target = network(target_image)
    for level in common.ADV_WEIGHTS:
        losses[f"adv_{level}"] = domain_loss(discriminators[level](F.softmax(target[level], 1)), 0.0)
    sum(losses[f"adv_{k}"] * w for k, w in common.ADV_WEIGHTS.items()).backward()
    watch.lap("target")

    discriminators.requires_grad_(True)
    for domain, maps, answer in (("source", source, 0.0), ("target", target, 1.0)):
        for level in common.ADV_WEIGHTS:
            loss = domain_loss(discriminators[level](F.softmax(maps[level].detach(), 1)), answer) / 2
            loss.backward()
            losses[f"d_{level}_{domain}"] = loss
    watch.lap("discriminators")

    segmenter_step.step()
    discriminators_step.step()
    values = {name: float(loss) for name, loss in losses.items()}
    watch.lap("update")
    return values, watch.seconds


def multiply() -> float:
    matrix = torch.randn(2048, 2048)
    return common.best_rate(lambda: matrix @ matrix, 2048)


if __name__ == "__main__":
    common.serve(build, multiply)

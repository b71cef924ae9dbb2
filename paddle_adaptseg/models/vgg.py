"""VGG-16 as DeepLab uses it (Chen et al., TPAMI 2018): no pool4 and pool5, dilated conv5, fc6 and fc7 as convs.

Indices inside `features` are those of the released weights.
"""

from __future__ import annotations

from paddle import nn

_PLAN = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512)


def vgg16_features() -> nn.Sequential:
    """Features [N, 1024, H/8, W/8]."""
    layers, fan_in = [], 3
    for step in _PLAN:
        if isinstance(step, str):
            layers.append(nn.MaxPool2D(2, 2))
            continue
        layers += [nn.Conv2D(fan_in, step, 3, padding=1), nn.ReLU()]
        fan_in = step
    for fan_out, dilation in ((512, 2), (512, 2), (512, 2), (1024, 4), (1024, 4)):
        layers += [nn.Conv2D(fan_in, fan_out, 3, padding=dilation, dilation=dilation), nn.ReLU()]
        fan_in = fan_out
    return nn.Sequential(*layers)

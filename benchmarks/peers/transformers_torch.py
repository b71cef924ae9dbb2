#!/usr/bin/env python3
"""A peer: the steps of DAFormer, VFM-UDA, DACS and HRDA in plain PyTorch, written from the papers, with its defaults.

Ways: as it is, `channels_last` and `fused_attention`. AdamW and SGD are PyTorch's fused ones.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
import torch_plain
import transformers_common as common
import transformers_hrda
import transformers_networks as networks
from transformers_steps import STEPS


class DeepLabV2(torch_plain.Network):
    """With its main head alone."""

    def __init__(self) -> None:
        super().__init__()
        del self.heads["aux"]

    def forward(self, image):
        logits = self.heads["main"](self.backbone(image)[1])
        return F.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=True)


def make_network(case: common.Case, size: int):
    if case.method == "dacs":
        return DeepLabV2()
    if case.method == "hrda":
        return transformers_hrda.HRDA(case.backbone, common.CLASSES, size)
    return networks.Network(case.backbone, common.CLASSES)


def build(case: common.Case, size: int, way: str):
    networks.FUSED[0] = "fused_attention" in way
    student = make_network(case, size)
    networks.fill(student)
    if "channels_last" in way:
        student = student.to(memory_format=torch.channels_last)
    teacher = copy.deepcopy(student).requires_grad_(False)
    fixed = copy.deepcopy(student.backbone).requires_grad_(False) if case.method in ("daformer", "hrda") else None
    optimiser = make_optimiser(student, case)
    bases = [group["lr"] for group in optimiser.param_groups]

    def step(number: int, arrays: tuple):
        for group, base in zip(optimiser.param_groups, bases):
            group["lr"] = base * (1 - number / case.horizon) ** case.power
        tensors = tuple(map(torch.from_numpy, arrays))
        if "channels_last" in way:
            tensors = tuple(t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors)
        watch = common.Stopwatch()
        losses = STEPS[case.method](student, teacher, fixed, optimiser, number, tensors, watch)
        values = {name: float(loss) for name, loss in losses.items()}
        watch.lap("update")
        return values, watch.seconds

    return step, {"name": f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads {way}"}


def make_optimiser(student, case: common.Case):
    """DACS's SGD, or the transformers' AdamW."""
    if case.method == "dacs":
        return torch.optim.SGD(groups(student, case), momentum=0.9, weight_decay=5e-4, fused=True)
    return torch.optim.AdamW(groups(student, case), weight_decay=0.01, fused=True)


def groups(student, case: common.Case) -> list[dict]:
    """Norms of a transformer's backbone have a weight decay of their own; a ResNet's norms are not trained."""
    trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
    inside = {name: p for name, p in trained.items() if "backbone" in name}
    norms = [p for name, p in inside.items() if "norm" in name]
    base = case.learning_rate
    found = [
        {"params": [p for name, p in inside.items() if "norm" not in name], "lr": base * case.backbone_rate},
        {"params": [p for name, p in trained.items() if name not in inside], "lr": base * case.head_rate},
    ]
    if norms:
        found.append({"params": norms, "lr": base * case.backbone_rate, "weight_decay": 0.01 * case.norm_decay})
    return found


if __name__ == "__main__":
    common.serve(build)

#!/usr/bin/env python3
"""A peer: DAFormer's and VFM-UDA's steps in plain PyTorch, written from the papers, with PyTorch's defaults.

Ways: as it is, `channels_last` and `fused_attention`. AdamW is PyTorch's fused one, and the source and the feature
distance go backward together, which is faster than one after the other.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
import transformers_common as common
import transformers_networks as networks
from torch import nn


def build(case: common.Case, size: int, way: str):
    networks.FUSED[0] = "fused_attention" in way
    student = networks.Network(case.backbone, common.CLASSES)
    linear = {name for name, m in student.named_modules() if isinstance(m, nn.Linear)}
    for name, parameter in student.named_parameters():
        transposed = name.endswith("weight") and name.rsplit(".", 1)[0] in linear
        shape = tuple(parameter.shape)[::-1] if transposed else tuple(parameter.shape)
        value = torch.from_numpy(common.weights(name, shape).astype(np.float32))
        parameter.data = value.t().contiguous() if transposed else value
    if "channels_last" in way:
        student = student.to(memory_format=torch.channels_last)
    teacher, fixed = copy.deepcopy(student).requires_grad_(False), copy.deepcopy(student.backbone).requires_grad_(False)
    optimiser = torch.optim.AdamW(groups(student, case), case.learning_rate, weight_decay=0.01, fused=True)
    bases = [group["lr"] for group in optimiser.param_groups]
    train = {"daformer": daformer, "vfm_uda": vfm_uda}[case.method]

    def step(number: int, arrays: tuple):
        for group, base in zip(optimiser.param_groups, bases):
            group["lr"] = base * (1 - number / common.HORIZON)
        tensors = tuple(map(torch.from_numpy, arrays))
        if "channels_last" in way:
            tensors = tuple(t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors)
        watch = common.Stopwatch()
        losses = train(student, teacher, fixed, optimiser, number, tensors, watch)
        values = {name: float(loss) for name, loss in losses.items()}
        watch.lap("update")
        return values, watch.seconds

    return step, {"name": f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads {way}"}


def groups(student, case: common.Case) -> list[dict]:
    norms = [p for n, p in student.backbone.named_parameters() if "norm" in n]
    others = [p for n, p in student.backbone.named_parameters() if "norm" not in n]
    base = case.learning_rate
    return [
        {"params": others, "lr": base * case.backbone_rate},
        {"params": norms, "lr": base * case.backbone_rate, "weight_decay": 0.01 * case.norm_decay},
        {"params": student.heads.parameters(), "lr": base * case.head_rate},
    ]


@torch.no_grad()
def follow(teacher, student, factor: float) -> None:
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - factor)


def cross_entropy(logits, label, weight=None):
    """The mean over all pixels; ignored ones count as 0."""
    loss = F.cross_entropy(logits, label, ignore_index=255, reduction="none")
    return (loss if weight is None else loss * weight).mean()


@torch.no_grad()
def pseudo_labels(teacher, image, mirror: bool):
    p = teacher(image).softmax(1)
    if mirror:
        p = (p + teacher(image.flip(-1)).softmax(1).flip(-1)) / 2
    confidence, label = p.max(1)
    return label, (confidence >= common.THRESHOLD).float().mean().expand(label.shape)


@torch.no_grad()
def class_mix(number: int, source, label, target, pseudo, weight):
    """Pixels of a random half of the source's classes on the target."""
    present = np.unique(label.numpy())
    ranks = common.class_ranks(number)[present]
    chosen = torch.from_numpy(present[ranks.argsort()][: (len(present) + 1) // 2])
    pasted = torch.isin(label, chosen)
    mixed = torch.where(pasted.unsqueeze(1), source, target), torch.where(pasted, label, pseudo)
    return (*mixed, torch.where(pasted, (label != 255).float(), weight))


@torch.no_grad()
def cell_labels(label, size):
    """The class that three quarters of a cell's pixels carry, else none."""
    cell = label.shape[1] // size[0]
    one_hot = F.one_hot(torch.where(label == 255, common.CLASSES, label), common.CLASSES + 1).permute(0, 3, 1, 2)
    share, best = F.avg_pool2d(one_hot.float(), cell).max(1)
    return torch.where((share >= common.FD_RATIO) & (best < common.CLASSES), best, 255)


def feature_distance(fixed, own, image, label):
    with torch.no_grad():
        other = fixed(image)[-1]
        mask = torch.isin(cell_labels(label, own.shape[2:]), torch.tensor(common.THINGS)).float()
    distance = (own - other).pow(2).sum(1)
    distance = torch.where(distance > 0, distance, 1).sqrt() * (distance > 0)
    return (distance * mask).sum() / mask.sum().clamp(min=1)


def daformer(student, teacher, fixed, optimiser, number: int, tensors, watch) -> dict:
    """The teacher follows and labels; source with feature distance; mixed."""
    source, label, target = tensors
    optimiser.zero_grad()
    follow(teacher, student, min(1 - 1 / (number + 1), common.DECAY))
    pseudo, weight = pseudo_labels(teacher, target, mirror=False)
    weight = weight.clone()
    weight[:, : common.MARGINS[0]], weight[:, -common.MARGINS[1] :] = 0, 0
    watch.lap("labels")
    logits = student(source)
    losses = {"seg_main": cross_entropy(logits, label)}
    losses["fd"] = feature_distance(fixed, student.features[-1], source, label)
    (losses["seg_main"] + common.FD_WEIGHT * losses["fd"]).backward()
    del logits
    watch.lap("source")
    image, mixed, weight = class_mix(number, source, label, target, pseudo, weight)
    losses["mix_main"] = cross_entropy(student(image), mixed, weight)
    losses["mix_main"].backward()
    watch.lap("mixed")
    optimiser.step()
    watch.lap("update")
    return {name: loss.detach() for name, loss in losses.items()}


def vfm_uda(student, teacher, fixed, optimiser, number: int, tensors, watch) -> dict:
    """The teacher labels the mean of two views; source; mixed; masked tokens; the teacher follows."""
    source, label, target = tensors
    optimiser.zero_grad()
    pseudo, weight = pseudo_labels(teacher, target, mirror=True)
    watch.lap("labels")
    losses = {"seg_main": F.cross_entropy(student(source), label, ignore_index=255)}
    losses["seg_main"].backward()
    watch.lap("source")
    image, mixed, mixed_weight = class_mix(number, source, label, target, pseudo, weight)
    losses["mix_main"] = cross_entropy(student(image), mixed, mixed_weight)
    losses["mix_main"].backward()
    watch.lap("mixed")
    rows = int(target.shape[2] * 1.1 // 14)
    kept = torch.from_numpy(common.kept_tokens(number, (rows, rows))).unsqueeze(0)
    losses["masked_main"] = cross_entropy(student(target, kept), pseudo, weight)
    losses["masked_main"].backward()
    watch.lap("masked")
    optimiser.step()
    follow(teacher, student, min(1 - 1 / (number + 2), common.DECAY))
    watch.lap("update")
    return {name: loss.detach() for name, loss in losses.items()}


if __name__ == "__main__":
    common.serve(build)

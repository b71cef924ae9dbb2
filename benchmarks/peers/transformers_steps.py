"""The papers' training steps in plain PyTorch: DAFormer, VFM-UDA, DACS and HRDA.

The source and the feature distance go backward together, which is faster than one after the other.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
import transformers_common as common


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


def learn_source(student, source, label, watch):
    """The backward pass of the source's loss, a mean over the labelled pixels."""
    loss = F.cross_entropy(student(source), label, ignore_index=255)
    loss.backward()
    watch.lap("source")
    return loss


def learn_mixed(student, number: int, tensors, pseudo, weight, watch):
    """The backward pass of the loss on the mixed image."""
    source, label, target = tensors
    image, mixed, weight = class_mix(number, source, label, target, pseudo, weight)
    loss = cross_entropy(student(image), mixed, weight)
    loss.backward()
    watch.lap("mixed")
    return loss


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
    losses["mix_main"] = learn_mixed(student, number, tensors, pseudo, weight, watch)
    optimiser.step()
    watch.lap("update")
    return {name: loss.detach() for name, loss in losses.items()}


def vfm_uda(student, teacher, fixed, optimiser, number: int, tensors, watch) -> dict:
    """The teacher labels the mean of two views; source; mixed; masked tokens; the teacher follows."""
    source, label, target = tensors
    optimiser.zero_grad()
    pseudo, weight = pseudo_labels(teacher, target, mirror=True)
    watch.lap("labels")
    losses = {"seg_main": learn_source(student, source, label, watch)}
    losses["mix_main"] = learn_mixed(student, number, tensors, pseudo, weight, watch)
    rows = int(target.shape[2] * 1.1 // 14)
    kept = torch.from_numpy(common.kept_tokens(number, (rows, rows))).unsqueeze(0)
    losses["masked_main"] = cross_entropy(student(target, kept), pseudo, weight)
    losses["masked_main"].backward()
    watch.lap("masked")
    optimiser.step()
    follow(teacher, student, min(1 - 1 / (number + 2), common.DECAY))
    watch.lap("update")
    return {name: loss.detach() for name, loss in losses.items()}


def dacs(student, teacher, fixed, optimiser, number: int, tensors, watch) -> dict:
    """The teacher labels; source, averaged over labelled pixels; mixed; the teacher follows."""
    source, label, target = tensors
    optimiser.zero_grad()
    pseudo, weight = pseudo_labels(teacher, target, mirror=False)
    watch.lap("labels")
    losses = {"seg_main": learn_source(student, source, label, watch)}
    losses["mix_main"] = learn_mixed(student, number, tensors, pseudo, weight, watch)
    optimiser.step()
    follow(teacher, student, min(1 - 1 / (number + 1), common.DACS_DECAY))
    watch.lap("update")
    return {name: loss.detach() for name, loss in losses.items()}


def scale_losses(prefix: str, student, number: int, image, label, weight=None) -> dict:
    """HRDA's two losses: of all of the image, and of the detail crop."""
    side = student.side
    top, left = common.detail_place(number, prefix == "mix", image.shape[2] - side)
    main, detail = student.with_detail(image, top, left)
    rows, columns = slice(top, top + side), slice(left, left + side)
    part = None if weight is None else weight[:, rows, columns]
    return {
        f"{prefix}_main": cross_entropy(main, label, weight),
        f"{prefix}_detail": cross_entropy(detail, label[:, rows, columns], part),
    }


def weighted(losses: dict):
    """The sum of HRDA's losses."""
    return sum(loss * common.DETAIL_WEIGHTS[name.split("_")[1]] for name, loss in losses.items())


def hrda(student, teacher, fixed, optimiser, number: int, tensors, watch) -> dict:
    """The teacher follows and labels, in windows; source with feature distance of the context; mixed."""
    source, label, target = tensors
    optimiser.zero_grad()
    follow(teacher, student, min(1 - 1 / (number + 1), common.DECAY))
    pseudo, weight = pseudo_labels(teacher, target, mirror=False)
    watch.lap("labels")
    losses = scale_losses("seg", student, number, source, label)
    distance = feature_distance(fixed, student.features[-1], F.avg_pool2d(source, 2), label)
    (weighted(losses) + common.FD_WEIGHT * distance).backward()
    watch.lap("source")
    image, mixed, weight = class_mix(number, source, label, target, pseudo, weight)
    on_mixed = scale_losses("mix", student, number, image, mixed, weight)
    weighted(on_mixed).backward()
    watch.lap("mixed")
    optimiser.step()
    watch.lap("update")
    return {name: loss.detach() for name, loss in {**losses, "fd": distance, **on_mixed}.items()}


STEPS = {"daformer": daformer, "vfm_uda": vfm_uda, "dacs": dacs, "hrda": hrda}

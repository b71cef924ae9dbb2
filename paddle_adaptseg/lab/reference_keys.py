"""What every key of a configuration means (reference.py writes the page)."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from paddle_adaptseg.core.labels import LABEL_SPACES
from paddle_adaptseg.data.catalog import DATASETS
from paddle_adaptseg.data.decode import LABELS
from paddle_adaptseg.lab import reference_practice, reference_self_training
from paddle_adaptseg.methods.losses import GAN_LOSSES, REPRESENTATIONS
from paddle_adaptseg.methods.prior import PRIORS
from paddle_adaptseg.models.layers import NORMS
from paddle_adaptseg.models.meanings import PART_KEYWORDS
from paddle_adaptseg.models.paddleseg import NORM_NAMES


def _one_of(names: typing.Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


DOMAIN = "data.<domain>."  # stands for each of data.source, data.target and data.validation
_DOMAIN = {
    "dataset": f"{_one_of(DATASETS)}, or a YAML file of your own",
    "root": "folder, zip archive, a pattern, or a list of these; several are read as one data set",
    "split": "one of that [data set's](datasets.md#the-rows) splits",
    "size": "width and height to which images are resized",
    "list": "text file that names the images to use, one on each line; empty: all",
    "exclude": "text file that names images to leave out",
    "only": "use only images with these values of a field of the path pattern: `{city: [aachen]}`",
    "without": "leave out images with these values of a field of the path pattern",
}


def _gpu(check: str) -> str:
    """The mark beside what was written for GPUs: the doctor's check that will show it."""
    return f"([GPU: {check}](hardware.md#what-waits-for-a-gpu))"


MEANINGS: Mapping[str, str] = {
    **{DOMAIN + key: text for key, text in _DOMAIN.items()},
    "data.classes": f"what the network predicts: {_one_of(LABEL_SPACES)}, a data set's YAML file, or `united` (all "
    "of several sources)",
    "data.protocols": "class sets to report; the first decides which checkpoint is best; empty: all classes",
    "data.cache": "folder where `tools/prepare.py` stores prepared images; they are used while they are up to date",
    "data.pixels.order": "`bgr` (Caffe's weights) or `rgb` (torchvision's and Paddle's)",
    "data.pixels.mean": "subtracted from pixel values (0 to 255), in the order above",
    "data.pixels.std": "by which pixel values are divided after the mean is subtracted",
    "data.augment.mirror": "mirror each image with probability 0.5",
    "data.augment.scale": "range of a random scale factor; larger images are cropped, smaller ones padded",
    "data.augment.crop": "width and height of a random crop",
    "data.augment.jitter": "brightness, contrast and saturation each change by up to this share",
    "data.augment.blur": "probability of a Gaussian blur",
    **reference_practice.DATA,
    **reference_self_training.RARE_CLASSES,
    **reference_self_training.EVAL,
    "data.batch_size": "images of each domain in a batch",
    "data.workers": "loader processes; 0: load in the training process. Does not change results",
    "data.timeout": "seconds after which a batch that does not arrive from the loader workers is an error",
    "data.quarantine": "number of unusable training files that are [replaced](reliability.md) and listed; one more "
    "stops the run",
    "plugins": "[your own](extending.md) modules or `.py` files that register methods, networks or data sets",
    "schedule.horizon": "step at which the learning rate would reach 0: `lr * (1 - step / horizon) ^ power`",
    "schedule.stop": "step at which training stops",
    "schedule.power": "exponent of the decay",
    "schedule.warmup": "steps of the warm-up, in which the learning rate grows",
    "schedule.warmup_ratio": "factor on the learning rate at the start of the warm-up; it grows to 1",
    "schedule.iter_size": "batches whose gradients are summed into one step",
    "run.output": "folder of the run",
    "run.seed": "seed of initial weights, data order and random changes",
    "run.device": f"`auto`, `cpu`, `gpu` or `gpu:1` {_gpu('parity')}",
    "run.log_every": "steps between lines of the log",
    "run.eval_every": "steps between evaluations; 0: never",
    "run.save_every": "steps between checkpoints",
    "run.keep": "number of last checkpoints whose full state is kept for resuming, besides the best; weights of "
    "all checkpoints are kept",
    "run.restore_from": "initial weights: a file, or a run's folder (`FOLDER@latest`, `FOLDER@12000`)",
    "run.restore_partial": "load the tensors that fit, and list missing and unused ones, instead of an error",
    "run.restore_labelled": "allow initial weights that were trained with labels of Cityscapes or ADE20K (then it "
    "is no unsupervised adaptation)",
    "run.max_hours": "stop with a checkpoint after this many hours; 0: no limit",
    "run.on_nonfinite": "`stop`, or `skip`: undo a step whose losses or gradients are not finite, and continue",
    "run.max_nonfinite": "number of steps that may be skipped in a run",
    "run.precision": f"fp32, bf16 or fp16: mixed precision, on a GPU {_gpu('precision')}",
    "run.loss_scale": "initial loss scale of fp16; halved after a step that overflows, doubled after 2000 steps "
    "that do not",
    "run.recompute": "recompute the forward pass of blocks in the backward pass: less memory, more time; "
    "true, or a list of stages: `[layer3]` of a ResNet, `[stage3]` of the small networks",
    "run.accelerate": "`auto`, `on` or `off`: on a CPU, [oneDNN](performance.md) computes blocks and losses; "
    "`PADDLE_ADAPTSEG_ACCELERATE=off` in the environment overrides it",
    "run.deterministic": f"also use deterministic cuDNN kernels {_gpu('deterministic')}",
    "run.cudnn_autotune": "measure cuDNN's kernels once for each size and use the fastest; null: yes, unless "
    f"deterministic {_gpu('deterministic')}",
    "run.timeout": "seconds that one of [several processes](scaling.md) waits for the others before it stops",
    "run.sync_norm": f"batch statistics over the images of all ranks; needs GPUs {_gpu('test-gpu')}",
    "run.baseline": "folder of a source-only run; evaluations then print the lift (gain in mIoU) over it",
    "run.profile": "number of steps, after the first two, that are [profiled](performance.md#profile-of-a-run); 0: "
    "none",
}
OPTIMISER_KEYS: Mapping[str, str] = {
    "lr": "learning rate, before the factors of the schedule and of parameter groups",
    "momentum": "momentum",
    "beta1": "decay of the first moment",
    "beta2": "decay of the second moment",
    "weight_decay": "weight decay, before the factors of parameter groups",
}
# Keywords of networks and methods mean the same wherever they occur, but for OTHERWISE.
KEYWORDS: Mapping[str, str] = {
    **PART_KEYWORDS,
    "depths": "blocks of the four stages: `[3, 4, 23, 3]` is ResNet-101, `[3, 4, 6, 3]` ResNet-50",
    "norm": _one_of(NORMS),
    "aspp_branches": "number of pyramid branches that are used: 2 as in AdaptSegNet's released weights, or 4",
    "head_rate": "learning rate of the heads as a multiple of the backbone's",
    "stride_in": "which convolution of a block has the stride: `1x1` (Caffe) or `3x3` (torchvision, Paddle)",
    "aux": "whether there is an auxiliary head",
    "variant": "`plain`, or `vd`: deep stem and averaged shortcuts (PaddleSeg)",
    "output_stride": "8 or 16: ratio of the image size to the size of the last features",
    "width": "channels: of the pyramid and decoder (DeepLabV3+), of the first stage (small), of the tokens (dinov2)",
    "seg_weights": "weight of the segmentation loss on the source, for each level",
    "weights": "weight of the adaptation loss for each level; a level that is not named has none",
    "gan": f"objective of the discriminators: {_one_of(GAN_LOSSES)}",
    "represent": f"input of the discriminators: {_one_of(REPRESENTATIONS)}",
    "discriminator_width": "channels of a discriminator's first layer",
    "discriminator_scale": "size of the maps that discriminators read, relative to the image; 1 in the papers",
    "ramp": "`{start, steps}`: the weights of the adaptation are multiplied by 0 before step `start`, then by a "
    "factor that grows to 1 within `steps`",
    "target_loss": _one_of(PRIORS),
    "options": "keywords of the target loss: `{ratio: 0.2}`, `{threshold: 0.95}`",
    "guidance": "train the auxiliary head where the confidence of either head is above this",
    "preheat": "number of first steps in which the adversarial loss is not weighted by the disagreement of the heads",
    "lambda_adv": "weight of the adversarial loss",
    "lambda_weight": "weight of the discrepancy loss, which keeps the weights of the two heads different",
    "lambda_local": "weight of the disagreement of the two heads in the adversarial loss of a pixel",
    "epsilon": "weight of a pixel in the adversarial loss when both heads agree",
    **{**reference_self_training.KEYWORDS, **reference_practice.KEYWORDS},
}
OWN: Mapping[str, str] = {
    "images": "path patterns of the images, relative to the root; of several the first that matches is used",
    "labels": "path patterns of their labels, with the same fields",
    "classes": "the classes, in the order of the network's outputs",
    "splits": "values of `{split}`",
    "title": "name of the data set in reports",
    "decode": _one_of(LABELS),
    "ignored": "ids that may occur in labels and belong to no class",
    "classes[].name": "name of the class",
    "classes[].ids": "its ids in the label files",
    "classes[].colour": "red, green and blue of its colour in images",
}
# What keywords mean in one network or method where KEYWORDS says otherwise.
OTHERWISE: Mapping[str, Mapping[str, str]] = {
    "paddleseg": {
        "backbone": "the `type` of a backbone of [PaddleSeg](paddleseg.md), and its own keywords",
        "norm": _one_of(NORM_NAMES),
        "norm_decay": "factor on the weight decay of all norms' parameters",
    },
}

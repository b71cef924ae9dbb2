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


def _one_of(names: typing.Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


DOMAIN = "data.<domain>."  # stands for each of data.source, data.target and data.validation
_DOMAIN = {
    "dataset": f"{_one_of(DATASETS)}, or a YAML file of your own",
    "root": "folder, zip archive, pattern of them, or a list; several act as one",
    "split": "one of that [data set's](datasets.md#the-rows) splits",
    "size": "width and height at which the network sees its images",
    "list": "text file that names the images to use, one a line; empty: all",
    "exclude": "text file that names images to leave out",
    "only": "fields of the pattern and their allowed values: `{city: [aachen]}`",
    "without": "fields of the pattern and values to leave out",
}


def _gpu(check: str) -> str:
    """The mark beside what was written for GPUs: the doctor's check that will show it."""
    return f"([GPU: {check}](hardware.md#what-waits-for-a-gpu))"


MEANINGS: Mapping[str, str] = {
    **{DOMAIN + key: text for key, text in _DOMAIN.items()},
    "data.classes": f"what the network predicts: {_one_of(LABEL_SPACES)}, a data set's YAML file, `united` (sources)",
    "data.protocols": "class sets to report; the first decides which checkpoint is best; empty: all classes",
    "data.cache": "folder of what `tools/prepare.py` stored; used where it is up to date",
    "data.pixels.order": "`bgr` (Caffe's weights) or `rgb` (torchvision's and Paddle's)",
    "data.pixels.mean": "subtracted from 0..255, in the order above",
    "data.pixels.std": "divided by, after the mean",
    "data.augment.mirror": "mirror half of the images",
    "data.augment.scale": "range of a random factor on the size; what is larger is cut, what is smaller padded",
    "data.augment.crop": "width and height of a random cut",
    "data.augment.jitter": "brightness, contrast and saturation each vary by up to this share",
    "data.augment.blur": "chance of a Gaussian blur",
    **reference_practice.DATA,
    **reference_self_training.RARE_CLASSES,
    **reference_self_training.EVAL,
    "data.batch_size": "images of each domain in a batch",
    "data.workers": "loader processes; 0 reads in the training process; changes no result",
    "data.timeout": "seconds that loader workers may take for a batch",
    "data.quarantine": "unusable training items that are [replaced](reliability.md) and listed; one more stops the run",
    "plugins": "modules, or `.py` files, of [your own](extending.md) that register methods, networks, data sets",
    "schedule.horizon": "step at which the learning rate would reach 0: `lr * (1 - step / horizon) ^ power`",
    "schedule.stop": "step at which training stops",
    "schedule.power": "exponent of the decay",
    "schedule.warmup": "steps over which the learning rate first grows",
    "schedule.warmup_ratio": "0: it grows from 0; otherwise the decayed learning rate is multiplied by a factor that "
    "grows from this to 1",
    "schedule.iter_size": "batches whose gradients are summed into one step",
    "run.output": "folder of the run",
    "run.seed": "seed of initial weights, order of data and random changes",
    "run.device": f"`auto`, `cpu`, `gpu` or `gpu:1` {_gpu('parity')}",
    "run.log_every": "steps between lines of the log",
    "run.eval_every": "steps between evaluations; 0: never",
    "run.save_every": "steps between checkpoints",
    "run.keep": "how many of the last full states stay (the best stays too; weights stay of every checkpoint)",
    "run.restore_from": "starting weights: a file, or a run's folder (`FOLDER@latest`, `FOLDER@12000`)",
    "run.restore_partial": "load what fits although tensors are missing or left over, and list them",
    "run.restore_labelled": "start from weights that have seen labels of Cityscapes or ADE20K, which is no adaptation",
    "run.max_hours": "end this session with a checkpoint after so many hours; 0: no limit",
    "run.on_nonfinite": "`stop`, or `skip`: undo a step whose losses or gradients are not finite, and continue",
    "run.max_nonfinite": "steps that may be skipped in a run",
    "run.precision": f"fp32, bf16 or fp16: mixed precision, on a GPU {_gpu('precision')}",
    "run.loss_scale": "by which fp16's losses are multiplied at the start; halved after a step that overflows, "
    "doubled after 2000 that do not",
    "run.recompute": "blocks keep only their input and run forward again for their gradient: less memory, more time; "
    "true, or a list of stages: `[layer3]` of a ResNet, `[stage3]` of the small networks",
    "run.accelerate": "`auto`, `on` or `off`: on a CPU, [oneDNN](performance.md) computes blocks and losses; "
    "`PADDLE_ADAPTSEG_ACCELERATE=off` in the environment goes before it",
    "run.deterministic": f"also choose deterministic cuDNN kernels {_gpu('deterministic')}",
    "run.cudnn_autotune": "time cuDNN's kernels once for each size and take the fastest; null: unless deterministic "
    f"{_gpu('deterministic')}",
    "run.timeout": "seconds that one of [several processes](scaling.md) waits for the others before it ends",
    "run.sync_norm": f"batch statistics over the images of all ranks; needs GPUs {_gpu('test-gpu')}",
    "run.baseline": "folder of a source-only run; evaluations then report the difference from it",
    "run.profile": "so many steps, after the first two, are [profiled](performance.md#profile-of-a-run); 0: none",
}
OPTIMISER_KEYS: Mapping[str, str] = {
    "lr": "learning rate, before the schedule's factor and those of parameter groups",
    "momentum": "share of the last update that the next one keeps",
    "beta1": "decay of the first moment",
    "beta2": "decay of the second moment",
    "weight_decay": "its coefficient, before the factors of parameter groups",
}
# Keywords of networks and methods mean the same wherever they occur.
KEYWORDS: Mapping[str, str] = {
    **PART_KEYWORDS,
    "depths": "blocks of the four stages: `[3, 4, 23, 3]` is ResNet-101, `[3, 4, 6, 3]` ResNet-50",
    "norm": _one_of(NORMS),
    "aspp_branches": "pyramid branches that act: 2 as in AdaptSegNet's released weights, or 4",
    "head_rate": "learning rate of the heads as a multiple of the backbone's",
    "stride_in": "convolution of a block that strides: `1x1` (Caffe) or `3x3` (torchvision, Paddle)",
    "aux": "whether there is an auxiliary head",
    "variant": "`plain`, or `vd`: deep stem and averaged shortcuts (PaddleSeg)",
    "output_stride": "8 or 16: how much smaller than the image the last features are",
    "width": "channels: of the pyramid and decoder (DeepLabV3+), of the first stage (small), of the tokens (dinov2)",
    "seg_weights": "weight of the source's cross entropy on each level",
    "weights": "weight of the adaptation's loss on each level; a level without a key has none",
    "gan": f"the discriminators' objective: {_one_of(GAN_LOSSES)}",
    "represent": f"input of the discriminators: {_one_of(REPRESENTATIONS)}",
    "discriminator_width": "channels of a discriminator's first layer",
    "discriminator_scale": "size of the discriminators' maps as a share of the image; 1 in the papers",
    "ramp": "`{start, steps}`: adaptation weighs 0 before `start`, then grows to 1 within `steps`",
    "target_loss": _one_of(PRIORS),
    "options": "keywords of the target loss: `{ratio: 0.2}`, `{threshold: 0.95}`",
    "guidance": "train the auxiliary head where the confidence of either head is above this",
    "preheat": "steps of the plain adversarial loss before it is weighted by the heads' disagreement",
    "lambda_adv": "weight of the adversarial loss",
    "lambda_weight": "weight of what keeps the two heads apart",
    "lambda_local": "how much more disagreeing pixels weigh",
    "epsilon": "how much agreeing pixels weigh",
    **{**reference_self_training.KEYWORDS, **reference_practice.KEYWORDS},
}
OWN: Mapping[str, str] = {
    "images": "patterns of image files below the root; of several the first that matches counts",
    "labels": "patterns of their labels, with the same fields",
    "classes": "the classes, in the order of the network's outputs",
    "splits": "values of `{split}`",
    "title": "what reports call it",
    "decode": _one_of(LABELS),
    "ignored": "ids that may occur and are no class",
    "classes[].name": "name of the class",
    "classes[].ids": "ids in the label files that mean it",
    "classes[].colour": "red, green and blue of its pixels in colour images",
}

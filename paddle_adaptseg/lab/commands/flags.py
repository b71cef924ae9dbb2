"""The command line of `train`: the originals' flags and the keys they set (docs/migration.md), and ours."""

from __future__ import annotations

import argparse
import json

from paddle_adaptseg.lab.commands.arguments import add_override

# key: flags, what stands for the value, help
FLAGS = {
    "run.output": (("--checkpoint-dir", "--snapshot-dir"), "DIR", "folder of the run"),
    "run.restore_from": (
        ("--restore-from",),
        "WEIGHTS",
        "initial weights: a file, or a run's folder (also FOLDER@latest, FOLDER@12000)",
    ),
    "run.seed": (("--random-seed",), "N", "seed of all random choices"),
    "run.save_every": (("--save-pred-every",), "STEPS", "steps between checkpoints"),
    "method.seg_weights.aux": (("--lambda-seg",), "WEIGHT", "weight of the auxiliary segmentation loss"),
    "method.weights.aux": (("--lambda-adv-target1",), "WEIGHT", "weight of the auxiliary adversarial loss"),
    "method.weights.main": (("--lambda-adv-target2",), "WEIGHT", "weight of the main adversarial loss"),
    "method.gan": (("--gan",), "KIND", "Vanilla or LS"),
    "optim.segmenter.lr": (("--learning-rate",), "RATE", "learning rate of the segmenter"),
    "optim.segmenter.momentum": (("--momentum",), "X", "momentum of the segmenter's SGD"),
    "optim.segmenter.weight_decay": (("--weight-decay",), "X", "weight decay of the segmenter"),
    "optim.discriminators.lr": (("--learning-rate-D",), "RATE", "learning rate of the discriminators"),
    "schedule.horizon": (("--num-steps",), "STEPS", "steps over which the learning rate decays"),
    "schedule.stop": (("--num-steps-stop",), "STEP", "step at which training stops"),
    "schedule.power": (("--power",), "X", "exponent of the learning rate's decay"),
    "schedule.iter_size": (("--iter-size",), "N", "batches whose gradients are summed in a step"),
    "data.batch_size": (("--batch-size",), "N", "images of each domain in a batch"),
    "data.workers": (("--num-workers",), "N", "loader processes"),
    "data.source.root": (("--data-dir",), "PATH", "folder or archive of the source"),
    "data.target.root": (
        ("--data-dir-target",),
        "PATH",
        "folder or archive of the target; does not change data.validation.root",
    ),
}
TEXT = ("run.output", "run.restore_from", "method.gan", "data.source.root", "data.target.root")  # never read as YAML
# Flags without a value, and what they set.
SWITCHES = {"--deterministic": ("run.deterministic=true", "also use deterministic cuDNN kernels")}
# Flags of the originals that do nothing there, and what does it here.
REFUSED = {
    "--random-mirror": "the originals ignore it; images are mirrored by -o data.augment.mirror=true",
    "--random-scale": "the originals ignore it; images are scaled by -o data.augment.scale=[0.5,1.5]",
    "--not-restore-last": "leave it out: heads of another shape than the weights' always start anew",
    "--is-training": "leave it out: it means nothing",
    "--set": "use -o data.target.split=...",
    "--model": "a configuration names the network: --config",
    "--data-list": "use -o data.source.list=FILE",
    "--data-list-target": "use -o data.target.list=FILE",
}


class _Refused(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string}: {REFUSED[option_string]}")


def train_parser(description: str) -> argparse.ArgumentParser:
    """The parser of tools/train.py."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--config",
        metavar="NAME",
        help="YAML file, or the name of a shipped configuration such as gta5_cityscapes/adaptsegnet_multi; "
        "default: the run's own when resuming, else toy/adaptsegnet_multi",
    )
    add_override(parser)
    for key, (flags, value, text) in FLAGS.items():
        parser.add_argument(*flags, dest=key, metavar=value, help=f"{text} ({key})")
    for flag, (setting, text) in SWITCHES.items():
        parser.add_argument(flag, dest="switches", action="append_const", const=setting, default=[], help=text)
    for flag in REFUSED:
        parser.add_argument(flag, nargs="?", action=_Refused, help=argparse.SUPPRESS)
    parser.add_argument("--continue-train", action="store_true", help="resume from a checkpoint in this run's folder")
    parser.add_argument("--start-iter", metavar="STEP", help="latest (default), best or a step; needs --continue-train")
    parser.add_argument("--accept-changes", action="store_true", help="resume although settings or Paddle changed")
    parser.add_argument("--overwrite", action="store_true", help="start again in a folder that holds a run")
    parser.add_argument("--dry-run", action="store_true", help="print the plan only; exit code 1 if files are missing")
    return parser


def overrides(args: argparse.Namespace) -> list[str]:
    """What the flags set, then the overrides as they stand, which take precedence."""
    values = {key: value for key, value in vars(args).items() if "." in key and value is not None}
    flags = (f"{key}={json.dumps(value) if key in TEXT else value}" for key, value in values.items())
    return [*flags, *args.switches, *args.override]

"""The command line of tools/train.py: the originals' flags and the keys they set (docs/migration.md), and ours."""

from __future__ import annotations

import argparse
import json

# key: flags, help
FLAGS = {
    "run.output": (("--checkpoint-dir", "--snapshot-dir"), "folder of the run"),
    "run.restore_from": (("--restore-from",), "starting weights, or a run's folder (FOLDER@latest, FOLDER@12000)"),
    "run.seed": (("--random-seed",), "seed of everything"),
    "run.save_every": (("--save-pred-every",), "steps between checkpoints"),
    "method.seg_weights.aux": (("--lambda-seg",), "weight of the auxiliary segmentation loss"),
    "method.weights.aux": (("--lambda-adv-target1",), "weight of the auxiliary adversarial loss"),
    "method.weights.main": (("--lambda-adv-target2",), "weight of the main adversarial loss"),
    "method.gan": (("--gan",), "Vanilla or LS"),
    "optim.segmenter.lr": (("--learning-rate",), "learning rate of the segmenter"),
    "optim.segmenter.momentum": (("--momentum",), "its momentum"),
    "optim.segmenter.weight_decay": (("--weight-decay",), "its weight decay"),
    "optim.discriminators.lr": (("--learning-rate-D",), "learning rate of the discriminators"),
    "schedule.horizon": (("--num-steps",), "steps over which the learning rate decays"),
    "schedule.stop": (("--num-steps-stop",), "step at which training stops"),
    "schedule.power": (("--power",), "of the decay"),
    "schedule.iter_size": (("--iter-size",), "batches whose gradients are summed in a step"),
    "data.batch_size": (("--batch-size",), "images of each domain in a batch"),
    "data.workers": (("--num-workers",), "loader processes"),
    "data.source.root": (("--data-dir",), "folder or archive of the source"),
    "data.target.root": (("--data-dir-target",), "folder or archive of the target (data.validation.root stays)"),
}
TEXT = ("run.output", "run.restore_from", "method.gan", "data.source.root", "data.target.root")  # never read as YAML
# Flags without a value, and what they set.
SWITCHES = {"--deterministic": ("run.deterministic=true", "also choose deterministic cuDNN kernels")}


def train_parser(description: str) -> argparse.ArgumentParser:
    """The parser of tools/train.py."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", help="YAML file; default: the run's own when continuing, else the toy pair")
    parser.add_argument("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    for key, (flags, text) in FLAGS.items():
        parser.add_argument(*flags, dest=key, help=f"{text} ({key})")
    for flag, (setting, text) in SWITCHES.items():
        parser.add_argument(flag, dest="switches", action="append_const", const=setting, default=[], help=text)
    parser.add_argument("--continue-train", action="store_true", help="resume from a checkpoint in this run's folder")
    parser.add_argument("--start-iter", help="latest (default), best or a step; needs --continue-train")
    parser.add_argument("--accept-changes", action="store_true", help="continue although settings or Paddle changed")
    parser.add_argument("--overwrite", action="store_true", help="start anew in a folder that holds a run")
    parser.add_argument("--dry-run", action="store_true", help="print the plan only; exit code 1 if files are missing")
    return parser


def overrides(args: argparse.Namespace) -> list[str]:
    """What the flags set, then the overrides as they stand, which take precedence."""
    values = {key: value for key, value in vars(args).items() if "." in key and value is not None}
    flags = (f"{key}={json.dumps(value) if key in TEXT else value}" for key, value in values.items())
    return [*flags, *args.switches, *args.override]

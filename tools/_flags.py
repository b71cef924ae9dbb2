"""The command line of tools/train.py: the originals' flags, which set configuration keys, and our own."""

from __future__ import annotations

import argparse
import json

# The originals' flags and the configuration keys they set.
FLAGS = {
    "--checkpoint-dir": ("run.output", "folder of the run"),
    "--restore-from": ("run.restore_from", "starting weights (.pdparams) or the folder of a run"),
    "--lambda-seg": ("method.seg_weights.aux", "weight of the auxiliary segmentation loss"),
    "--lambda-adv-target1": ("method.weights.aux", "weight of the auxiliary adversarial loss"),
    "--lambda-adv-target2": ("method.weights.main", "weight of the main adversarial loss"),
    "--gan": ("method.gan", "Vanilla or LS"),
    "--num-steps": ("schedule.horizon", "steps over which the rate decays"),
    "--num-steps-stop": ("schedule.stop", "step at which training stops"),
    "--save-pred-every": ("run.save_every", "steps between checkpoints"),
    "--batch-size": ("data.batch_size", "images of each domain in a step"),
}
TEXT = ("run.output", "run.restore_from", "method.gan")  # taken as they are, not as YAML
# Flags without a value, and what they set.
SWITCHES = {"--deterministic": ("run.deterministic=true", "also choose deterministic cuDNN kernels")}


def train_parser(description: str) -> argparse.ArgumentParser:
    """The parser of tools/train.py."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", help="YAML file; default: the run's own when continuing, else the toy pair")
    parser.add_argument("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    for flag, (key, text) in FLAGS.items():
        parser.add_argument(flag, dest=key, help=f"{text} ({key})")
    for flag, (setting, text) in SWITCHES.items():
        parser.add_argument(flag, dest="switches", action="append_const", const=setting, default=[], help=text)
    parser.add_argument("--continue-train", action="store_true", help="go on from a checkpoint of this run's folder")
    parser.add_argument("--start-iter", help="latest (default), best or a step; needs --continue-train")
    parser.add_argument("--accept-changes", action="store_true", help="continue although settings or Paddle changed")
    parser.add_argument("--overwrite", action="store_true", help="start anew in a folder that holds a run")
    return parser


def overrides(args: argparse.Namespace) -> list[str]:
    """What the flags set, then the overrides as they stand, so that the last word is theirs."""
    values = {key: value for key, value in vars(args).items() if "." in key and value is not None}
    flags = (f"{key}={json.dumps(value) if key in TEXT else value}" for key, value in values.items())
    return [*flags, *args.switches, *args.override]

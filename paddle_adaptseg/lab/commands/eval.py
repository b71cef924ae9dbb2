"""Evaluate weights, or every checkpoint of a run: IoU per class, mIoU, tables and a report (see docs/evaluation.md)."""

from __future__ import annotations

import argparse
import json
from typing import Any

from paddle_adaptseg.lab.commands.arguments import add_override, parse

OPTIONS: dict[str, dict[str, Any]] = {
    "--config": {"help": "YAML file; default: the configuration saved in the weights"},
    "--save": {"metavar": "DIR", "help": "folder for label and colour PNGs of every target image"},
    "--step": {"help": "one checkpoint of a run's folder: best, latest or a number; default: all of them"},
    "--domains": {"default": "", "help": "target, source or target,source; default: target; for a run's folder both"},
    "--protocols": {
        "default": "",
        "help": "class sets to report, e.g. cityscapes_19,synthia_16; default: the configuration's",
    },
    "--resolution": {
        "choices": ["full", "training"],
        "default": "full",
        "help": "size of the labels that are scored; training: reduced to the input size",
    },
    "--limit": {
        "type": int,
        "help": "evaluate at most this many images of each domain; default: all of the target, 100 of the source",
    },
    "--baseline": {"metavar": "RUN_OR_WEIGHTS", "help": "also evaluate this and print the lift (gain in mIoU) over it"},
    "--report": {"metavar": "DIR", "help": "folder for an HTML report with its figures"},
    "--watch": {
        "type": float,
        "metavar": "SECONDS",
        "help": "also evaluate new checkpoints of a running training; stop after this long without one",
    },
    "--last": {"type": int, "default": 5, "help": "number of last checkpoints in the mean (default: 5)"},
    "--flip": {"action": "store_true", "help": "average over the image and its mirror image"},
    "--scales": {"default": "1", "help": "average over scales of the input, e.g. 0.75,1,1.25"},
    "--window": {"metavar": "WxH", "help": "slide a window of this size over the input"},
    "--stride": {"metavar": "WxH", "help": "distance between windows; default: they overlap by a third or more"},
    "--average": {
        "choices": ["logits", "softmax"],
        "default": "logits",
        "help": "what is averaged where windows overlap",
    },
    "--windows-at-once": {"type": int, "default": 1, "help": "windows in one batch"},
    "--levels": {"default": "main", "help": "outputs of the network to add, with weights: main=1,aux=0.5"},
    "--backend": {"default": "auto", "help": "auto, eager or onednn (CPU)"},
    "--precision": {"default": "fp32", "help": "fp32, bf16 (oneDNN or GPU) or fp16 (GPU)"},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--restore-from",
        required=True,
        nargs="+",
        metavar="MODEL",
        help="a .pdparams file or a run's folder; several: an ensemble",
    )
    parser.add_argument(
        "--weights", type=float, nargs="+", metavar="W", default=[], help="weight of each model of an ensemble"
    )
    add_override(parser)
    for flag, settings in OPTIONS.items():
        parser.add_argument(flag, **settings)
    args = parse(parser)
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    runtime.keep_freed_memory()
    from paddle_adaptseg.evaluation import InferenceOptions, Request
    from paddle_adaptseg.evaluation.command import evaluate_request

    protocols = [f"data.protocols={json.dumps(args.protocols.split(','))}"] if args.protocols else []
    prediction = ("flip", "scales", "window", "levels", "backend", "precision", "stride", "average", "windows_at_once")
    request = Request(
        tuple(args.restore_from),
        weights=tuple(args.weights),
        overrides=(*args.override, *protocols),
        domains=tuple(d for d in args.domains.split(",") if d),
        training_size=args.resolution == "training",
        options=InferenceOptions.parse(**{name: getattr(args, name) for name in prediction}),
        tail=args.last,
        **{name: getattr(args, name) for name in ("step", "config", "save", "limit", "baseline", "report", "watch")},
    )
    evaluate_request(request)
    return 0

"""Evaluate weights, or every checkpoint of a run: IoU per class, mIoU, tables and a report (see docs/evaluation.md)."""

from __future__ import annotations

import argparse
import json
from typing import Any

from paddle_adaptseg.lab.commands.arguments import add_override, parse

OPTIONS: dict[str, dict[str, Any]] = {
    "--config": {"help": "YAML file; default: the configuration saved in the weights"},
    "--save": {"metavar": "DIR", "help": "write label and colour PNGs of every target image there"},
    "--step": {"help": "one checkpoint of a run's folder: best, latest or a number; default: all of them"},
    "--domains": {"default": "", "help": "target, source or both with a comma between"},
    "--protocols": {"default": "", "help": "class sets, e.g. cityscapes_19,synthia_16,synthia_13"},
    "--resolution": {"choices": ["full", "training"], "default": "full", "help": "of the labels that are scored"},
    "--limit": {"type": int, "help": "use at most so many images of a domain, evenly spread"},
    "--baseline": {"metavar": "RUN_OR_WEIGHTS", "help": "also evaluate this and print the lift over it"},
    "--report": {"metavar": "DIR", "help": "write a self-contained HTML page and PNGs there"},
    "--watch": {"type": float, "metavar": "SECONDS", "help": "follow a running training until nothing new comes"},
    "--last": {"type": int, "default": 5, "help": "how many last checkpoints are averaged (default 5)"},
    "--flip": {"action": "store_true", "help": "average with the mirrored image"},
    "--scales": {"default": "1", "help": "average over scales of the input, e.g. 0.75,1,1.25"},
    "--window": {"metavar": "WxH", "help": "slide a window of this size over the input"},
    "--stride": {"metavar": "WxH", "help": "from window to window; default: they overlap by a third or more"},
    "--average": {"choices": ["logits", "softmax"], "default": "logits", "help": "of overlapping windows"},
    "--windows-at-once": {"type": int, "default": 1, "help": "windows that the network sees as one batch"},
    "--levels": {"default": "main", "help": "levels to add, with weights: main=1,aux=0.5"},
    "--backend": {"default": "auto", "help": "auto, eager or onednn (CPU)"},
    "--precision": {"default": "fp32", "help": "fp32, bf16 (onednn, or a GPU) or fp16 (a GPU)"},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--restore-from", required=True, nargs="+", help="a .pdparams file or the folder of a run; several: an ensemble"
    )
    parser.add_argument("--weights", type=float, nargs="+", default=[], help="weight of each model of an ensemble")
    add_override(parser)
    for flag, settings in OPTIONS.items():
        parser.add_argument(flag, **settings)
    args = parse(parser)
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
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

#!/usr/bin/env python3
"""Evaluate weights on the target validation set: IoU per class and mIoU at full resolution."""

from __future__ import annotations

import argparse

from _cli import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--restore-from", required=True, nargs="+", help="a .pdparams file or the folder of a run; several: an ensemble"
    )
    parser.add_argument("--weights", type=float, nargs="+", default=[], help="weight of each model of an ensemble")
    parser.add_argument("--config", help="YAML file; default: the configuration saved in the weights")
    parser.add_argument("--flip", action="store_true", help="average with the prediction of the mirrored image")
    parser.add_argument("--save", metavar="DIR", help="write label and colour PNGs of every image there")
    parser.add_argument("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    from paddle_adaptseg import evaluate, load_config
    from paddle_adaptseg.data import label_space
    from paddle_adaptseg.engine.evaluator import class_sets, protocol_line
    from paddle_adaptseg.metrics import iou_table

    config = load_config(args.config, args.override) if args.config else None
    matrix, config = evaluate(args.restore_from, config, args.override, args.save, args.weights, args.flip)
    print(iou_table(label_space(config).names, matrix, class_sets(config)))
    print(protocol_line(config, matrix.images))
    if args.save:
        print(f"predictions: {args.save}")
    return 0


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Train a configuration; without one, AdaptSegNet on the generated toy pair."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from _cli import DEFAULT_CONFIG, run
from _flags import FLAGS, TEXT


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", help="YAML file; default: the run's own when continuing, else the toy pair")
    parser.add_argument("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    for key, (flags, text) in FLAGS.items():
        parser.add_argument(*flags, dest=key, help=f"{text} ({key})")
    parser.add_argument("--continue-train", action="store_true", help="go on from a checkpoint of this run's folder")
    parser.add_argument("--start-iter", help="latest (default), best or a step; needs --continue-train")
    parser.add_argument("--overwrite", action="store_true", help="start anew in a folder that holds a run")
    parser.add_argument("--dry-run", action="store_true", help="build all and print the plan; exit code 1: files lack")
    return parser.parse_args(argv)


def main() -> int:
    args = parse()
    from paddle_adaptseg import fit, load_config
    from paddle_adaptseg.errors import ConfigError

    if args.start_iter and not args.continue_train:
        raise ConfigError("--start-iter only means something together with --continue-train")
    values = {key: value for key, value in vars(args).items() if "." in key and value is not None}
    path = args.config or DEFAULT_CONFIG
    saved = Path(values.get("run.output", "")) / "config.yml"
    if args.continue_train and not args.config and "run.output" in values and saved.is_file():
        path = str(saved)
    config = load_config(
        path, [*(f"{k}={json.dumps(v) if k in TEXT else v}" for k, v in values.items()), *args.override]
    )
    from paddle_adaptseg.data.toy import ensure_toy
    from paddle_adaptseg.engine.plan import plan_run
    from paddle_adaptseg.engine.restore import find_weights

    resume = (args.start_iter or "latest") if args.continue_train else None
    if args.dry_run:
        plan = plan_run(config, resume, args.overwrite)
        print(plan.text())
        return 1 if plan.problems else 0
    ensure_toy(config.data.source.root)
    result = fit(config, resume, args.overwrite)
    scores = f"target mIoU {result.miou:.2f}, " if result.miou == result.miou else ""
    best = f"best {result.best_miou:.2f} at {result.best_step}" if result.best_step else "never evaluated"
    print(f"done: step {result.step}, {scores}{best}")
    print(f"weights: {find_weights(result.output)}  curves: visualdl --logdir {result.output / 'vdl'}")
    return 0


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Train a configuration; without one, AdaptSegNet on the generated toy pair."""

from __future__ import annotations

from pathlib import Path

from _cli import DEFAULT_CONFIG, run
from _flags import overrides, train_parser


def main() -> int:
    args = train_parser(__doc__).parse_args()
    from paddle_adaptseg import fit, load_config
    from paddle_adaptseg.core.errors import ConfigError

    for flag, given in (("--start-iter", args.start_iter), ("--accept-changes", args.accept_changes)):
        if given and not args.continue_train:
            raise ConfigError(f"{flag} only means something together with --continue-train")
    path, folder = args.config or DEFAULT_CONFIG, getattr(args, "run.output")
    saved = Path(folder or "") / "config.yml"
    if args.continue_train and not args.config and folder is not None and saved.is_file():
        path = str(saved)
    config = load_config(path, overrides(args))
    from paddle_adaptseg.data.toy import ensure_toy
    from paddle_adaptseg.training.plan import plan_run
    from paddle_adaptseg.weights.load import find_weights

    resume = (args.start_iter or "latest") if args.continue_train else None
    if args.dry_run:
        plan = plan_run(config, resume, args.overwrite)
        print(plan.text())
        return 1 if plan.problems else 0
    ensure_toy(config.data.target.root)
    result = fit(config, resume, args.overwrite, args.accept_changes)
    scores = f"target mIoU {result.miou:.2f}, " if result.miou == result.miou else ""
    best = f"best {result.best_miou:.2f} at {result.best_step}" if result.best_step else "never evaluated"
    print(f"done: step {result.step}, {scores}{best}")
    print(f"weights: {find_weights(result.output)}  curves: visualdl --logdir {result.output / 'vdl'}")
    return 0


if __name__ == "__main__":
    run(main)

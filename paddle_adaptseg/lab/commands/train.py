"""Train a configuration; without one, AdaptSegNet on the generated toy pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_adaptseg.lab.commands.arguments import parse
from paddle_adaptseg.lab.commands.flags import overrides, train_parser

if TYPE_CHECKING:
    from paddle_adaptseg.config.schema import Config

DEFAULT_CONFIG = "toy/adaptsegnet_multi"


def main() -> int:
    args = parse(train_parser(__doc__))
    from paddle_adaptseg.config.loading import load_config
    from paddle_adaptseg.core import runtime
    from paddle_adaptseg.core.errors import ConfigError

    for flag, given in (("--start-iter", args.start_iter), ("--accept-changes", args.accept_changes)):
        if given and not args.continue_train:
            raise ConfigError(f"{flag} only means something together with --continue-train")
    path, folder = args.config or DEFAULT_CONFIG, getattr(args, "run.output")
    saved = Path(folder or "") / "config.yml"
    if args.continue_train and not args.config and folder is not None and saved.is_file():
        path = str(saved)
    config = load_config(path, overrides(args))
    if not (args.config or folder or args.continue_train or args.overwrite or args.dry_run):
        config = in_new_folder(config)
    runtime.import_paddle()
    from paddle_adaptseg.data.toy import ensure_toy
    from paddle_adaptseg.training.plan import plan_run
    from paddle_adaptseg.training.run import fit
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
    curves = f"{runtime.program('visualdl')} --logdir {result.output / 'vdl'}"
    print(f"weights: {find_weights(result.output)}  curves: {curves}")
    return 0


def in_new_folder(config: Config) -> Config:
    """The configuration with a folder that holds no run yet; says so where its own holds one."""
    from paddle_adaptseg.config.loading import override

    taken = first = Path(config.run.output)
    number = 2
    while (taken / "config.yml").exists():
        taken, number = first.with_name(f"{first.name}_{number}"), number + 1
    if taken != first:
        print(f"{first} holds a run already: this one goes to {taken} (--continue-train continues the other)")
    return override(config, f"run.output={json.dumps(str(taken))}")

"""Adapt a network to your own images: source images with labels, target images without."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import parse


def parser_of(description: str) -> argparse.ArgumentParser:
    """The flags of `adapt` and `init`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--source-images", metavar="DIR", help="labelled images (a folder, or a text file with a list)")
    parser.add_argument("--source-labels", metavar="DIR", help="their labels: images of class ids with the same names")
    parser.add_argument(
        "--target", metavar="DIR", help="target images without labels (a folder, or a text file with a list)"
    )
    parser.add_argument(
        "--classes", default="", metavar="FILE", help="YAML file of the classes and their ids, or cityscapes, or "
        "cityscapes_train_ids; default: write a draft for you to complete"
    )  # fmt: skip
    parser.add_argument(
        "--output", default="checkpoint/adapt", metavar="DIR", help="folder for all results (default: checkpoint/adapt)"
    )
    parser.add_argument(
        "--recipe", default="", help="small, dacs or daformer; default: chosen by --weights, else small"
    )
    parser.add_argument("--weights", default="", metavar="FILE", help="initial weights, e.g. mit_b5.pth")
    parser.add_argument("--size", metavar="WxH", help="size of training images; default: by recipe and image shape")
    parser.add_argument(
        "--steps", type=int, default=0, help="training steps; default: by recipe (small: 2000, others: 40000)"
    )
    parser.add_argument("--validation-images", metavar="DIR", help="labelled target images, used only for scores")
    parser.add_argument("--validation-labels", metavar="DIR", help="their labels")
    return parser


def request_of(parser: argparse.ArgumentParser, args: argparse.Namespace):
    """What was asked for, checked."""
    from paddle_adaptseg.evaluation.options import window_size
    from paddle_adaptseg.lab.adapt import Request

    for flag in ("source_images", "source_labels", "target"):
        if not getattr(args, flag):
            parser.error(f"--{flag.replace('_', '-')} is needed")
    if bool(args.validation_images) != bool(args.validation_labels):
        parser.error("--validation-images and --validation-labels go together")
    scored = (Path(args.validation_images), Path(args.validation_labels)) if args.validation_images else None
    return Request(
        Path(args.source_images), Path(args.source_labels), Path(args.target), Path(args.output), args.classes, scored,
        args.recipe, args.weights, window_size(args.size, "--size"), args.steps,
    )  # fmt: skip


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--overwrite", action="store_true", help="start again in a folder that holds a run; default: resume it"
    )
    args = parse(parser)
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.config.loading import load_config
    from paddle_adaptseg.lab.adapt import write_project
    from paddle_adaptseg.lab.unlabelled import report_unlabelled
    from paddle_adaptseg.training.plan import plan_run
    from paddle_adaptseg.training.run import fit

    path, lines = write_project(request_of(parser, args))
    print("\n".join([*lines, f"configuration: {path}"]), flush=True)
    config = load_config(path)
    begun = (Path(config.run.output) / "config.yml").is_file()
    resume = "latest" if begun and not args.overwrite else None
    plan = plan_run(config, resume, args.overwrite)
    if plan.problems:
        print(plan.text())
        return 1
    result = fit(config, resume, args.overwrite)
    page, lines = report_unlabelled(config, Path(args.output) / "report")
    print("\n".join([*lines, f"report: {page}"]))
    program = runtime.program("paddle-adaptseg")
    print(f"label images with it: {program} predict --model {result.output} --output predictions IMAGES")
    return 0

"""Export weights as a program from an RGB image to class indices (Paddle Inference, ONNX), or back to PaddleSeg."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import add_override, numbers, parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--restore-from", required=True, metavar="MODEL", help="a .pdparams file or a run's folder")
    parser.add_argument("--output", required=True, help="folder for the program, deploy.yml and the model card")
    parser.add_argument(
        "--format", default="paddle", help="paddle, onnx, or paddleseg (weights and a PaddleSeg configuration)"
    )
    parser.add_argument("--size", default="", help="input size: HEIGHT,WIDTH or dynamic; default: the validation size")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 (paddle only), or int8 (onnx only)")
    parser.add_argument("--config", help="YAML file; default: the configuration saved in the weights")
    add_override(parser)
    args = parse(parser)
    try:
        size = None if args.size in ("", "dynamic") else numbers(args.size)
    except ValueError:
        parser.error(f"--size must be height,width or dynamic, not '{args.size}'")
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.config.loading import load_config
    from paddle_adaptseg.deploy.export import export_model

    config = load_config(args.config, args.override) if args.config else None
    if args.format == "paddleseg":
        from paddle_adaptseg.deploy.paddleseg import export_paddleseg

        print("\n".join(export_paddleseg(args.restore_from, args.output, config, args.override)))
        return 0
    made = export_model(
        args.restore_from, Path(args.output), args.format, size, args.size == "dynamic", args.precision, config,
        args.override,
    )  # fmt: skip
    print("\n".join(made.lines))
    print(f"model card: {made.folder / 'README.md'}")
    if not made.good(args.precision):
        print("error: too few pixels agree; do not use this program")
        return 1
    return 0

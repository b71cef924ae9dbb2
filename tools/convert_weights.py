#!/usr/bin/env python3
"""Convert weights of any known kind to this project's .pdparams, with a configuration inside; says what it found."""

from __future__ import annotations

import argparse
from pathlib import Path

from _cli import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a .pth, .pt or .pdparams file")
    parser.add_argument("output", nargs="?", help="where to write; without it the file is only looked at")
    parser.add_argument("--config", default="configs/gta5_cityscapes/adaptsegnet_multi.yml")
    parser.add_argument("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    from paddle_adaptseg import load_config, runtime

    runtime.import_paddle()
    from paddle_adaptseg.engine.restore import convert_weights

    config = load_config(args.config, args.override)
    for line in convert_weights(Path(args.source), Path(args.output) if args.output else None, config):
        print(line)
    return 0


if __name__ == "__main__":
    run(main)

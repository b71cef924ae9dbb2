"""Generate the toy pair of street scenes in the folders and file formats of GTA5 and Cityscapes."""

from __future__ import annotations

import argparse

from paddle_adaptseg.lab.commands.arguments import parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="dataset/toy", metavar="DIR", help="folder for both data sets")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: 0)")
    parser.add_argument("--source", type=int, default=300, help="number of labelled source images")
    parser.add_argument("--target", type=int, default=300, help="number of target images for training")
    parser.add_argument("--validation", type=int, default=100, help="number of target images for evaluation")
    args = vars(parse(parser))
    from pathlib import Path

    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.data.toy import ToySpec, write_toy_pair

    root = Path(args.pop("root"))
    print(f"{root}: {'written' if write_toy_pair(root, ToySpec(**args)) else 'already there'}")
    return 0

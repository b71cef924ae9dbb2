"""Convert weights of any known kind to a .pdparams file with a configuration inside, and print what they hold."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import add_override, parse

DEFAULT_CONFIG = "gta5_cityscapes/adaptsegnet_multi"


def check(path: Path, name: str) -> int:
    from paddle_adaptseg.weights.reader import read_weights
    from paddle_adaptseg.weights.zoo import check_entry, find_entry

    arrays = read_weights(path).arrays
    name, entry = find_entry(path, arrays, name)
    print(f"{path}: compared with {name}, {entry.project}")
    results = check_entry(path, arrays, entry)
    print("\n".join(f"{'ok   ' if good else 'WRONG'} {line}" for good, line in results))
    return 0 if all(good for good, _ in results) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a .pth, .pt or .pdparams file")
    parser.add_argument("output", nargs="?", help=".pdparams file to write; without it the weights are only inspected")
    parser.add_argument(
        "--check",
        nargs="?",
        const="",
        metavar="ENTRY",
        help="only compare with an entry of docs/model_zoo.md (default: the one that fits); exit code 1 if it differs",
    )
    parser.add_argument(
        "--config", help=f"YAML file; default: the configuration inside the file, else {DEFAULT_CONFIG}"
    )
    add_override(parser)
    args = parse(parser)
    if args.check is not None and args.override:
        parser.error("--check compares with the model zoo and reads no configuration: leave out -o")
    from paddle_adaptseg.config.loading import load_config
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.weights.load import convert_weights, own_config

    if args.check is not None:
        return check(Path(args.source), args.check)
    source = Path(args.source)
    config = load_config(args.config, args.override) if args.config else own_config(source, args.override)
    config = config or load_config(DEFAULT_CONFIG, args.override)
    for line in convert_weights(source, Path(args.output) if args.output else None, config):
        print(line)
    return 0

"""Read every file of a configuration's data sets, or of one data set, and list what is wrong. Exit code 1 if any."""

from __future__ import annotations

import argparse

from paddle_adaptseg.lab.commands.arguments import add_override, parse


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "dataset", nargs="?", help="name of a known data set (docs/datasets.md), or a YAML file of your own"
    )
    parser.add_argument("root", nargs="*", help="its folder or zip archives")
    parser.add_argument("--split", help="split to check; default: the data set's first")
    parser.add_argument("--unlabelled", action="store_true", help="do not check labels")
    parser.add_argument("--config", help="check source, target and validation of this configuration instead")
    add_override(parser)
    parser.add_argument(
        "--limit", type=int, help="read at most this many images of each domain, evenly spread; default: all"
    )
    parser.add_argument("--sheets", default="checkpoint/check", help="folder for contact sheets")
    args = parse(parser)
    if bool(args.config) == bool(args.dataset) or (args.dataset and not args.root):
        parser.error("name either --config FILE, or a data set and its root")
    if args.override and not args.config:
        parser.error("-o changes a configuration: name one with --config")
    return args


def main() -> int:
    args = arguments()
    from pathlib import Path

    from paddle_adaptseg.config.loading import load_config
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.config.schema import Domain, Roots
    from paddle_adaptseg.data.catalog import dataset_spec
    from paddle_adaptseg.data.check import check_config, check_domains

    workers = runtime.cpu_count()
    if args.config:
        return int(check_config(load_config(args.config, args.override), args.sheets, args.limit, workers) > 0)
    spec = dataset_spec(args.dataset)
    domain = Domain(args.dataset, Roots(args.root), args.split or spec.splits[0], (1, 1))
    domains = {Path(args.dataset).stem: (domain, not args.unlabelled)}
    return int(check_domains(domains, spec.classes, Path(args.sheets), args.limit, workers) > 0)

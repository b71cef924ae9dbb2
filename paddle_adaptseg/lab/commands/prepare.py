"""Store a configuration's images and labels at training size, so that training reads them several times faster."""

from __future__ import annotations

import argparse

from paddle_adaptseg.lab.commands.arguments import add_override, parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file")
    add_override(parser)
    parser.add_argument("--format", default="png", help="png (compressed) or raw (larger, faster)")
    parser.add_argument("--domains", default="source,target", help="what to store: source, target, validation")
    args = parse(parser)
    from pathlib import Path

    from paddle_adaptseg.config.loading import load_config
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.config.conversion import lookup
    from paddle_adaptseg.data import label_space
    from paddle_adaptseg.data.dataset import DomainFiles
    from paddle_adaptseg.data.prepared import digest, is_prepared, prepare

    config = load_config(args.config, args.override)
    data = config.data
    sources = {name: (source, True) for name, source in data.all_sources().items()}
    known = {**sources, "target": (data.target, False), "validation": (data.validation, True)}
    asked = [name for part in args.domains.split(",") for name in (sources if part == "source" else [part])]
    for name in asked:
        domain, labelled = lookup(known, name, "domain")
        files = DomainFiles(domain, label_space(config), labelled)
        if is_prepared(files, Path(data.cache), args.format):
            print(f"{name}: already prepared in {Path(data.cache) / digest(files)}")
            continue
        folder, size = prepare(files, Path(data.cache), args.format, runtime.cpu_count())
        print(f"{name}: {len(files)} items, {size / 2**20:.1f} MB in {folder}")
    return 0

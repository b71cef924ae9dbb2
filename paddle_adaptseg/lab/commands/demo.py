"""Train source-only, AdaptSegNet and self-training on a generated street-scene pair; compare them on unseen scenes."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import numbers, parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds", default="0", type=numbers, help="seeds, comma-separated; each has its own scenes and initial weights"
    )
    parser.add_argument("--table", help="also write the table over seeds to this Markdown file")
    parser.add_argument("--fresh", action="store_true", help="train again what is already trained; default: reuse it")
    args = parse(parser)
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.lab import demo

    print(runtime.environment())
    comparisons, jobs = demo.compare(args.seeds, args.fresh)
    first = next(iter(jobs.values()))
    print("\n" + demo.class_table(comparisons[0], first["adapted"].config))
    if len(comparisons) > 1:
        print("\n" + demo.seeds_table(comparisons))
    if args.table:
        text = f"# The demo's recipe over seeds\n\nWritten by `make demo-seeds` on {runtime.environment()}.\n\n"
        Path(args.table).write_text(text + demo.seeds_table(comparisons) + "\n", encoding="utf-8")
    path = first["adapted"].folder.parent / "demo.png"
    demo.figure(first, path)
    demo.animation(first, comparisons[0], path.with_suffix(".gif"))
    print(f"\nfigures:     {path}, {path.with_suffix('.gif')}")
    print(f"checkpoints: {', '.join(str(job.folder) for job in first.values())}")
    print(f"curves:      {runtime.program('visualdl')} --logdir {path.parent}")
    print(demo.steps(first))
    print(demo.summary(comparisons))
    return 0

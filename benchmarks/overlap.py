#!/usr/bin/env python3
"""Where the time of a whole evaluation goes, and how much of it passes while the network computes.

python benchmarks/overlap.py [--case segformer_b0] [--images 6] [--size 1024x512] [--threads 1] [--backend onednn]
A transformer with random weights reads made-up images of 2048x1024 at --size and is scored at 2048x1024, in the same
process twice: every stage after the other, and as tools/eval.py does it. A stage overlaps for as long as a network's
forward pass runs at the same time. With as many --threads as cores the network leaves no core to the other stages.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Callable

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "peers")]

from evaluation import write_scenes  # noqa: E402

Span = tuple[float, float]


class Stages:
    """When each stage ran; a stage within a stage of the same thread is not counted again."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = defaultdict(list)
        self.inside = threading.local()

    def watched(self, stage: str, function: Callable) -> Callable:
        def call(*arguments, **keywords):
            if getattr(self.inside, "stage", None):
                return function(*arguments, **keywords)
            self.inside.stage, began = stage, time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.inside.stage = None
                self.spans[stage].append((began, time.perf_counter()))

        return call

    def seconds(self, stage: str) -> float:
        return sum(end - start for start, end in self.spans[stage])

    def overlapped(self, stage: str) -> float:
        """Seconds of a stage in which the network computed."""
        network = self.spans["network"]
        return sum(
            max(0.0, min(end, other_end) - max(start, other_start))
            for start, end in self.spans[stage]
            for other_start, other_end in network
        )


def prepare(case: str, size: tuple[int, int], backend: str, root: Path):
    """Files, a predictor, and the number of classes."""
    import inference_common as common

    from paddle_adaptseg.config.loading import load_config
    from paddle_adaptseg.config.schema import Domain, Roots
    from paddle_adaptseg.core.labels import CITYSCAPES_19
    from paddle_adaptseg.data.dataset import DomainFiles
    from paddle_adaptseg.evaluation.options import InferenceOptions
    from paddle_adaptseg.evaluation.predictor import Predictor
    from paddle_adaptseg.evaluation.programs import BACKENDS
    from paddle_adaptseg.models import build_model

    given = common.CASES[case]
    changes = [f"model.backbone.image_size={min(size)}"] if given.head == "light" else []
    config = load_config(HERE.parent / f"configs/{given.config}.yml", changes)
    files = DomainFiles(Domain("cityscapes", Roots([str(root)]), "val", size), CITYSCAPES_19, labelled=True)
    model = build_model(config.model, common.CLASSES)
    return files, Predictor(model, config.data.pixels, InferenceOptions(backend=backend), BACKENDS[backend])


def one_pass(files, predictor, workers: int) -> tuple[Stages, float, float]:
    """Stages, seconds and processor seconds of an evaluation; with 0 workers one stage is run after the other."""
    from paddle_adaptseg.evaluation import measure

    stages = Stages()
    before = files.image, files.label, predictor.logits, measure.score
    pool = measure.ThreadPoolExecutor
    files.image, files.label = (stages.watched("decode", function) for function in before[:2])
    predictor.logits, measure.score = stages.watched("network", before[2]), stages.watched("score", before[3])
    if not workers:
        measure.ThreadPoolExecutor = AtOnce
    try:
        began, processor = time.perf_counter(), time.process_time()
        with predictor.ready():
            list(measure.score_images(predictor, files, range(len(files)), 19, workers=workers))
        return stages, time.perf_counter() - began, time.process_time() - processor
    finally:
        files.image, files.label, predictor.logits, measure.score = before
        measure.ThreadPoolExecutor = pool


class AtOnce:
    """Stands for a pool of threads; what is submitted runs in the caller's."""

    def __init__(self, workers: int) -> None:
        pass

    def __enter__(self) -> AtOnce:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, function: Callable, *arguments: object):
        from paddle_adaptseg.evaluation.measure import _at_once

        return _at_once(function, *arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="segformer_b0")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--size", default="1024x512", help="width and height of the network's input")
    parser.add_argument("--threads", type=int, default=1, help="of the network")
    parser.add_argument("--backend", default="onednn", help="onednn or eager")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    runtime.keep_freed_memory()
    machine = runtime.environment()
    runtime.cpu_count = lambda: args.threads  # of programs
    width, height = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as scratch:
        write_scenes(Path(scratch), args.images)
        files, predictor = prepare(args.case, (width, height), args.backend, Path(scratch))
        one_pass(files, predictor, 0)  # warms up
        found = {name: one_pass(files, predictor, workers) for name, workers in (("one by one", 0), ("as it is", 2))}
    print(f"{machine}; {args.case} at {args.size}, {args.threads} threads, {args.images} images")
    print("| seconds an image | decode | network | score | the whole | processor time |\n|---|---|---|---|---|---|")
    for name, (stages, seconds, processor) in found.items():
        columns = [stages.seconds(stage) for stage in ("decode", "network", "score")] + [seconds, processor]
        print(f"| {name} | {' | '.join(f'{n / args.images:.3f}' for n in columns)} |")
    stages = found["as it is"][0]
    for stage in ("decode", "score"):
        share = stages.overlapped(stage) / max(stages.seconds(stage), 1e-9)
        print(f"{stage}: {100 * share:.0f} % of its time passes while the network computes")


if __name__ == "__main__":
    main()

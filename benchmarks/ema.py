#!/usr/bin/env python3
"""CPU time of a mean teacher's update over the parameters of a network: ours, and other ways to compute the same.

python benchmarks/ema.py [--backbone mit_b2] [--rounds 9]
All ways take turns in one process; the median of each and its ratio to ours are printed. Processor time is measured,
which other programs on the machine change less than the time that passes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from paddle_adaptseg.core import runtime  # noqa: E402

runtime.import_paddle()

import paddle  # noqa: E402
from paddle import Tensor  # noqa: E402

from paddle_adaptseg.config.schema import Component  # noqa: E402
from paddle_adaptseg.methods.teacher import averaged, update_average  # noqa: E402
from paddle_adaptseg.models import build_model  # noqa: E402

FACTOR = 0.999


def ways(backbone: str) -> dict[str, Callable[[], object]]:
    """Each way as a function of nothing, on tensors of its own."""
    parts = {"backbone": {"name": backbone}, "head": {"name": "segformer"}}
    teacher, student = (build_model(Component("encode_decode", parts), 19) for _ in range(2))
    old, new = averaged(teacher), [t.detach() for t in averaged(student)]
    flat_old, flat_new = (paddle.concat([t.detach().reshape([-1]) for t in tensors]) for tensors in (old, new))
    weight = paddle.full([], 1.0 - FACTOR)

    def in_shape() -> None:
        for mine, its in zip(old, new):
            mine.lerp_(its, weight)

    def scale_add() -> None:
        for mine, its in zip(old, new):
            mine.scale_(FACTOR).add_(its * (1.0 - FACTOR))

    def add_n() -> None:
        for mine, its in zip(old, new):
            paddle.assign(paddle.add_n([mine * FACTOR, its * (1.0 - FACTOR)]), output=mine)

    def gather() -> Tensor:
        return flat_old.lerp_(paddle.concat([t.reshape([-1]) for t in new]), weight)

    print(f"{backbone}: {len(old)} tensors, {sum(int(t.size) for t in old) / 1e6:.1f} million numbers")
    return {
        "ours: lerp_ for each tensor, as a flat view": lambda: update_average(teacher, student, FACTOR),
        "lerp_ for each tensor, in its own shape": in_shape,
        "scale_ and add_ for each tensor": scale_add,
        "add_n for each tensor": add_n,
        "one lerp_, the teacher in one buffer, the student's tensors gathered": gather,
        "one lerp_, both networks in one buffer each (a bound)": lambda: flat_old.lerp_(flat_new, weight),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mit_b2")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    print(runtime.environment())
    table, seconds = ways(args.backbone), {}
    with paddle.no_grad():
        for number in range(args.rounds + 1):
            for name, way in table.items():
                began = time.process_time()
                way()
                if number:
                    seconds.setdefault(name, []).append(time.process_time() - began)
    ours = median(next(iter(seconds.values())))
    print("| way | CPU ms | of ours |\n|---|---|---|")
    for name, found in seconds.items():
        print(f"| {name} | {1000 * median(found):.1f} | {median(found) / ours:.2f}x |")


if __name__ == "__main__":
    main()

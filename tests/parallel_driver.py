"""What the processes of tests/test_parallel.py do: the trainings in a JSON file, one after another."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddle_adaptseg import runtime  # noqa: E402

runtime.import_paddle()

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from paddle_adaptseg import parallel  # noqa: E402
from paddle_adaptseg.configfile import load_config  # noqa: E402
from paddle_adaptseg.engine import evaluate, fit  # noqa: E402
from paddle_adaptseg.engine.bulk import Bench  # noqa: E402
from paddle_adaptseg.engine.inference import Inference  # noqa: E402
from paddle_adaptseg.engine.restore import load_model  # noqa: E402
from paddle_adaptseg.parallel import tensors  # noqa: E402


def train(config: str, overrides: list[str], **options) -> str:
    """One training; `fault` makes process 1 see what is not there."""
    return str(fit(load_config(config, overrides), **options).step)


def score(weights: str, overrides: list[str], keep: str) -> str:
    """Counts of an evaluation, plain and in detail."""
    matrix, _ = evaluate(weights, overrides=overrides)
    model, config = load_model(weights, None, overrides)
    found = Bench(config, "target", Inference()).measure(model)
    arrays = {"matrices": found.matrices, "boundary": found.boundary, "reliability": found.reliability,
              "coarse": found.coarse, "entropy": np.array(found.entropy), "counts": matrix.counts}  # fmt: skip
    if parallel.is_first():
        np.savez(keep, stems=np.array(found.stems), **arrays)
    return str(matrix.images)


def exchange() -> str:
    """The pieces on their own."""
    rank, world = parallel.rank(), parallel.world()
    assert parallel.meet([1, rank]).tolist() == [world, sum(range(world))]
    assert parallel.texts(f"of {rank}, ä") == [f"of {r}, ä" for r in range(world)]
    assert parallel.total(np.array([2**53 + 1, rank])).tolist() == [world * (2**53 + 1), sum(range(world))]
    parts = [paddle.full([n], float(rank + n)) for n in (3, 5, 2)]
    tensors.BUCKET, before = 6, tensors.BUCKET  # two tensors do not fit into one bucket, and 8 > 6
    tensors.average(parts)()
    tensors.BUCKET = before
    assert [p.tolist() for p in parts] == [[n + (world - 1) / 2] * n for n in (3, 5, 2)]
    rows = np.arange(5)[rank::world]
    assert parallel.merged(rows, 5).tolist() == [0, 1, 2, 3, 4]
    assert parallel.from_first(7 + rank) == 7
    parallel.same_everywhere("it", {"a": np.ones(3)})
    try:
        parallel.same_everywhere("weights", {"a": np.full(3, rank)})
    except Exception as error:
        return str(error)
    return "nothing was found"


TASKS = {"train": train, "score": score, "exchange": exchange}


def main(path: Path) -> None:
    parallel.start(60.0)
    for number, (task, options) in enumerate(json.loads(path.read_text())):
        try:
            said = TASKS[task](**options)
        except Exception:
            said = traceback.format_exc()
        (path.parent / f"{number}.{parallel.rank()}").write_text(said)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

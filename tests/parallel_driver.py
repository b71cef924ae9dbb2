"""What the processes of tests/test_parallel.py do: the trainings in a JSON file, one after another."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from unittest import mock

if os.environ.get("TEST_DEVICE", "cpu") == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as conftest.py; Paddle's launcher cannot be started so
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddle_adaptseg.core import runtime  # noqa: E402

runtime.import_paddle()

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from paddle_adaptseg.config.loading import load_config  # noqa: E402
from paddle_adaptseg.core import distributed  # noqa: E402
from paddle_adaptseg.core.errors import DataError, Stopped, UserError  # noqa: E402
from paddle_adaptseg.data.sampling import PairStream  # noqa: E402
from paddle_adaptseg.deploy.predict import predict_files  # noqa: E402
from paddle_adaptseg.deploy.runners import open_runner  # noqa: E402
from paddle_adaptseg.evaluation import Request, evaluate_request  # noqa: E402
from paddle_adaptseg.evaluation.checkpoints import DomainEvaluator  # noqa: E402
from paddle_adaptseg.evaluation.measure import evaluate
from paddle_adaptseg.evaluation.predictor import (
    InferenceOptions,  # noqa: E402
    Predictor,  # noqa: E402
)
from paddle_adaptseg.training import allreduce as tensors  # noqa: E402
from paddle_adaptseg.training import step as trainer  # noqa: E402
from paddle_adaptseg.training.optim import Player  # noqa: E402
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.weights.load import load_model  # noqa: E402


def at_call(number: int, strike):
    """Makes a function that strikes first at its call of that number, and only in process 1.

    A strike may return what spoils the function's result.
    """

    def wrap(real):
        calls = itertools.count(1)

        def replaced(*args, **kwargs):
            struck = next(calls) == number and distributed.rank() == 1
            spoil = strike() if struck else None
            result = real(*args, **kwargs)
            return spoil(result) if spoil else result

        return replaced

    return wrap


def fail(error: Exception):
    def strike():
        raise error

    return strike


# What happens to process 1: where, at which call, and what.
FAULTS = {
    "not finite": (trainer, "measure", 2, lambda: lambda found: replace(found, numbers=found.numbers * float("nan"))),
    "image": (PairStream, "_item", 2, fail(DataError("image '7.png' is cut short"))),
    "bug": (trainer, "backward", 2, fail(KeyError("wrong"))),
    "terminate": (Player, "step", 3, lambda: os.kill(os.getpid(), signal.SIGTERM)),
    "evaluating": (Predictor, "logits", 1, lambda: os.kill(os.getpid(), signal.SIGTERM)),
}


def train(config: str, overrides: list[str], fault: str = "", **options) -> str:
    """One training; `fault` is planted in process 1."""
    with contextlib.ExitStack() as planted:
        if fault:
            owner, name, number, strike = FAULTS[fault]
            planted.enter_context(mock.patch.object(owner, name, at_call(number, strike)(getattr(owner, name))))
        return str(fit(load_config(config, overrides), **options).step)


def train_counted(config: str, overrides: list[str]) -> str:
    """How often each step of a training waits for an answer of all processes."""
    counts, send, add, step = [0], distributed.reduce_message, distributed._sum, trainer.train_step

    def counted(real, waits):
        def replaced(*args):
            counts[-1] += waits(args)
            return real(*args)

        return replaced

    def stepped(*args):
        counts.append(0)
        return step(*args)

    with contextlib.ExitStack() as planted:
        for owner, name, real in (
            (distributed, "reduce_message", counted(send, lambda args: args[0])),
            (distributed, "_sum", counted(add, lambda args: 1)),
            (trainer, "train_step", stepped),
        ):
            planted.enter_context(mock.patch.object(owner, name, real))
        fit(load_config(config, overrides))
    return str([int(n) for n in counts[1:-1]])  # the last one is saved and ends the run


def train_elsewhere(config: str, overrides: list[str], root: str) -> str:
    """One training, in which process 1 finds other data below its root."""
    return train(config, [*overrides, *([f"data.source.root={root}"] if distributed.rank() == 1 else [])])


def score(weights: str, overrides: list[str], keep: str) -> str:
    """Counts of an evaluation, plain and in detail."""
    matrix, _ = evaluate(weights, overrides=overrides)
    model, config = load_model(weights, None, overrides)
    found = DomainEvaluator(config, "target", InferenceOptions()).measure(model)
    arrays = {"matrices": found.matrices, "boundary": found.boundary, "reliability": found.reliability,
              "coarse": found.coarse, "entropy": np.array(found.entropy), "counts": matrix.counts}  # fmt: skip
    if distributed.is_rank_zero():
        np.savez(keep, stems=np.array(found.stems), **arrays)
    return str(matrix.images)


def bulk(run: str, report: str) -> str:
    """Every checkpoint of a run twice, the second time from what was kept, with a report."""
    evaluate_request(Request((run,)))
    told: list[str] = []
    evaluate_request(Request((run,), report=report), told.append)
    return "\n".join(told)


def predict(weights: str, inputs: str, output: str) -> str:
    """Labels of a folder's images, and what failed."""
    tally = predict_files(open_runner(weights), [inputs], Path(output), ["label"])
    return f"{tally.images} {tally.problems}"


def exchange() -> str:
    """The pieces on their own."""
    rank, world = distributed.rank(), distributed.world()
    assert distributed.all_reduce([1, rank]).tolist() == [world, sum(range(world))]
    assert distributed.gather_texts(f"of {rank}, ä") == [f"of {r}, ä" for r in range(world)]
    assert distributed.all_reduce_array(np.array([2**53 + 1, rank])).tolist() == [
        world * (2**53 + 1),
        sum(range(world)),
    ]
    parts = [paddle.full([n], float(rank + n)) for n in (3, 5, 2)]
    tensors.average(parts)
    assert [p.tolist() for p in parts] == [[n + (world - 1) / 2] * n for n in (3, 5, 2)]
    rows = np.arange(5)[rank::world]
    assert distributed.gather_rows(rows, 5).tolist() == [0, 1, 2, 3, 4]
    assert distributed.sum_on_device(paddle.to_tensor([7.0, rank])).tolist() == [7 * world, sum(range(world))]
    distributed.check_equal("it", {"a": np.ones(3)})
    try:
        distributed.check_equal("weights", {"a": np.full(3, rank)})
    except Exception as error:
        return str(error)
    return "nothing was found"


TASKS = {
    "train": train,
    "train_counted": train_counted,
    "train_elsewhere": train_elsewhere,
    "score": score,
    "bulk": bulk,
    "predict": predict,
    "exchange": exchange,
}


def main(path: Path) -> None:
    distributed.start(60.0)
    for number, (task, options) in enumerate(json.loads(path.read_text())):
        try:
            said = TASKS[task](**options)
        except (UserError, Stopped, KeyError) as error:
            said = f"{type(error).__name__}: {error}"
        except Exception:
            said = traceback.format_exc()
        (path.parent / f"{number}.{distributed.rank()}").write_text(said)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A student and its teacher side by side: parameters, files, and milliseconds an image in every form that runs here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import paddle

from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.deploy.export import export_model, sample_images
from paddle_adaptseg.deploy.runners import network_runner, program_runner
from paddle_adaptseg.weights.load import find_weights, load_model
from paddle_adaptseg.weights.reader import read_weights

WARM = 2  # images before the clock starts
Row = tuple[str, str, str]  # what, of the teacher, of the student


def side_by_side(
    run: str | Path, folder: Path, forms: Sequence[str] = ("paddle", "onnx"), images: int = 10,
    teacher: Optional[str] = None,
) -> Iterator[Row]:  # fmt: skip
    """Export both networks into `folder` and yield a row for everything that was compared.

    The teacher is the one that the student's configuration names, unless another one is given.
    """
    model, config = load_model(run)
    teacher = teacher or config.method.params.get("teacher_weights")
    if teacher is None:
        raise CheckpointError(f"'{run}' is no distillation's: name its teacher with --teacher")
    both = {"teacher": (teacher, *load_model(teacher)), "student": (run, model, config)}
    yield "", "teacher", "student"
    yield "network", *(config.model.name for _, _, config in both.values())
    counts = [sum(int(p.size) for p in network.parameters()) for _, network, _ in both.values()]
    yield "parameters, million", *(f"{count / 1e6:.3f}" for count in counts)
    scores = [read_weights(find_weights(origin)).origin.get("target_miou") for origin, _, _ in both.values()]
    yield "target mIoU at its last step", *("not recorded" if s is None else f"{float(s):.2f}" for s in scores)
    size = config.data.validation.size[::-1]
    samples = sample_images(config)[1]
    label = f"ms an image of {size[1]}x{size[0]}, fastest of {images}"
    eager = [network_runner(network, own, size).labels for _, network, own in both.values()]
    yield f"{label}: the network in Paddle, {paddle.get_device()}", *timed(eager, samples, images)
    for form in forms:
        yield from _programs(form, both, folder, list(size), samples, images, label)


def _programs(
    form: str, both: dict, folder: Path, size: list[int], samples: Sequence[np.ndarray], images: int, label: str
) -> Iterator[Row]:
    """Both networks exported in one form."""
    made = {name: export_model(origin, folder / form / name, form, size) for name, (origin, _, _) in both.items()}
    files = [sum(f.stat().st_size for f in each.folder.iterdir() if f.suffix != ".md") for each in made.values()]
    yield f"{form} program, MB", *(f"{count / 2**20:.2f}" for count in files)
    shares = [each.agreement for each in made.values()]
    yield f"{form} program: labels like the network's, %", *("" if s is None else f"{100 * s:.3f}" for s in shares)
    runners = [program_runner(each.folder).labels for each in made.values()]
    engine = {"paddle": "Paddle Inference", "onnx": "onnxruntime"}[form]
    yield f"{label}: {engine}, {runtime.cpu_count()} threads", *timed(runners, samples, images)


def timed(
    runners: Sequence[Callable[[np.ndarray], np.ndarray]], samples: Sequence[np.ndarray], images: int
) -> tuple[str, str]:
    """Milliseconds of the fastest run of each of two, which take turns so that other work slows both alike."""
    times: list[list[float]] = [[] for _ in runners]
    for turn in range(WARM + images):
        for runner, found in zip(runners, times):
            began = time.perf_counter()
            runner(samples[turn % len(samples)])
            found.append(1000 * (time.perf_counter() - began))
    one, other = (min(found[WARM:]) for found in times)
    return f"{one:.1f}", f"{other:.1f} ({one / other:.1f} times as fast)"

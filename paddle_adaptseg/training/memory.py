"""How much memory a step takes, told before it is run: small steps are run, and Paddle's counters of bytes are read.

Each pass of a step (the teacher's, then one for each group of terms) is run at a few small sizes. What it keeps for its
backward pass grows with the area, borders with its root and attention's part with its square, so a few sizes say what
it is at any other one. Whatever a method, a network or an optimiser holds is counted; all that is asked of a network is
whether it may have attention (growth_of).
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from paddle_adaptseg.config.schema import EVERY_STAGE, Config
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.evaluation.logits import on_gpu
from paddle_adaptseg.methods.base import Clock, Method
from paddle_adaptseg.training.counters import allocated
from paddle_adaptseg.training.passes import Pass, passes_of
from paddle_adaptseg.training.step import TrainState

EQUAL = ((0, 0), (1, 1), (2, 2), (3, 3))  # which sides source and target have in turn, where they are of one size
UNEQUAL = ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (0, 3))
GROWTH = (1.0, 0.5, 2.0)  # powers of an area: of maps, of their borders, of attention among all positions
LEAST_WITH_DETAIL = 128  # of the sides of images that networks see at half their size and in detail windows
LIBRARIES = 1.5e9  # bytes of a GPU that libraries and their workspaces take
CARDS = (8, 11, 16, 24, 32)  # GB of the GPUs that configs/_base_/memory has a file for


@dataclass(frozen=True)
class Estimate:
    """Bytes of a step at its peak, and of what is always there: parameters, teacher, optimisers, gradients."""

    total: int
    fixed: int
    gradients: int

    def text(self) -> str:
        """One line for a person."""
        held = next((f"a GPU of {card} GB holds it" for card in CARDS if self.fits(card * 1e9)), "")
        return (
            f"memory: about {self.total / 1e9:.1f} GB for tensors ({self.fixed / 1e9:.1f} GB of them for parameters "
            f"and optimisers, {self.gradients / 1e9:.1f} GB for gradients); with {LIBRARIES / 1e9:.1f} GB for "
            f"libraries {held or f'a GPU of {CARDS[-1]} GB does not hold it'}"
        )

    def fits(self, size: float) -> bool:
        """Whether a GPU of so many bytes holds it."""
        return self.total + LIBRARIES < size

    def problem(self, size: int, rungs: Sequence[str]) -> str:
        """What does not fit into a GPU of so many bytes and what may be done; empty where it fits or there is none."""
        if not size or self.fits(size):
            return ""
        return (
            f"a step needs about {(self.total + LIBRARIES) / 1e9:.1f} GB, but this GPU has {size / 1e9:.1f} GB: "
            f"{', or '.join(rungs) or 'use a smaller backbone or smaller crops'} (docs/performance.md#less-memory)"
        )


def unused_rungs(config: Config, size: int) -> list[str]:
    """What would take less memory and a configuration does not use yet, for a GPU of so many bytes."""
    found, batch, params = list[str](), config.data.batch_size, config.model.params
    if config.run.recompute != EVERY_STAGE:
        found.append(f"add configs/_base_/memory/gpu_{preset_of(size, batch)}gb.yml to the end of the file's base list")
    if batch > 1:
        found.append(f"set data.batch_size=1 schedule.iter_size={batch * config.schedule.iter_size}")
    if config.run.precision == "fp32":
        found.append("set run.precision=bf16")
    if config.model.name == "hrda" and params.get("detail_batch", 0) != 1:
        found.append("set model.detail_batch=1")
    return found


def preset_of(size: int, batch: int) -> int:
    """The GB in the name of the preset that is nearest to a GPU of so many bytes: one that recomputes (that of the
    largest GPUs does not) and does not raise the batch (that of 16 GB has two images)."""
    cards = [card for card in CARDS[:-1] if card * 1e9 <= 1.1 * size and (card != 16 or batch > 1)]
    return max(cards, default=CARDS[0])


def random_batch(state: TrainState, config: Config, sizes: Sequence[Sequence[int]]) -> Batch:
    """Images of the domains that the method reads, source and target of sizes (width, height)."""
    rng, count, classes = np.random.default_rng(0), config.data.batch_size, len(label_space(config))

    def image(size: Sequence[int], wanted: bool) -> Any:
        shape = (count, 3, size[1], size[0])
        return paddle.to_tensor(rng.normal(size=shape).astype(np.float32)) if wanted else None

    def label(size: Sequence[int], wanted: bool) -> Any:
        return paddle.to_tensor(rng.integers(0, classes, (count, size[1], size[0]))) if wanted else None

    method, few = state.method, config.data.target_labelled is not None
    return Batch(
        image(sizes[0], method.uses_source), label(sizes[0], method.uses_source), image(sizes[1], method.uses_target),
        positions=tuple(range(count)), labelled_image=image(sizes[1], few), labelled_label=label(sizes[1], few),
    )  # fmt: skip


def sizes_of(config: Config) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of the images that the network is trained on, of source (the largest one) and target."""
    data = config.data
    source = max((domain.size for domain in data.all_sources().values()), key=area, default=data.target.size)
    return data.augment.crop or source, data.augment.crop or data.target.size


def small_sizes(sizes: Sequence[Sequence[int]], sides: Sequence[int]) -> list[list[tuple[int, int]]]:
    """The sizes of source and target at which a step is run: both in several small squares, or as they are if small."""
    if all(width * height <= sides[-1] ** 2 for width, height in sizes):
        return [[(width, height) for width, height in sizes]]
    pairs = EQUAL if tuple(sizes[0]) == tuple(sizes[1]) else UNEQUAL
    return [[(sides[n], sides[n]) for n in pair] for pair in pairs]


def sides_of(method: Method) -> list[int]:
    """Sides of small squares that a network reduces without a remainder."""
    patches = [part for part in method.sublayers() if hasattr(part, "patch")]
    unit = 32 if not patches else 64 if patches[0].image_size else 4 * patches[0].patch
    least = max(method.least_size, LEAST_WITH_DETAIL if method.segmenter.cropped else 0)
    unit *= math.ceil(least / unit)
    return [unit * n for n in ((1, 2, 3, 4) if patches or method.segmenter.cropped else (1, 2, 3, 5))]


@contextlib.contextmanager
def working_at(method: Method, scale: float) -> Iterator[None]:
    """Inside, what networks have of a size of their own, that of all images or of detail windows, has this scale."""
    resizing = [(part, part.image_size) for part in method.sublayers() if getattr(part, "image_size", 0)]
    cropping = [(part, part.window) for part in method.sublayers() if getattr(part, "cropped", ())]
    for part, size in resizing:
        part.image_size = round(size * scale)
    for part, window in cropping:
        part.window = tuple(scaled(side, scale) for side in window)
    try:
        yield
    finally:
        for part, size in resizing:
            part.image_size = size
        for part, window in cropping:
            part.window = window


def scaled(side: int, scale: float) -> int:
    """A window's side, of a length that networks reduce without a remainder unless it is its own."""
    return side if scale == 1 else max(1, round(side * scale / 32)) * 32


@dataclass(frozen=True)
class SmallSteps:
    """The passes of steps at small sizes of source and target, and the bytes that are there at any size."""

    sizes: Sequence[Sequence[Sequence[int]]]
    passes: Sequence[Sequence[Pass]]
    fixed: int
    gradients: int
    growth: Sequence[float] = GROWTH


def run_small_steps(state: TrainState, config: Config) -> SmallSteps:
    """What small steps take. The state is trained by them: it is of no further use."""
    sizes, clock = sizes_of(config), Clock(config.schedule.horizon - 1, config.schedule.horizon)
    probes = small_sizes(sizes, sides_of(state.method))

    def run(probe: Sequence[Sequence[int]]) -> list[Pass]:
        with working_at(state.method, min(probe[0]) / min(sizes[0])), state.precision.casting():
            batch = random_batch(state, config, probe)
            return passes_of(state, [batch] * config.schedule.iter_size, clock)

    gc.collect()  # what is freed in between would be taken for a growth
    run(probes[0])
    for player in state.players.values():
        player.step()
    fixed = allocated()
    run(probes[0])  # from now on every gradient is there
    gradients = allocated() - fixed
    with tqdm(probes, "count memory", unit="step", disable=None, leave=False) as bar:
        return SmallSteps(probes, [run(probe) for probe in bar], fixed, gradients, growth_of(state.method))


def growth_of(method: Method) -> Sequence[float]:
    """Without a linear layer there is no attention, and a square would only be fitted to a library's workspaces."""
    return GROWTH if any(isinstance(part, nn.Linear) for part in method.segmenter.sublayers()) else GROWTH[:2]


def estimate(state: TrainState, config: Config) -> Estimate:
    """What a step takes at its peak. The state is trained by it: it is of no further use."""
    return extended(run_small_steps(state, config), config)


def extended(small: SmallSteps, config: Config) -> Estimate:
    """From small steps to the sizes of a configuration; without a GPU mixed precision halves on paper what is kept."""
    share = 0.5 if config.run.precision != "fp32" and not on_gpu() else 1.0
    always, sizes, peaks = small.fixed + small.gradients, sizes_of(config), list[float]()
    for number, passes in enumerate(zip(*small.passes)):
        held = extrapolated(small.sizes, [p.before + p.kept for p in passes], sizes, small.growth)
        more = extrapolated(small.sizes, [p.more for p in passes], sizes, GROWTH[:2])
        again = [[p.before + most for p, most in zip(passes, part)] for part in zip(*(p.again for p in passes))]
        most = max([held + more, *(extrapolated(small.sizes, part, sizes, small.growth) for part in again)])
        makes_gradients = number <= 1 and config.schedule.iter_size == 1  # in the first pass there are none before
        peaks.append(always + share * (most - always) - makes_gradients * small.gradients)
    return Estimate(int(max(*peaks, always)), small.fixed, small.gradients)


def area(size: Sequence[int]) -> int:
    return size[0] * size[1]


def extrapolated(
    probes: Sequence, values: Sequence[int], sizes: Sequence[Sequence[int]], growth: Sequence[float]
) -> float:
    """A value at other sizes: a constant and powers of both areas, none of which shrinks as an area grows."""
    if len(probes) == 1:
        return float(values[0])
    largest = max(area(size) for pair in probes for size in pair)

    def powers(pair: Sequence[Sequence[int]]) -> np.ndarray:
        return np.array([1.0, *((area(size) / largest) ** power for power in growth for size in pair)])

    table, wanted = np.array([powers(pair) for pair in probes]), powers(sizes)
    columns = list(range(len(wanted)))
    while True:
        factors = np.linalg.lstsq(table[:, columns], np.array(values, float), rcond=None)[0]
        least = min(range(1, len(columns)), key=lambda n: factors[n], default=0)
        if not least or factors[least] >= 0:
            return float(factors @ wanted[columns])
        del columns[least]

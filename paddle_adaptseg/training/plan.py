"""What `--dry-run` prints: how a run would go and what it needs, with the memory of a step counted on a small image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.config.schema import EVERY_STAGE, Config, Domain, Source
from paddle_adaptseg.core import distributed, runtime
from paddle_adaptseg.core.errors import CheckpointError, DataError
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.pairs import list_items
from paddle_adaptseg.evaluation.protocol import class_sets
from paddle_adaptseg.methods.base import Method
from paddle_adaptseg.models.layers import inference
from paddle_adaptseg.models.recompute import blocks_of
from paddle_adaptseg.training import checkpoint
from paddle_adaptseg.training.allreduce import check_sync_norm, common_batch, describe_global_batch, reduced
from paddle_adaptseg.training.guards import last_score
from paddle_adaptseg.training.start import build_state, set_start, starting_point
from paddle_adaptseg.training.step import TrainState

KEPT = (nn.Conv2D, nn.Conv2DTranspose, nn.Linear, nn.BatchNorm2D, nn.GroupNorm, nn.LayerNorm, nn.MaxPool2D)
ATTENTION = ("EfficientAttention", "SelfAttention")  # by name: most runs have loaded neither
LEAST = 64  # of its sides, which no network reduces to nothing
SHRINK = 4  # the image on which memory is counted has 1/4 of the width and height
SMALL = 3_000_000  # parameters of networks that are meant to start from random weights
WORTH_SAYING = 200_000_000  # bytes that recomputing must save to be mentioned
FULL_SIZE_MAPS = 4  # logits, their softmax and the two gradients, at the size of the image


@dataclass(frozen=True)
class Estimate:
    """Bytes of a step: in all, and what remembering only the inputs of all blocks, or of those chosen, saves."""

    total: int
    saving: int
    recomputes: bool = False

    def text(self) -> str:
        """One line for a person."""
        size = f"about {self.total / 1e9:.1f} GB for tensors at this size (the framework's own memory comes on top)"
        if self.recomputes or self.saving < WORTH_SAYING:
            return f"memory: {size}"
        return f"memory: {size}; run.recompute=true saves about {self.saving / 1e9:.1f} GB"


def estimate(method: Method, config: Config) -> Estimate:
    """What one step of a method holds at its peak, which is the larger of its two images' passes."""
    domains = (*config.data.all_sources().values(), config.data.target)
    crop = config.data.augment.crop
    width, height = crop or max((domain.size for domain in domains), key=lambda size: size[0] * size[1])
    stages = config.run.recompute or EVERY_STAGE
    plain, again = _kept(method, max(LEAST, height // SHRINK), max(LEAST, width // SHRINK), stages)
    parameters = sum(p.size * (4 if p.stop_gradient else 8) for p in method.parameters())
    batch, levels = config.data.batch_size, len(method.segmenter.levels)
    maps = 4 * FULL_SIZE_MAPS * batch * levels * len(label_space(config)) * height * width
    factor = batch * SHRINK**2 / (1 if config.run.precision == "fp32" else 2)
    total = parameters + maps + (again if config.run.recompute else plain) * factor
    return Estimate(int(total), int((plain - again) * factor), bool(config.run.recompute))


def _numbers(layer: nn.Layer, given: Tensor, output: Tensor) -> int:
    """What is kept of a layer: its result, and of attention the scores, which grow with the square of the area."""
    if isinstance(layer, (nn.Linear, nn.LayerNorm)):
        return output.size + given.size
    if type(layer).__name__ not in ATTENTION:
        return output.size
    queries = output.size // output.shape[-1] // output.shape[0]
    return SHRINK**2 * layer.heads * queries * max(1, queries // getattr(layer, "reduction", 1) ** 2)


@contextlib.contextmanager
def _smaller_input(segmenter: nn.Layer) -> Iterator[None]:
    """Inside, a network that brings every picture to a size of its own works at a quarter of it."""
    resizing = [part for part in segmenter.sublayers() if getattr(part, "image_size", 0)]
    sizes = [part.image_size for part in resizing]
    for part, size in zip(resizing, sizes):
        part.image_size = size // SHRINK
    try:
        yield
    finally:
        for part, size in zip(resizing, sizes):
            part.image_size = size


def _kept(method: Method, height: int, width: int, stages: Sequence[str]) -> tuple[int, int]:
    """Bytes that a forward pass of one small image keeps: plain, and when the blocks of some stages recompute."""
    every, blocks = blocks_of(method.segmenter), blocks_of(method.segmenter, stages)
    inside = {id(sub): index for index, block in enumerate(blocks) for sub in block.sublayers()}
    lean = {id(block): block.computed_again() for block in every if hasattr(block, "computed_again")}
    made_again = {id(norm) for norms in lean.values() for norm in norms}
    plain, outside, per_block = [], [], [0] * len(blocks)

    def count(layer, inputs, output):
        size, passing = 4 * _numbers(layer, inputs[0], output), id(layer) in made_again
        if not passing:
            plain.append(size)
        if id(layer) in inside:
            per_block[inside[id(layer)]] += size
        elif not passing:
            outside.append(size)

    def count_block(block, inputs, output):
        if lean.get(id(block)):
            plain.append(4 * output.size)
        if lean.get(id(block)) or block in blocks:
            outside.append(4 * output.size)

    kept = [x for x in method.segmenter.sublayers() if isinstance(x, KEPT) or type(x).__name__ in ATTENTION]
    hooks = [x.register_forward_post_hook(count) for x in kept]
    hooks += [block.register_forward_post_hook(count_block) for block in every]
    try:
        with inference(method), _smaller_input(method.segmenter):
            method.segmenter.logits(paddle.zeros([1, 3, height, width]))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(plain), sum(outside) + max(per_block, default=0)


@dataclass
class Plan:
    """Lines that describe the run, and a line for everything that is missing or does not fit."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The plan for a person, problems last."""
        marked = [f"PROBLEM {problem}" for problem in self.problems]
        count = f"{len(self.problems)} problem{'s'[: len(self.problems) != 1]}"
        return "\n".join([*self.lines, *marked, f"{count}; nothing was trained or written"])

    def attempt(self, what: Callable[[], str]) -> None:
        """A line, or the problem that kept it from being one."""
        try:
            self.lines.append(what())
        except (DataError, CheckpointError) as error:
            self.problems.append(str(error))


def plan_run(config: Config, resume: Optional[str] = None, overwrite: bool = False) -> Plan:
    """The plan of a configuration. A wrong configuration is an error, as it is when training; what is absent is not."""
    runtime.import_paddle()
    distributed.start(config.run.timeout)
    distributed.check_device(config.run.device)
    check_sync_norm(config, runtime.set_device(config.run.device).startswith("gpu"))
    plan = Plan([runtime.environment()])
    with runtime.fresh_names():
        state = build_state(config)
        plan.lines += describe(state, config)
        for name, domain, labelled in domains(state, config):
            plan.attempt(lambda name=name, domain=domain, labelled=labelled: _data(name, domain, labelled, config))
        if config.data.target_labelled is not None:
            plan.attempt(lambda: _labels(config))
        plan.attempt(lambda: _start(state, config, resume, overwrite))
        if config.run.baseline:
            plan.attempt(lambda: f"baseline: {last_score(config.run.baseline):.2f} mIoU ({config.run.baseline})")
    return plan


def describe(state: TrainState, config: Config) -> Iterator[str]:
    """What was built and how long it would be trained."""
    model, schedule, run = state.method.segmenter, config.schedule, config.run
    yield f"method: {config.method.name}; model: {config.model.name} with {', '.join(model.levels)}"
    yield f"classes: {len(label_space(config))} ({config.data.classes}); scored: {', '.join(class_sets(config))}"
    for name, player in state.players.items():
        sizes: dict[float, int] = {}
        for group in player.groups:
            lr = player.lr * group.lr_factor
            sizes[lr] = sizes.get(lr, 0) + sum(int(p.size) for p in group.parameters)
        yield f"{name}: " + " + ".join(f"{size / 1e6:.2f} M parameters at {lr:g}" for lr, size in sizes.items())
    yield from state.method.notes()
    warmup = f", {schedule.warmup} of them warm-up" if schedule.warmup else ""
    images = f"{common_batch(config)} images of each domain a step"
    if distributed.world() > 1:
        yield describe_global_batch(config)
        yield f"every rank sends {reduced(state.players) / 1e6:.1f} MB of gradients in a step"
    yield f"steps: {schedule.stop} of a horizon of {schedule.horizon}{warmup}; {images}"
    yield f"written to {run.output}: a checkpoint every {run.save_every} steps, an evaluation every {run.eval_every}"


def domains(state: TrainState, config: Config) -> Iterator[tuple[str, Domain, bool]]:
    """The domains that would be read, and whether with labels."""
    for name, domain in config.data.all_sources().items() if state.method.uses_source else ():
        yield name, domain, True
    if state.method.uses_target:
        yield "target", config.data.target, False
    if config.run.eval_every:
        yield "validation", config.data.validation, True


def _data(name: str, domain: Domain, labelled: bool, config: Config) -> str:
    listing = list_items(domain, labelled)
    count, (width, height) = len(listing.items), domain.size
    text = f"{name}: {count} images of {listing.spec.title} ({domain.split}) at {width}x{height}"
    if name == "validation":
        return text
    shares = [source.share for source in config.data.sources.values()]
    epoch = count / common_batch(config) * (sum(shares) / domain.share if isinstance(domain, Source) else 1)
    return f"{text}; an epoch is {epoch:.0f} steps, {config.schedule.stop / epoch:.1f} epochs in all"


def _labels(config: Config) -> str:
    """The target images that are trained with their labels, none of which may be scored."""
    from paddle_adaptseg.data.target_labelled import check_leaks

    scored = list_items(config.data.validation, True).items if config.run.eval_every else ()
    listing = check_leaks(config.data, scored)
    assert listing is not None
    apart = ", none of them among the validation images" if scored else ""
    return f"target_labelled: {len(listing.items)} images of {listing.spec.title}{apart}"


def _start(state: TrainState, config: Config, resume: Optional[str], overwrite: bool) -> str:
    """Where the run would start from; its states and weights are loaded as they would be."""
    folder, lines = Path(config.run.output), list[str]()
    snapshot, _ = starting_point(folder, config, resume, overwrite, accept_changes=False)
    set_start(state, snapshot, config, lines.append)
    if snapshot is not None:
        return f"start: resumes in {folder} at step {state.step}"
    anew = " (what is there is dropped)" if checkpoint.list_steps(folder) else ""
    return f"start: {lines[0] if lines else _random(state)}{anew}"


def _random(state: TrainState) -> str:
    """What a start from random weights means for a network whose published results did not start so."""
    if sum(p.size for p in state.method.segmenter.parameters()) < SMALL:
        return "from random weights"
    return (
        "from RANDOM weights. WARNING: published results start from ImageNet weights, and without them this network "
        "stays far below: --restore-from WEIGHTS (files and addresses: docs/model_zoo.md)"
    )

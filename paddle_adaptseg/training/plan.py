"""What `--dry-run` prints: how a run would go and what it needs. memory.py counts what a step takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

from paddle_adaptseg.config.schema import Config, Domain, Source
from paddle_adaptseg.core import distributed, runtime
from paddle_adaptseg.core.errors import CheckpointError, DataError
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.pairs import list_items
from paddle_adaptseg.evaluation.protocol import class_sets
from paddle_adaptseg.training import checkpoint
from paddle_adaptseg.training.allreduce import check_sync_norm, describe_global_batch, reduced
from paddle_adaptseg.training.counters import capacity
from paddle_adaptseg.training.guards import last_score
from paddle_adaptseg.training.memory import estimate, unused_rungs
from paddle_adaptseg.training.optim import common_batch
from paddle_adaptseg.training.start import build_state, set_start, starting_point
from paddle_adaptseg.training.step import TrainState

SMALL = 3_000_000  # parameters of networks that are meant to start from random weights


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
        _count_memory(plan, state, config)
    return plan


def _count_memory(plan: Plan, state: TrainState, config: Config) -> None:
    """What a step takes. Counting takes memory itself, the more the more was counted before (Paddle 2.6)."""
    try:
        memory = estimate(state, config)
    except MemoryError:
        plan.lines.append("memory: not counted, because this process has no memory left to count with")
        return
    plan.lines.append(memory.text())
    plan.problems += filter(None, [memory.problem(capacity(), unused_rungs(config, capacity()))])


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

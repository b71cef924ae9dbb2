"""The evaluation command: from what a user asked for to printed scores, kept tables and a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core import distributed, runtime
from paddle_adaptseg.core.errors import ConfigError, suggest
from paddle_adaptseg.core.files import check_folder
from paddle_adaptseg.data import label_space, scored_domain
from paddle_adaptseg.data.target_labelled import labelled_listing
from paddle_adaptseg.evaluation.checkpoints import DomainEvaluator, Entry, evaluate_run, readings
from paddle_adaptseg.evaluation.extras import with_extras
from paddle_adaptseg.evaluation.measure import Measurement
from paddle_adaptseg.evaluation.metrics import miou_interval
from paddle_adaptseg.evaluation.predictor import InferenceOptions
from paddle_adaptseg.evaluation.programs import BACKENDS
from paddle_adaptseg.evaluation.protocol import class_sets, protocol_line
from paddle_adaptseg.evaluation.report import Findings, Trajectory, write_report, write_tables
from paddle_adaptseg.evaluation.report.console import rule_lines, score_lines
from paddle_adaptseg.evaluation.report.findings import DomainScores
from paddle_adaptseg.evaluation.report.titles import method_title, network_title
from paddle_adaptseg.evaluation.selection import headline, pick_all
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.weights.load import find_weights, load_model, load_models, load_trained, saved_config

DOMAINS = ("target", "source")
Echo = Callable[[str], object]
Baseline = tuple[Path, Segmenter]


@dataclass(frozen=True)
class Request:
    """What is to be evaluated, and how."""

    origins: tuple[str, ...]
    weights: tuple[float, ...] = ()
    step: Optional[str] = None
    config: Optional[str] = None
    overrides: tuple[str, ...] = ()
    save: Optional[str] = None
    domains: tuple[str, ...] = ()
    training_size: bool = False
    limit: Optional[int] = None
    baseline: Optional[str] = None
    options: InferenceOptions = field(default_factory=InferenceOptions)
    report: Optional[str] = None
    watch: Optional[float] = None
    tail: int = 5

    @property
    def run(self) -> Optional[Path]:
        """The run whose every checkpoint is asked for: one folder, and no step of it."""
        path = Path(self.origins[0])
        return path if len(self.origins) == 1 and self.step is None and path.is_dir() else None


def check(request: Request) -> None:
    """Refuse what makes no sense, before anything is measured."""
    for domain in request.domains:
        if domain not in DOMAINS:
            raise ConfigError(f"--domains: unknown domain '{domain}': {suggest(domain, DOMAINS)}")
    bulk = request.run is not None
    wrong = {
        f"--limit must be at least 1, not {request.limit}": request.limit is not None and request.limit < 1,
        f"--last must be at least 1, not {request.tail}": request.tail < 1,
        "--save needs one model: name a checkpoint of the run with --step": bulk and request.save,
        "--weights are those of an ensemble's models, but there is only one model": bulk and request.weights,
        "--domains: every checkpoint of a run is evaluated on the target; add it": bulk
        and request.domains == ("source",),
        "--watch follows a run's folder; give one, without --step": request.watch is not None and not bulk,
    }
    for message, happened in wrong.items():
        if happened:
            raise ConfigError(message)
    for folder in (request.report, request.save):
        if folder:
            check_folder(Path(folder))


def weights_path(origin: str, step: Optional[str]) -> Path:
    """A weights file; with a step it is one of a run's, as FOLDER@STEP names it."""
    if step is not None and not Path(origin).is_dir():
        raise ConfigError(f"--step {step} needs a run's folder, but '{origin}' is none")
    return find_weights(origin if step is None else f"{origin}@{step}")


def _baseline(request: Request, config: Config) -> Optional[Baseline]:
    """What is compared with, of a run its last checkpoint, which no target label chose; it must be comparable."""
    if not request.baseline:
        return None
    path = weights_path(request.baseline, "latest" if Path(request.baseline).is_dir() else None)
    model, other = load_trained(path)
    if label_space(other) != label_space(config) or other.data.pixels != config.data.pixels:
        raise ConfigError(f"--baseline '{path}' predicts other classes or reads pixels in another way")
    return path, model


def evaluate_request(request: Request, echo: Echo = print) -> Optional[Findings]:
    """Answer a request: print scores, write what was asked for, and return what a report shows."""
    check(request)
    distributed.start()
    with distributed.ending_together():
        return _answer(request, echo if distributed.is_rank_zero() else _nothing)


def _nothing(_: str) -> None:
    """The output of the ranks other than 0."""


def _answer(request: Request, echo: Echo) -> Optional[Findings]:
    if request.watch is not None and distributed.world() > 1:
        raise ConfigError("--watch follows a training with one process: start it without paddle.distributed.launch")
    work = _every_checkpoint if request.run is not None else _one_model
    findings, where = work(request, echo), request.report
    if findings is not None and where is not None and distributed.is_rank_zero():
        echo(f"report: {write_report(findings, Path(where))}")
    return findings


def _one_model(request: Request, echo: Echo) -> Findings:
    paths = [weights_path(origin, request.step) for origin in request.origins]
    given = load_config(request.config, request.overrides) if request.config else None
    model, config = load_models(paths, given, request.overrides, request.weights)
    class_sets(config)  # a wrong protocol, like a wrong baseline, is reported before the images are read
    baseline = _baseline(request, config)
    evaluators = [_evaluator(request, config, domain) for domain in request.domains or ("target",)]
    measured = {}
    for evaluator in evaluators:
        keep = evaluator.saver(Path(request.save)) if request.save and evaluator.domain == "target" else None
        measured[evaluator.domain] = evaluator.measure(model, each=keep)
    names = [f"{path}{' (chosen on target labels)' if path.name == 'best.pdparams' else ''}" for path in paths]
    found = _findings(request, config, evaluators, measured, names, baseline)
    echo("\n".join(score_lines(found)))
    if request.save:
        echo(f"predictions: {request.save}")
    if not request.report:
        return found
    return with_extras(found, evaluators, model, measured, paths, baseline and baseline[1])


def _every_checkpoint(request: Request, echo: Echo) -> Optional[Findings]:
    run = Path(request.origins[0])
    config = _run_config(request, run)
    class_sets(config)  # a wrong protocol, like a wrong baseline, is reported before the images are read
    runtime.set_device(config.run.device)
    runtime.set_accelerate(config.run.accelerate)
    baseline = _baseline(request, config)
    known = DOMAINS if config.data.all_sources() else ("target",)
    evaluators = [_evaluator(request, config, domain) for domain in request.domains or known]
    evaluators.sort(key=lambda evaluator: DOMAINS.index(evaluator.domain))
    entries = evaluate_run(run, evaluators, request.watch, echo)
    if not entries:
        return None
    rows = readings(entries, config)
    trajectory = Trajectory(rows, pick_all(rows), headline(rows, request.tail))
    last: Entry = entries[-1]
    names = [f"{last.weights} (the last of {len(entries)})"]
    found = _findings(request, config, evaluators, last.measured, names, baseline)
    found = dataclasses.replace(found, run=trajectory)
    echo("\n".join([*score_lines(found), *rule_lines(trajectory)]))
    if distributed.is_rank_zero():
        files = write_tables(trajectory, evaluators[0].folder(run), str(run))
        echo(f"tables: {', '.join(map(str, files))}")
    if not request.report:
        return found
    model = load_model(last.weights, config)[0]
    return with_extras(found, evaluators, model, last.measured, [last.weights], baseline and baseline[1])


def _run_config(request: Request, run: Path) -> Config:
    saved = run / "config.yml"
    if request.config:
        return load_config(request.config, request.overrides)
    if saved.is_file():
        return saved_config(load_config(saved, own=False), saved, request.overrides)
    return load_model(find_weights(f"{run}@latest"), None, request.overrides)[1]


def _evaluator(request: Request, config: Config, domain: str) -> DomainEvaluator:
    backend = lookup(BACKENDS, request.options.backend, "--backend")
    return DomainEvaluator(config, domain, request.options, request.limit, request.training_size, backend)


def _findings(
    request: Request,
    config: Config,
    evaluators: Sequence[DomainEvaluator],
    measured: Mapping[str, Measurement],
    names: Sequence[str],
    baseline: Optional[Baseline],
) -> Findings:
    """What was measured, with the baseline measured in the same way."""
    sets, before = class_sets(config), {}
    if baseline is not None:
        path, model = baseline
        for evaluator in evaluators:
            kept = request.run and evaluator.folder(request.run)
            again = evaluator.recall(kept, "baseline", path, lambda: model) if kept else evaluator.measure(model)
            before[evaluator.domain] = _scores(again, sets)
    return Findings(
        title=f"{method_title(config)}, {network_title(config)}: {' + '.join(map(str, request.origins))}",
        weights=names,
        config=config,
        space=label_space(config),
        sets=sets,
        protocol=[_protocol(evaluator) for evaluator in evaluators],
        prediction=evaluators[0].options.line(),
        environment=runtime.environment(),
        domains={domain: _scores(found, sets) for domain, found in measured.items()},
        training_size=request.training_size,
        baseline=before,
        baseline_name=str(baseline[0]) if baseline else "",
    )


def _scores(measured: Measurement, sets: Mapping[str, Sequence[int]]) -> DomainScores:
    intervals = {name: miou_interval(measured.matrices, ids) for name, ids in sets.items()}
    return DomainScores(
        measured.matrix, measured.boundary, measured.reliability, intervals, measured.entropy, measured.seconds
    )


def _protocol(evaluator: DomainEvaluator) -> str:
    line = protocol_line(evaluator.config, len(evaluator.indices), evaluator.domain, evaluator.training_size)
    if len(evaluator.indices) < len(evaluator.files):
        line += f"; evenly spread over all {len(evaluator.files)} images"
    if evaluator.domain == "target" and evaluator.config.data.target_labelled is not None:
        count = len(labelled_listing(evaluator.config.data).items)
        line += f"; trained with {count} labelled target images, none of which is among these"
    sources = list(evaluator.config.data.all_sources().values())
    if evaluator.domain == "source" and scored_domain(evaluator.config, "source") in sources:
        line += "; these are the images that training reads: there is no other labelled split of the source"
    return line

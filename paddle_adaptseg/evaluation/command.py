"""The evaluation command: from what a user asked for to printed scores, kept tables and a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable, Optional

import numpy as np

from paddle_adaptseg import parallel, runtime
from paddle_adaptseg.config import Config
from paddle_adaptseg.configfile import load_config
from paddle_adaptseg.data import label_space, scored_domain
from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.evaluation.checkpoints import DomainEvaluator, Entry, evaluate_run, readings
from paddle_adaptseg.evaluation.extras import with_extras
from paddle_adaptseg.evaluation.measure import Measurement, save_prediction
from paddle_adaptseg.evaluation.metrics import miou_interval
from paddle_adaptseg.evaluation.programs import BACKENDS
from paddle_adaptseg.evaluation.protocol import class_sets, protocol_line
from paddle_adaptseg.evaluation.report import Findings, Trajectory, write_report, write_tables
from paddle_adaptseg.evaluation.report.console import rule_lines, score_lines
from paddle_adaptseg.evaluation.report.findings import DomainScores
from paddle_adaptseg.evaluation.request import DOMAINS, Request, baseline_path, check, weights_path
from paddle_adaptseg.evaluation.selection import headline, pick_all
from paddle_adaptseg.labels import LabelSpace
from paddle_adaptseg.registry import lookup
from paddle_adaptseg.weights.load import find_weights, load_model, load_models, saved_config

Tell = Callable[[str], object]


def evaluate_request(request: Request, tell: Tell = print) -> Optional[Findings]:
    """Answer a request: print scores, write what was asked for, and return what a report shows."""
    check(request)
    parallel.start()
    with parallel.together():
        return _answer(request, tell if parallel.is_first() else _nothing)


def _nothing(_: str) -> None:
    """Told to the processes that are not the first."""


def _answer(request: Request, tell: Tell) -> Optional[Findings]:
    if request.watch is not None and parallel.world() > 1:
        raise ConfigError("--watch follows a training with one process: start it without paddle.distributed.launch")
    work = _every_checkpoint if request.run is not None else _one_model
    findings, where = work(request, tell), request.report
    if findings is not None and where is not None and parallel.is_first():
        tell(f"report: {write_report(findings, Path(where))}")
    return findings


def _one_model(request: Request, tell: Tell) -> Findings:
    paths = [weights_path(origin, request.step) for origin in request.origins]
    given = load_config(request.config, request.overrides) if request.config else None
    model, config = load_models(paths, given, request.overrides, request.weights)
    class_sets(config)  # a wrong protocol is said before the images are read
    evaluators = [_evaluator(request, config, domain) for domain in request.domains or ("target",)]
    measured = {}
    for evaluator in evaluators:
        keep = _saver(request, label_space(config)) if evaluator.domain == "target" else None
        measured[evaluator.domain] = evaluator.measure(model, each=keep)
    names = [f"{path}{' (chosen on target labels)' if path.name == 'best.pdparams' else ''}" for path in paths]
    found = _findings(request, config, evaluators, measured, names)
    tell("\n".join(score_lines(found)))
    if request.save:
        tell(f"predictions: {request.save}")
    return with_extras(found, evaluators, model, measured, paths) if request.report else found


def _every_checkpoint(request: Request, tell: Tell) -> Optional[Findings]:
    run = Path(request.origins[0])
    config = _run_config(request, run)
    class_sets(config)  # a wrong protocol is said before the images are read
    evaluators = [_evaluator(request, config, domain) for domain in request.domains or DOMAINS]
    evaluators.sort(key=lambda evaluator: DOMAINS.index(evaluator.domain))
    entries = evaluate_run(run, evaluators, request.watch, tell)
    if not entries:
        return None
    rows = readings(entries, config)
    trajectory = Trajectory(rows, pick_all(rows), headline(rows, request.tail))
    last: Entry = entries[-1]
    found = _findings(request, config, evaluators, last.measured, [f"{last.weights} (the last of {len(entries)})"])
    found = dataclasses.replace(found, run=trajectory)
    tell("\n".join([*score_lines(found), *rule_lines(trajectory)]))
    if parallel.is_first():
        files = write_tables(trajectory, evaluators[0].folder(run), str(run))
        tell(f"tables: {', '.join(map(str, files))}")
    if not request.report:
        return found
    model = load_model(last.weights, config)[0]
    return with_extras(found, evaluators, model, last.measured, [last.weights])


def _run_config(request: Request, run: Path) -> Config:
    saved = run / "config.yml"
    if request.config:
        return load_config(request.config, request.overrides)
    if saved.is_file():
        return saved_config(load_config(saved, request.overrides, own=False), saved)
    return load_model(find_weights(f"{run}@latest"), None, request.overrides)[1]


def _evaluator(request: Request, config: Config, domain: str) -> DomainEvaluator:
    backend = lookup(BACKENDS, request.options.backend, "--backend")
    return DomainEvaluator(config, domain, request.options, request.limit, request.training_size, backend)


def _saver(request: Request, space: LabelSpace):
    if not request.save:
        return None
    return lambda sample, scored: save_prediction(np.asarray(scored.label), sample.stem, Path(request.save), space)


def _findings(
    request: Request,
    config: Config,
    evaluators: Sequence[DomainEvaluator],
    measured: Mapping[str, Measurement],
    names: Sequence[str],
) -> Findings:
    """What was measured, with the baseline measured in the same way."""
    sets, baseline, name = class_sets(config), {}, ""
    if request.baseline:
        path = baseline_path(request)
        model, other = load_model(path)
        if label_space(other) != label_space(config) or other.data.pixels != config.data.pixels:
            raise ConfigError(f"--baseline '{path}' predicts other classes or reads pixels in another way")
        name = str(path)
        for evaluator in evaluators:
            kept = request.run and evaluator.folder(request.run)
            again = evaluator.recall(kept, "baseline", path, lambda: model) if kept else evaluator.measure(model)
            baseline[evaluator.domain] = _scores(again, sets)
    return Findings(
        title=f"{config.method.name} on {config.model.name}: {' + '.join(map(str, request.origins))}",
        weights=names,
        config=config,
        space=label_space(config),
        sets=sets,
        protocol=[_protocol(evaluator) for evaluator in evaluators],
        prediction=request.options.line(),
        environment=runtime.environment(),
        domains={domain: _scores(found, sets) for domain, found in measured.items()},
        training_size=request.training_size,
        baseline=baseline,
        baseline_name=name,
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
    if evaluator.domain == "source" and scored_domain(evaluator.config, "source") == evaluator.config.data.source:
        line += "; these are the images that training reads: there is no other labelled split of the source"
    return line

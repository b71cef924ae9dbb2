"""The evaluation command: from what a user asked for to printed scores, kept tables and a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable, Optional

from paddle_adaptseg import parallel, runtime
from paddle_adaptseg.config import Config
from paddle_adaptseg.configfile import load_config
from paddle_adaptseg.data import label_space, scored_domain
from paddle_adaptseg.deploy.logits import BACKENDS
from paddle_adaptseg.engine.bulk import Bench, Entry, evaluate_run, readings
from paddle_adaptseg.engine.evaluator import class_sets, protocol_line, save_prediction
from paddle_adaptseg.engine.measure import Measured
from paddle_adaptseg.engine.restore import find_weights, load_model, load_models
from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.evaluation.extras import with_extras
from paddle_adaptseg.evaluation.request import DOMAINS, Request, baseline_path, check, weights_path
from paddle_adaptseg.labels import LabelSpace
from paddle_adaptseg.registry import lookup
from paddle_adaptseg.report import Findings, Trajectory, write_report, write_tables
from paddle_adaptseg.report.console import rule_lines, score_lines
from paddle_adaptseg.report.findings import DomainScores
from paddle_adaptseg.scores import miou_interval
from paddle_adaptseg.selection import headline, pick_all

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
    benches = [_bench(request, config, domain) for domain in request.domains or ("target",)]
    measured = {}
    for bench in benches:
        keep = _saver(request, label_space(config)) if bench.domain == "target" else None
        measured[bench.domain] = bench.measure(model, each=keep)
    names = [f"{path}{' (chosen on target labels)' if path.name == 'best.pdparams' else ''}" for path in paths]
    found = _findings(request, config, benches, measured, names)
    tell("\n".join(score_lines(found)))
    if request.save:
        tell(f"predictions: {request.save}")
    return with_extras(found, benches, model, measured, paths) if request.report else found


def _every_checkpoint(request: Request, tell: Tell) -> Optional[Findings]:
    run = Path(request.origins[0])
    config = _run_config(request, run)
    class_sets(config)  # a wrong protocol is said before the images are read
    benches = [_bench(request, config, domain) for domain in request.domains or DOMAINS]
    benches.sort(key=lambda bench: DOMAINS.index(bench.domain))
    entries = evaluate_run(run, benches, request.watch, tell)
    if not entries:
        return None
    rows = readings(entries, config)
    trajectory = Trajectory(rows, pick_all(rows), headline(rows, request.tail))
    last: Entry = entries[-1]
    found = _findings(request, config, benches, last.measured, [f"{last.weights} (the last of {len(entries)})"])
    found = dataclasses.replace(found, run=trajectory)
    tell("\n".join([*score_lines(found), *rule_lines(trajectory)]))
    if parallel.is_first():
        files = write_tables(trajectory, benches[0].folder(run), str(run))
        tell(f"tables: {', '.join(map(str, files))}")
    if not request.report:
        return found
    model = load_model(last.weights, config)[0]
    return with_extras(found, benches, model, last.measured, [last.weights])


def _run_config(request: Request, run: Path) -> Config:
    saved = run / "config.yml"
    if request.config or saved.is_file():
        return load_config(request.config or saved, request.overrides, own=bool(request.config))
    return load_model(find_weights(f"{run}@latest"), None, request.overrides)[1]


def _bench(request: Request, config: Config, domain: str) -> Bench:
    backend = lookup(BACKENDS, request.options.backend, "--backend")
    return Bench(config, domain, request.options, request.limit, request.training_size, backend)


def _saver(request: Request, space: LabelSpace):
    if not request.save:
        return None
    return lambda sample, scored: save_prediction(scored.label, sample.stem, Path(request.save), space)


def _findings(
    request: Request, config: Config, benches: Sequence[Bench], measured: Mapping[str, Measured], names: Sequence[str]
) -> Findings:
    """What was measured, with the baseline measured in the same way."""
    sets, baseline, name = class_sets(config), {}, ""
    if request.baseline:
        path = baseline_path(request)
        model, other = load_model(path)
        if label_space(other) != label_space(config) or other.data.pixels != config.data.pixels:
            raise ConfigError(f"--baseline '{path}' predicts other classes or reads pixels in another way")
        name = str(path)
        for bench in benches:
            kept = request.run and bench.folder(request.run)
            again = bench.recall(kept, "baseline", path, lambda: model) if kept else bench.measure(model)
            baseline[bench.domain] = _scores(again, sets)
    return Findings(
        title=f"{config.method.name} on {config.model.name}: {' + '.join(map(str, request.origins))}",
        weights=names,
        config=config,
        space=label_space(config),
        sets=sets,
        protocol=[_protocol(bench) for bench in benches],
        prediction=request.options.line(),
        environment=runtime.environment(),
        domains={domain: _scores(found, sets) for domain, found in measured.items()},
        training_size=request.training_size,
        baseline=baseline,
        baseline_name=name,
    )


def _scores(measured: Measured, sets: Mapping[str, Sequence[int]]) -> DomainScores:
    intervals = {name: miou_interval(measured.matrices, ids) for name, ids in sets.items()}
    return DomainScores(
        measured.matrix, measured.boundary, measured.reliability, intervals, measured.entropy, measured.seconds
    )


def _protocol(bench: Bench) -> str:
    line = protocol_line(bench.config, len(bench.indices), bench.domain, bench.training_size)
    if len(bench.indices) < len(bench.files):
        line += f"; evenly spread over all {len(bench.files)} images"
    if bench.domain == "source" and scored_domain(bench.config, "source") == bench.config.data.source:
        line += "; these are the images that training reads: there is no other labelled split of the source"
    return line

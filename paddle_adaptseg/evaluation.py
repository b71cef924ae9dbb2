"""The evaluation command: from what a user asked for to printed scores, kept tables and a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

import numpy as np

from paddle_adaptseg import runtime
from paddle_adaptseg.config import Config
from paddle_adaptseg.configfile import load_config
from paddle_adaptseg.data import label_space
from paddle_adaptseg.deploy.logits import BACKENDS
from paddle_adaptseg.engine.bulk import Bench, Entry, evaluate_run, readings
from paddle_adaptseg.engine.evaluator import class_sets, protocol_line, save_prediction
from paddle_adaptseg.engine.inference import Inference
from paddle_adaptseg.engine.measure import Measured
from paddle_adaptseg.engine.restore import find_weights, load_model, load_models
from paddle_adaptseg.errors import ConfigError, suggest
from paddle_adaptseg.labels import LabelSpace
from paddle_adaptseg.models.ensemble import Ensemble
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.registry import lookup
from paddle_adaptseg.report import Findings, Shown, Trajectory, write_report, write_tables
from paddle_adaptseg.report.console import rule_lines, score_lines
from paddle_adaptseg.report.findings import DomainScores
from paddle_adaptseg.scores import miou_interval
from paddle_adaptseg.selection import headline, pick_all
from paddle_adaptseg.visual import at_size, colourise

DOMAINS = ("target", "source")
PICTURE_WIDTH = 512
Tell = Callable[[str], object]


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
    options: Inference = field(default_factory=Inference)
    report: Optional[str] = None
    watch: Optional[float] = None
    tail: int = 5

    @property
    def run(self) -> Optional[Path]:
        """The run whose every checkpoint is asked for: one folder, and no step of it."""
        path = Path(self.origins[0])
        return path if len(self.origins) == 1 and self.step is None and path.is_dir() else None


def evaluate_request(request: Request, tell: Tell = print) -> Optional[Findings]:
    """Answer a request: print scores, write what was asked for, and return what a report shows."""
    _check(request)
    work = _every_checkpoint if request.run is not None else _one_model
    findings, where = work(request, tell), request.report
    if findings is not None and where is not None:
        tell(f"report: {write_report(findings, Path(where))}")
    return findings


def _check(request: Request) -> None:
    unknown = "".join([d for d in request.domains if d not in DOMAINS][:1])
    bulk = request.run is not None
    wrong = {
        f"--domains: unknown domain '{unknown}': {suggest(unknown, DOMAINS)}": bool(unknown),
        f"--limit must be at least 1, not {request.limit}": request.limit is not None and request.limit < 1,
        f"--last must be at least 1, not {request.tail}": request.tail < 1,
        "--save needs one model: name a checkpoint of the run with --step": bulk and request.save,
        "--weights are those of an ensemble's models, but there is only one model": bulk and request.weights,
        "--domains: every checkpoint of a run is judged on the target; add it": bulk and request.domains == ("source",),
        "--watch follows a run's folder; give one, without --step": request.watch is not None and not bulk,
    }
    for message, happened in wrong.items():
        if happened:
            raise ConfigError(message)


def _one_model(request: Request, tell: Tell) -> Findings:
    paths = [_weights(origin, request.step) for origin in request.origins]
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
    return _with_pictures(found, request, benches, model, measured, paths) if request.report else found


def _every_checkpoint(request: Request, tell: Tell) -> Optional[Findings]:
    run = request.run
    config = _run_config(request, run)
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
    files = write_tables(trajectory, benches[0].folder(run), str(run))
    tell(f"tables: {', '.join(map(str, files))}")
    if not request.report:
        return found
    model = load_model(last.weights, config)[0]
    return _with_pictures(found, request, benches, model, last.measured, [last.weights])


def _weights(origin: str, step: Optional[str]) -> Path:
    """A weights file; with a step it is one of a run's, as FOLDER@STEP names it."""
    if step is not None and not Path(origin).is_dir():
        raise ConfigError(f"--step {step} needs a run's folder, but '{origin}' is none")
    return find_weights(origin if step is None else f"{origin}@{step}")


def _run_config(request: Request, run: Path) -> Config:
    saved = run / "config.yml"
    if request.config or saved.is_file():
        return load_config(request.config or saved, request.overrides)
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
        path = _weights(request.baseline, "latest" if Path(request.baseline).is_dir() else None)
        model, other = load_model(path)
        if label_space(other) != label_space(config) or other.data.pixels != config.data.pixels:
            raise ConfigError(f"--baseline '{path}' predicts other classes or reads pixels in another way")
        name = str(path)
        baseline = {b.domain: _scores(b.measure(model), sets) for b in benches}
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
    if bench.domain == "source":
        line += "; these are the images that training reads: there is no other labelled split of the source"
    return line


def _with_pictures(
    found: Findings, request: Request, benches: Sequence[Bench], model: Segmenter, measured: Mapping[str, Measured],
    paths: Sequence[Path],
) -> Findings:  # fmt: skip
    """Findings with what only the report shows: the effect of each option, and the best, median and worst image."""
    target = next((bench for bench in benches if bench.domain == "target"), None)
    if target is None:
        return found
    full = measured["target"]
    return dataclasses.replace(
        found, effects=_effects(target, model, full, found, paths), images=_shown(target, model, full)
    )


def _effects(
    bench: Bench, model: Segmenter, full: Measured, found: Findings, paths: Sequence[Path]
) -> dict[str, float]:
    """Target mIoU of the plain way and of each option on its own, and of each member of an ensemble."""
    ids = next(iter(found.sets.values()))
    scores: dict[str, float] = {}
    if isinstance(model, Ensemble):
        plain = bench.options.effects()["plain"]
        for path, member in zip(paths, model.members):
            scores[f"{path} alone"] = 100 * bench.measure(member, plain).matrix.miou(ids)
    for name, options in bench.options.effects().items():
        measured = full if options == bench.options else bench.measure(model, options)
        scores[name] = 100 * measured.matrix.miou(ids)
    return scores


def _shown(bench: Bench, model: Segmenter, measured: Measured) -> list[Shown]:
    mious, space = measured.image_mious(), label_space(bench.config)
    order = [i for i in np.argsort(-mious, kind="stable") if not np.isnan(mious[i])]
    if not order:
        return []
    picks = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    found = []
    for (word, place), (sample, scored) in zip(picks.items(), bench.predict(model, list(picks.values()))):
        image = sample.images[0]
        width = min(PICTURE_WIDTH, max(image.shape[1], 192))
        size = (width, round(width * image.shape[0] / image.shape[1]))
        label = np.where(sample.truth < len(space), scored.label, 255).astype(np.uint8)
        ids = [colourise(at_size(part, size, smooth=False), space) for part in (sample.truth, label)]
        pictures = [at_size(image, size, smooth=True), *ids]
        found.append(Shown(f"{word}: {sample.stem}, {100 * mious[place]:.1f} mIoU on its own classes", *pictures))
    return found

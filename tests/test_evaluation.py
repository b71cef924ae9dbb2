"""The evaluation of a run's every checkpoint: complete, resumable, never mixing answers; and of one model."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import LIMIT, ROOT, tiny_overrides, wait_until
from forked import driver, start, tool

from paddle_adaptseg.config.loading import dump, load_config, override
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import CheckpointError, ConfigError, DataError
from paddle_adaptseg.data import open_domain, scored_domain
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.reading import read_ahead, spread
from paddle_adaptseg.evaluation import Request, checkpoints, evaluate_request
from paddle_adaptseg.evaluation.checkpoints import load_measured
from paddle_adaptseg.evaluation.measure import evaluate
from paddle_adaptseg.evaluation.predictor import InferenceOptions
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.weights import arrays_of, save_weights
from paddle_adaptseg.weights.load import load_model, load_models

EAGER = InferenceOptions(backend="eager")


@pytest.fixture(scope="module")
def trained(toy_root, tmp_path_factory):
    """A run with checkpoints at steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    overrides = [*tiny_overrides(toy_root, folder), "run.eval_every=6"]
    fit(load_config(ROOT / "configs/toy/adaptsegnet_multi.yml", overrides))
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it."""
    shutil.copytree(trained, tmp_path / "run")
    text = (trained / "config.yml").read_text()
    (tmp_path / "run/config.yml").write_text(text.replace(str(trained), str(tmp_path / "run")))
    return tmp_path / "run"


def ask(run, lines=None, **more):
    said = [] if lines is None else lines
    return evaluate_request(Request((str(run),), **{"options": EAGER, **more}), said.append)


def answers(run):
    return {p.relative_to(run): p.stat().st_mtime_ns for p in (run / "evaluation").rglob("*.npz")}


def test_every_checkpoint_is_scored_as_on_its_own_and_written_down(run):
    lines = []
    found = ask(run, lines, tail=2)
    scores = {s: 100 * evaluate(f"{run}@{s}")[0].miou() for s in (2, 4, 6)}
    assert {r["step"]: r["miou"] for r in found.run.rows} == pytest.approx(scores)
    head = found.run.headline
    assert (head.last_step, head.last, head.best) == (6, pytest.approx(scores[6]), pytest.approx(max(scores.values())))
    assert head.tail_mean == pytest.approx((scores[4] + scores[6]) / 2)
    text = "\n".join(lines)
    assert re.search(rf"best \(chosen on target labels\) +{head.best_step} ", text)
    assert {p.criterion for p in found.run.picks} == {
        "target entropy", "source mIoU", "prediction stability", "class-share agreement", "last"}  # fmt: skip
    (folder,) = (run / "evaluation").glob("target-*")
    with (folder / "iterations.csv").open() as handle:
        rows = list(csv.reader(handle))
    assert rows[0][:2] == ["iterations", "mIoU"] and [row[0] for row in rows[1:]] == ["2", "4", "6"]
    assert float(rows[3][1]) == round(scores[6], 2)
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    with zipfile.ZipFile(folder / "iterations.xlsx") as book:
        cells = book.read("xl/worksheets/sheet1.xml").decode()
        assert re.search(r'<c r="A4"><v>6</v></c>', cells) and f'<c r="B4"><v>{round(scores[6], 2)}</v></c>' in cells
        assert any("chart" in name for name in book.namelist())
        assert "chosen on target labels" in book.read("xl/sharedStrings.xml").decode()


def test_what_is_done_is_kept_and_other_questions_get_their_own_answers(run):
    ask(run)
    before, lines = answers(run), []
    assert len(before) == 6
    ask(run, lines)
    assert answers(run) == before and sum("(measured before)" in line for line in lines) == 3
    ask(run, domains=("target",))
    assert answers(run) == before
    for change in ({"limit": 2}, {"training_size": True}, {"options": replace(EAGER, flip=True)},
                   {"overrides": ("data.validation.size=[64, 32]",)}):  # fmt: skip
        known = answers(run)
        ask(run, domains=("target",), **change)
        assert len(answers(run)) == len(known) + 3 and {k: answers(run)[k] for k in known} == known
    shutil.copy(run / "weights/step_00000006.pdparams", run / "weights/step_00000004.pdparams")
    lines.clear()
    found = ask(run, lines)
    assert [line for line in lines if "(measured before)" not in line and line.startswith("step 4")]
    assert found.run.rows[1]["miou"] == found.run.rows[2]["miou"] and found.run.rows[2]["stability"] == 1


def test_a_bulk_evaluation_killed_at_any_point_goes_on_and_gives_the_same(run, tmp_path):
    shutil.copytree(run, tmp_path / "whole")
    expected = ask(tmp_path / "whole").run.rows
    last = run / "weights/step_00000006.pdparams"
    last.rename(tmp_path / "late.pdparams")  # so that an evaluation that follows the run never ends by itself
    command = ("eval", "--restore-from", run, "--backend", "eager", "--watch", LIMIT)
    for enough in range(1, 5):
        process = start(tmp_path / "said", tmp_path / "said", *command)
        here = Path(f"/proc/{process}")
        wait_until(lambda: len(answers(run)) >= enough or not here.exists(), f"answer {enough}")  # noqa: B023
        os.kill(process, signal.SIGKILL)
        assert driver().answer() == -signal.SIGKILL
    (tmp_path / "late.pdparams").rename(last)
    for path in (run / "evaluation").rglob("*.npz"):  # whatever is there is whole
        assert not path.name.startswith(".") and zipfile.ZipFile(path).testzip() is None
    rows = ask(run).run.rows
    for row, wanted in zip(rows, expected):
        assert row == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize("after", range(6))
def test_it_also_goes_on_after_stopping_between_any_two_answers(run, monkeypatch, after):
    save, count = checkpoints.save_measured, []

    def stop(*arguments):
        if len(count) == after:
            raise KeyboardInterrupt
        count.append(1)
        save(*arguments)

    monkeypatch.setattr(checkpoints, "save_measured", stop)
    with pytest.raises(KeyboardInterrupt):
        ask(run)
    assert len(answers(run)) == after
    monkeypatch.setattr(checkpoints, "save_measured", save)
    known, lines = answers(run), []
    ask(run, lines)
    assert len(answers(run)) == 6 and {k: answers(run)[k] for k in known} == known


def test_a_damaged_answer_is_named(run):
    ask(run)
    path = next((run / "evaluation").rglob("step_00000004.npz"))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match=r"step_00000004.npz' is damaged .*; delete it"):
        ask(run)
    assert load_measured(run / "absent.npz", "key") is None
    os.mkfifo(run / "pipe.npz")
    with pytest.raises(CheckpointError, match="pipe.npz' is damaged .*no file has this name.*; delete it"):
        load_measured(run / "pipe.npz", "key")


def test_a_running_training_is_followed_to_its_end_or_until_the_time_is_over(run, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "POLL", 0.05)
    late = tmp_path / "late.pdparams"
    last = run / "weights/step_00000006.pdparams"
    last.rename(late)
    lines = []
    assert len(ask(run, lines, watch=0.3, domains=("target",)).run.rows) == 2
    assert "stopping at step 4 of 6" in "\n".join(lines)

    def echo(line):  # the training writes its last weights when those before are measured
        if line.startswith("step 4"):
            late.rename(last)

    request = Request((str(run),), options=EAGER, watch=float(LIMIT), domains=("target",))
    assert [r["step"] for r in evaluate_request(request, echo).run.rows] == [2, 4, 6]


def test_one_checkpoint_can_be_asked_for(run):
    newest, best = ask(run, step="latest"), ask(run, step="best")
    assert newest.weights == [str(run / "weights/step_00000006.pdparams")] and newest.run is None
    assert best.weights == [f"{run / 'best.pdparams'} (chosen on target labels)"]
    assert ask(f"{run}@4").weights == [str(run / "weights/step_00000004.pdparams")]
    with pytest.raises(CheckpointError, match="holds no weights '5'; known: 6, 4, 2"):
        ask(run, step="5")


def test_domains_protocols_resolution_and_lift_are_reported(run):
    lines = []
    sets = 'data.protocols=["cityscapes_19", "synthia_16", "synthia_13"]'
    found = ask(run, lines, step="latest", domains=("source", "target"), limit=2, training_size=True,
                overrides=(sets,), baseline=f"{run}@2")  # fmt: skip
    text = "\n".join(lines)
    assert all(f"({name}, {count} classes)" in text for name, count in
               (("cityscapes_19", 19), ("synthia_16", 16), ("synthia_13", 13)))  # fmt: skip
    assert "scored at the network's input resolution" in text and "2 images of cityscapes val" in text
    assert "evenly spread over all 6 images; these are the images that training reads" in text
    before = found.baseline["target"].matrix.miou()
    assert f"{100 * (found.domains['target'].matrix.miou() - before):+.2f} (" in text
    assert f"lift over {run / 'weights/step_00000002.pdparams'}" in text


def test_a_source_with_a_split_of_its_own_is_scored_on_that(tiny):
    config = tiny()
    assert scored_domain(config, "source") == config.data.source
    city = override(config, "data.source.dataset=cityscapes", "data.source.split=train")
    assert scored_domain(city, "source") == replace(city.data.source, split="val")
    chosen = override(city, "data.source.only={city: [toyville]}")
    assert scored_domain(chosen, "source") == chosen.data.source
    assert scored_domain(city, "target") == city.data.validation


def test_a_baseline_is_kept_with_the_run_and_an_absent_one_is_said_first(run):
    first = ask(run, baseline=f"{run}@2")
    known = answers(run)
    assert len(known) == 8
    again = ask(run, baseline=f"{run}@2")
    assert answers(run) == known
    assert (first.baseline["target"].matrix.counts == again.baseline["target"].matrix.counts).all()
    with pytest.raises(CheckpointError, match="'absent' do not exist"):
        ask(run, limit=1, baseline="absent")
    assert answers(run) == known


def test_the_effect_of_every_option_and_every_member_is_measured(run, tmp_path):
    options = replace(EAGER, flip=True, levels=(("main", 1.0), ("aux", 1.0)))
    found = evaluate_request(
        Request((f"{run}@4", f"{run}@6"), weights=(1, 3), options=options, report=str(tmp_path / "report")), str
    )
    first, second, *ways = found.effects
    assert first.endswith("step_00000004.pdparams alone") and second.endswith("step_00000006.pdparams alone")
    assert ways == ["plain", "flip", "levels 1 main + 1 aux", "all together"]
    alone = 100 * evaluate(f"{run}@6", options=EAGER)[0].miou()
    assert found.effects[second] == pytest.approx(alone)
    assert found.effects["all together"] == pytest.approx(100 * found.domains["target"].matrix.miou())


def test_members_and_baselines_do_not_change_how_the_first_model_is_computed(run, tmp_path):
    model, config = load_model(f"{run}@6")
    other = tmp_path / "other.pdparams"
    save_weights(other, arrays_of(model), dump(override(config, "run.accelerate=off")))
    load_models([f"{run}@6", other], None, (), ())
    assert runtime.accelerates()
    evaluate_request(Request((f"{run}@6",), options=EAGER, limit=1, baseline=str(other)), str)
    assert runtime.accelerates()


def test_a_baseline_of_other_classes_is_refused_before_anything_is_measured(run, tiny, tmp_path):
    fit(tiny("toy/source_only", f"run.output={tmp_path / 'other'}", "data.classes=synthia_16", "schedule.stop=2"))
    with pytest.raises(ConfigError, match="predicts other classes"):
        ask(run, baseline=str(tmp_path / "other"))
    assert not (run / "evaluation").exists()


def test_two_images_of_one_name_are_not_saved_over_one_another(run, tmp_path, monkeypatch):
    monkeypatch.setattr(DomainFiles, "stem", lambda files, index: "same")
    for save in (
        lambda: evaluate(f"{run}@6", save=tmp_path / "out"),
        lambda: ask(run, step="6", save=str(tmp_path / "out")),
    ):
        with pytest.raises(DataError, match="would both be written as 'same.png'"):
            save()


WRONG = {
    "--weights are those of an ensemble": {"weights": (1.0,), "step": "latest"},
    "name a checkpoint of the run": {"save": "somewhere"},
    "unknown domain 'targets': did you mean 'target'": {"domains": ("targets",)},
    "evaluated on the target": {"domains": ("source",)},
    "--limit must be at least 1": {"limit": 0},
    "--last must be at least 1": {"tail": 0},
    "--watch follows a run's folder": {"watch": 1.0, "step": "latest"},
    "unknown --backend 'onnx'": {"options": InferenceOptions(backend="onnx")},
}


@pytest.mark.parametrize("message", WRONG)
def test_requests_that_make_no_sense_are_refused(message, run):
    with pytest.raises((ConfigError, CheckpointError), match=re.escape(message)):
        ask(run, **WRONG[message])


def test_the_command_line_reaches_every_option(run, tmp_path):
    done = tool("eval", "--restore-from", run, "--domains", "target", "--protocols", "synthia_13,synthia_16",
                "--resolution", "training", "--limit", 2, "--last", 2, "--flip", "--scales", "1,0.5", "--window",
                "64x48", "--levels", "main=1,aux=0.5", "--backend", "eager", "--precision", "fp32", "--report",
                tmp_path / "report", "--watch", 1, "--baseline", run)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "prediction: flip, scales 1, 0.5, window 64x48, levels 1 main + 0.5 aux; eager fp32" in done.stdout
    assert "mean of the last 2" in done.stdout and "synthia_13" in done.stdout
    assert (tmp_path / "report/index.html").is_file()
    wrong = tool("eval", "--restore-from", run / "best.pdparams", "--weights", 1)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --weights are those of an ensemble's models")


def test_a_few_images_are_spread_evenly_and_always_the_same():
    assert spread(10, None) == list(range(10)) == spread(10, 99)
    assert spread(10, 4) == [0, 3, 6, 9] and spread(10, 1) == [0]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_reading_ahead_keeps_the_order_and_says_what_is_broken(tiny, workers, tmp_path, toy_root):
    config: Config = tiny()
    files = open_domain(config, "source")
    samples = list(read_ahead(files, [5, 0, 3], (1.0, 0.5), None, workers))
    assert [s.index for s in samples] == [5, 0, 3]
    assert [i.shape for i in samples[0].images] == [(48, 96, 3), (24, 48, 3)]
    np.testing.assert_array_equal(samples[1].images[0], files.image(0))
    shutil.copytree(toy_root, tmp_path / "toy")
    broken = override(config, f"data.source.root={tmp_path / 'toy/GTA5'}")
    files = open_domain(broken, "source")
    next((tmp_path / "toy/GTA5/images").glob("*3.png")).write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot read"):
        list(read_ahead(files, range(6), workers=workers))


def test_the_question_is_kept_beside_its_answers(run):
    ask(run, domains=("target",))
    (path,) = (run / "evaluation").glob("*/question.json")
    question = json.loads(path.read_text())
    assert question["domain"] == "target" and len(question["images"]) == 3

"""The health monitor speaks when it should, ensembles average, comparisons are resumable and add up."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from conftest import ROOT, tiny_overrides
from forked import tool
from PIL import Image

from paddle_adaptseg.config.loading import override
from paddle_adaptseg.config.schema import Component, Pixels
from paddle_adaptseg.core.errors import CheckpointError, ConfigError
from paddle_adaptseg.evaluation.measure import evaluate
from paddle_adaptseg.evaluation.predictor import InferenceOptions, Predictor
from paddle_adaptseg.lab.compare import Row, run_study, study_jobs, write_study
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.segmenter import Ensemble
from paddle_adaptseg.training.guards import QUIET, WINDOW, HealthMonitor
from paddle_adaptseg.training.run import fit

HEALTHY = {
    "discriminator_accuracy_main": 0.75,
    "target_largest_share": 0.4,
    "target_classes": 15.0,
    "target_entropy": 0.3,
}
SICK = {
    "the discriminator of main wins": ({"discriminator_accuracy_main": 0.99}, {}),
    "cannot tell the domains apart": ({"discriminator_accuracy_main": 0.5}, {}),
    "one class takes 95 % or more": ({"target_largest_share": 0.95}, {}),
    "target predictions hold only 2 classes": ({"target_classes": 2.0}, {}),
    "seg_main has vanished": ({}, {"seg_main": 0.0}),
    "adv_main has vanished": ({}, {"adv_main": 1e-9}),
}


def watch(monitor, times, readings=(), losses=()):
    expected = []
    for _ in range(times):
        numbers = {f"health/{k}": v for k, v in {**HEALTHY, **dict(readings)}.items()}
        expected += monitor.observe({"seg_main": 0.5, "adv_main": 0.7, **dict(losses)}, numbers)
    return expected


def test_a_healthy_run_is_left_in_peace():
    assert watch(HealthMonitor(), 100) == []


@pytest.mark.parametrize("sentence", SICK)
def test_each_illness_is_named_once_with_what_to_try_and_again_only_after_a_while(sentence):
    monitor = HealthMonitor()
    assert watch(monitor, WINDOW - 1, *SICK[sentence]) == []
    warnings = watch(monitor, QUIET, *SICK[sentence])
    assert len(warnings) == 1 and sentence in warnings[0]
    assert len(watch(monitor, 1, *SICK[sentence])) == 1
    assert watch(monitor, 100) == []


def test_health_readings_are_logged_for_every_method_that_sees_the_target(tiny, tmp_path):
    fit(tiny("toy/adaptsegnet_multi", "method.ramp.start=0", "schedule.stop=1", "run.eval_every=0"))
    (line,) = (tmp_path / "run/log.jsonl").read_text().splitlines()
    names = {k for k in json.loads(line) if k.startswith("health/")}
    assert names == {"health/discriminator_accuracy_main", "health/discriminator_accuracy_aux", "health/target_entropy",
                     "health/target_classes", "health/target_largest_share"}  # fmt: skip


def test_warnings_reach_console_and_log(tiny, tmp_path, capsys):
    config = tiny("toy/source_only", "schedule.horizon=20", f"schedule.stop={WINDOW}", "run.eval_every=0",
                  "method.seg_weights.aux=1", "model.width=8")  # fmt: skip
    blank = np.zeros((48, 96), np.uint8)  # unlabelled: every label ignored
    root = tmp_path / "GTA5"
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    Image.fromarray(np.repeat(blank[..., None], 3, 2)).save(root / "images/1.png")
    Image.fromarray(blank).save(root / "labels/1.png")
    fit(override(config, f"data.source.root={root}"))
    expected = "warning: step 10: seg_main has vanished (below 1e-7): all labels may be ignored"
    assert expected in capsys.readouterr().out
    assert "seg_main has vanished" in (tmp_path / "run/log.jsonl").read_text()


def test_a_run_that_goes_on_warns_as_if_it_had_never_stopped(tmp_path):
    sick = {"health/discriminator_accuracy_main": 0.99}
    lines = [json.dumps({"step": n, "loss/seg_main": 0.5, **sick}) for n in range(WINDOW - 1)]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"step": 9, "warnings": "text"}']) + "\n")
    monitor = HealthMonitor()
    monitor.replay(tmp_path / "log.jsonl")
    assert len(monitor.observe({"seg_main": 0.5}, sick)) == 1


def test_the_lift_over_a_baseline_is_told_and_a_loss_is_a_warning(tiny, tmp_path, capsys):
    base = tmp_path / "base"
    base.mkdir()
    (base / "log.jsonl").write_text('{"step": 3, "target/mIoU": 50.0}\n{"step": 6, "target/mIoU": 99.0}\n')
    fit(tiny("toy/adaptsegnet_multi", f"run.baseline={base}"))
    out = capsys.readouterr().out
    assert "over the baseline" in out
    assert "points worse than source only (99.00): adaptation hurts here" in out
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    lifts = [r["health/lift"] for r in records if "health/lift" in r]
    assert len(lifts) == 2 and all(lift < 0 for lift in lifts)
    with pytest.raises(CheckpointError, match="is no run's folder"):
        fit(tiny("toy/adaptsegnet_multi", "run.baseline=absent", f"run.output={tmp_path / 'other'}"))
    with (base / "log.jsonl").open("a") as log:
        log.write('{"step": 7, "lo')  # as a killed run leaves it
    with pytest.raises(CheckpointError, match=r"run.baseline: '.*log.jsonl' is damaged"):
        fit(tiny("toy/adaptsegnet_multi", f"run.baseline={base}", f"run.output={tmp_path / 'other'}"))


def test_an_ensemble_averages_probabilities_with_its_weights():
    models = [build_model(Component("small", {"width": 8}), 4) for _ in range(2)]
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    one, other, both = (
        np.asarray(Predictor(m, Pixels()).scaled_logits(image).probabilities((32, 32)))
        for m in (*models, Ensemble(models, [3, 1]))
    )
    np.testing.assert_allclose(both, 0.75 * one + 0.25 * other, rtol=1e-4, atol=1e-6)
    for weights in ([1.0], [-1, 2], [0, 0]):
        with pytest.raises(ConfigError, match="2 models need as many weights"):
            Ensemble(models, weights)


def test_several_checkpoints_are_evaluated_as_one(tiny, tmp_path):
    for seed in (0, 1):
        fit(tiny("toy/source_only", "schedule.stop=3", f"run.seed={seed}", f"run.output={tmp_path / str(seed)}"))
    alone, _ = evaluate(tmp_path / "0")
    weighted, _ = evaluate([tmp_path / "0", tmp_path / "1"], weights=[1, 0])
    both, _ = evaluate([tmp_path / "0", tmp_path / "1"])
    flipped, _ = evaluate(tmp_path / "0", options=InferenceOptions(flip=True))
    assert (flipped.counts != alone.counts).any() and flipped.images == alone.images
    assert (alone.counts == weighted.counts).all() and (alone.counts != both.counts).any()
    done = tool("eval", "--restore-from", tmp_path / "0", tmp_path / "1", "--weights", 1, 0)
    assert f"{100 * alone.miou():.2f} (cityscapes_19, 19 classes)" in done.stdout
    assert "protocol: cityscapes_19; 3 images of cityscapes val" in done.stdout


def test_a_comparison_trains_what_is_missing_and_writes_table_and_chart(toy_root, tmp_path):
    overrides = [o for o in tiny_overrides(toy_root, tmp_path) if "run.output" not in o]
    paths = [str(ROOT / f"configs/toy/{n}.yml") for n in ("source_only", "minent")]
    command = ("compare", *paths, "--seeds", "0,1", "--output", tmp_path / "out", "-o", *overrides)
    done = tool(*command)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out/table.csv").open() as handle:
        rows = {row["method"]: row for row in csv.DictReader(handle)}
    assert set(rows) == {"source_only", "minent"}
    assert rows["source_only"]["lift"] == "" and len(rows["minent"]["lift by seed"].split()) == 2
    with Image.open(tmp_path / "out/chart.png") as chart:
        assert chart.size[0] > 600
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("seconds")}
    assert len(times) == 4
    again = tool(*command)
    assert again.returncode == 0 and {p: p.stat().st_mtime_ns for p in times} == times
    other = tool(*command, "optim.segmenter.lr=0.5")
    assert other.returncode == 2 and "was trained with another configuration (optim.segmenter.lr" in other.stderr
    wrong = tool("compare", *paths, "--baseline", "source_onyl", "--output", tmp_path / "out", "-o", *overrides)
    assert wrong.returncode == 2 and "unknown baseline 'source_onyl': did you mean 'source_only'" in wrong.stderr
    jobs = study_jobs(paths, [0, 1], tmp_path / "out", overrides)
    assert [row.name for row in run_study(jobs, "source_only", 1)]


def test_rows_add_up_and_two_configurations_need_two_names(tmp_path):
    row = Row("a", (10.0, 20.0), (1.0, 3.0), 60.0)
    assert row.cells() == {"method": "a", "mean": "15.0", "min": "10.0", "max": "20.0", "lift": "+2.0",
                           "lift by seed": "+1.0 +3.0", "seconds": "60"}  # fmt: skip
    write_study([row], tmp_path, "title")
    assert "| a | 15.0 | 10.0 | 20.0 | +2.0 |" in (tmp_path / "table.md").read_text()
    path = str(ROOT / "configs/toy/minent.yml")
    assert study_jobs([path], [0], tmp_path / "[a] #b", [])["minent"][0].folder == tmp_path / "[a] #b/minent/seed_0"
    with pytest.raises(ConfigError, match="two configurations are called 'minent'"):
        study_jobs([path, path], [0], tmp_path, [])

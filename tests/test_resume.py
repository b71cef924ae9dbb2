"""A run interrupted after any checkpoint and continued equals the run never interrupted, bit for bit."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest
from visualdl import LogReader

from paddle_adaptseg import methods
from paddle_adaptseg.config.loading import load_config, override
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core.errors import CheckpointError, ConfigError, StorageError
from paddle_adaptseg.evaluation.measure import evaluate
from paddle_adaptseg.methods import METHODS
from paddle_adaptseg.methods.source_only import SourceOnly
from paddle_adaptseg.training import run as run_module
from paddle_adaptseg.training.checkpoint import list_steps, load_state, state_path
from paddle_adaptseg.training.log import VDL_FILE
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.weights import save_weights
from paddle_adaptseg.weights.load import find_weights, weights_by_step
from paddle_adaptseg.weights.reader import read_weights

# A configuration for every method in METHODS (asserted below).
EXPERIMENTS = {
    "source_only": "toy/source_only",
    "output_adversarial": "toy/adaptsegnet_multi",
    "target_prior": "toy/iw_maxsquare_multi",
    "clan": "toy/clan",
    "bn_adapt": "toy/bn_adapt",
    "feature_adversarial": "toy/feature_adversarial",
    "self_training": "toy/self_training",
}
ELSEWHERE = {"source_free", "distil"}  # they start from weights: tests/test_practice.py
MASKED = "toy/self_training_masked"
V3PLUS = "toy/adversarial_v3plus"  # its dropout must be drawn again as it was
EARLY = ("method.ramp.start=1", "run.keep=9")  # adaptation takes part from the second step


def overrides(name):
    has_ramp = name not in ("toy/source_only", "toy/bn_adapt")
    return EARLY if has_ramp else EARLY[1:]


def test_every_method_is_resumed_here():
    assert set(EXPERIMENTS) | ELSEWHERE == set(METHODS)


class SessionEnded(Exception):
    """Stands for the end of a session without warning."""


@pytest.fixture
def interrupted(monkeypatch):
    """Trains until a step is finished and logged, then dies."""

    def run(config, at):
        after_step = run_module._Run.after_step

        def dying(self, report):
            after_step(self, report)
            if self.state.step == at:
                raise SessionEnded

        with monkeypatch.context() as patch:
            patch.setattr(run_module._Run, "after_step", dying)
            with pytest.raises(SessionEnded):
                fit(config)

    return run


def numbers(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("speed/")} for line in lines]


def curves(folder: Path) -> dict[str, list]:
    reader = LogReader(file_path=str(folder / "vdl" / VDL_FILE))
    tags = reader.get_tags()
    found = {t: [(r.id, r.value) for r in reader.get_data("scalar", t)] for t in tags["scalar"] if "speed" not in t}
    return {**found, **{t: [r.id for r in reader.get_data("image", t)] for t in tags["image"]}}


def assert_same_run(one: Path, other: Path, step: int) -> None:
    a, b = load_state(state_path(one, step)), load_state(state_path(other, step))
    assert set(a.arrays) == set(b.arrays) and any(k.startswith("optim/") for k in a.arrays)
    for name, array in a.arrays.items():
        assert np.array_equal(array, b.arrays[name]), name
    assert (a.record["best_step"], a.record["best_miou"]) == (b.record["best_step"], b.record["best_miou"])
    assert numbers(one) == numbers(other)
    assert curves(one) == curves(other)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a configuration's run without an interruption; each is trained once."""
    made: dict[str, Path] = {}

    def run(name: str, config: Config) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("straight") / "run"
            fit(override(config, f"run.output={folder}", "data.workers=0"))
            made[name] = folder
        return made[name]

    return run


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", [*EXPERIMENTS.values(), MASKED, V3PLUS], ids=[*EXPERIMENTS, "masked", "deeplabv3plus"])
def test_straight_equals_resumed_bit_for_bit(tiny, tmp_path, interrupted, straight, name, workers):
    config = tiny(name, *overrides(name), f"data.workers={workers}")
    interrupted(config, at=5)  # the newest checkpoint is of step 4, the log is already ahead
    result = fit(config, resume="latest")
    assert result.step == 6
    assert_same_run(straight(name, config), tmp_path / "run", 6)


class Remembering(SourceOnly):
    """Weighs its losses by a number that grows with every step, kept in a buffer, which is part of the state."""

    def __init__(self, segmenter, seg_weights):
        super().__init__(segmenter, seg_weights)
        self.register_buffer("memory", paddle.ones([1]))

    def losses(self, batch, clock):
        terms = self.seg_terms(self.segmenter(batch.source_image), batch, clock)
        yield {name: term._replace(loss=term.loss * self.memory.reshape([])) for name, term in terms.items()}

    def after_step(self, clock):
        self.memory.set_value(self.memory * 1.5)


class Forgetting(Remembering):
    """The same with a plain attribute, which no state holds."""

    def __init__(self, segmenter, seg_weights):
        SourceOnly.__init__(self, segmenter, seg_weights)
        self.__dict__["memory"] = paddle.ones([1])


@pytest.mark.parametrize("kind", [Remembering, Forgetting])
def test_a_method_that_remembers_outside_its_state_is_noticed(tiny, tmp_path, interrupted, monkeypatch, kind):
    monkeypatch.setattr(methods, "METHODS", {**METHODS, "remembering": kind})
    config = tiny("toy/source_only", "method={name: remembering, seg_weights: {aux: 0.1, main: 1.0}}", *EARLY[1:])
    fit(override(config, f"run.output={tmp_path / 'straight'}"))
    interrupted(config, at=3)
    fit(config, resume="latest")
    if kind is Remembering:
        assert_same_run(tmp_path / "straight", tmp_path / "run", 6)
        return
    with pytest.raises(AssertionError, match="method/segmenter|optim/"):
        assert_same_run(tmp_path / "straight", tmp_path / "run", 6)


def test_a_run_goes_on_from_any_of_its_checkpoints(tiny, tmp_path):
    config = tiny("toy/adaptsegnet_multi", *EARLY)
    fit(override(config, f"run.output={tmp_path / 'straight'}"))
    fit(config)
    for which in ("2", "best", "latest"):
        fit(config, resume=which)
        assert_same_run(tmp_path / "straight", tmp_path / "run", 6)


def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before(tiny, tmp_path, interrupted, capsys):
    config = tiny("toy/adaptsegnet_multi", *EARLY)
    fit(override(config, f"run.output={tmp_path / 'straight'}"))
    interrupted(config, at=4)
    newest = state_path(tmp_path / "run", 4)
    newest.write_bytes(newest.read_bytes()[:-1000])
    fit(config, resume="latest")
    assert "step_00000004.npz' is damaged" in capsys.readouterr().out
    assert_same_run(tmp_path / "straight", tmp_path / "run", 6)


def test_going_back_drops_what_lies_ahead_and_keeps_what_is_new(tiny, tmp_path):
    config = tiny("toy/source_only", "run.eval_every=0", "run.keep=3")
    fit(config)
    assert list_steps(tmp_path / "run") == [2, 4, 6]
    fit(override(config, "run.keep=1", "schedule.stop=4"), resume="2")
    assert list_steps(tmp_path / "run") == [4]
    assert sorted(p.stem for p in (tmp_path / "run/weights").iterdir()) == ["step_00000002", "step_00000004"]
    assert fit(override(config, "schedule.stop=4"), resume="latest").step == 4


def test_a_named_checkpoint_that_is_not_there_is_an_error_not_a_fresh_start(tiny, capsys):
    config = tiny("toy/source_only", "schedule.stop=2", "run.eval_every=0")
    for which, message in (
        ("best", "no checkpoint to continue from"),
        ("5000", "no checkpoint"),
        ("foo", "must be latest"),
    ):
        with pytest.raises(CheckpointError, match=message):
            fit(config, resume=which)
    fit(config, resume="latest")
    assert "starting fresh" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="was never evaluated"):
        fit(config, resume="best")


def test_starting_anew_leaves_no_weights_of_the_old_run(tiny, tmp_path):
    fit(tiny("toy/source_only"))
    fit(tiny("toy/source_only", "run.eval_every=0", "schedule.stop=1"), overwrite=True)
    assert not (tmp_path / "run/best.pdparams").exists()
    assert [p.stem for p in (tmp_path / "run/weights").iterdir()] == ["step_00000001"]


def test_resuming_keeps_the_best_network_when_its_file_among_the_weights_was_deleted(tiny, tmp_path):
    config = tiny("toy/source_only", "schedule.stop=4")
    fit(config)
    run, best = tmp_path / "run", load_state(state_path(tmp_path / "run", 4)).record["best_step"]
    network = (run / "best.pdparams").read_bytes()
    for path in (run / "weights").iterdir():
        path.unlink()
    assert best and fit(config, resume="latest").best_step == best
    assert (run / "best.pdparams").read_bytes() == network


def test_a_best_network_of_a_later_step_goes_and_one_without_a_record_stays(tiny, tmp_path, capsys):
    config, run = tiny("toy/source_only", "run.keep=9"), tmp_path / "run"
    fit(config)
    best = run / "best.pdparams"
    arrays, text, _ = read_weights(best)
    for path in (run / "weights").iterdir():
        path.unlink()
    save_weights(best, arrays, text, {"trained_steps": 6})
    fit(override(config, "schedule.stop=4"), resume="4")
    assert not best.exists()
    assert f"'{best}' was deleted: it is of step 6, and the run continues from step 4" in capsys.readouterr().out
    for path in (run / "weights").iterdir():
        path.unlink()
    best.write_bytes(b"somebody's own")
    fit(override(config, "schedule.stop=4"), resume="4")
    assert best.read_bytes() == b"somebody's own"
    assert f"'{best}' does not record its step" in capsys.readouterr().out


def test_folders_named_like_files_of_a_run_are_no_checkpoints_and_stay(tiny, tmp_path):
    config, run = tiny("toy/source_only", "run.keep=9"), tmp_path / "run"
    fit(override(config, "schedule.stop=4"))
    odd = ["states/step_00000005.npz", "states/step_00000001.npz", "weights/step_00000005.pdparams",
           "states/.step_00000009.npz.1.tmp"]  # fmt: skip
    for name in odd:
        (run / name).mkdir()
    assert list_steps(run) == [2, 3, 4] and list(weights_by_step(run)) == [2, 3, 4]
    assert find_weights(f"{run}@latest").name == "step_00000004.pdparams"
    fit(override(config, "schedule.stop=4"), resume="2")  # drops what is later
    fit(override(config, "schedule.stop=4", "run.keep=1"), overwrite=True)  # and what is too many
    assert all((run / name).is_dir() for name in odd)
    with pytest.raises(StorageError, match=r"cannot write .*step_00000005.pdparams': Is a directory"):
        fit(override(config, "run.save_every=1"), resume="latest")


@pytest.mark.parametrize("name", ["log.jsonl", "vdl/vdlrecords.run.log", "best.pdparams", "config.yml"])
@pytest.mark.parametrize("kind", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_where_a_run_writes_one_is_replaced_or_refused_in_one_line(tiny, tmp_path, name, kind):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    kind(path)
    try:
        fit(tiny("toy/source_only", "schedule.stop=1"))
        assert path.is_file()
    except StorageError as error:
        assert f"cannot write '{path}'" in str(error)


def test_a_wrong_protocol_is_said_before_anything_is_trained_or_deleted(tiny, tmp_path):
    fit(tiny("toy/source_only"))
    with pytest.raises(ConfigError, match="unknown label space 'synthia_61'"):
        fit(tiny("toy/source_only", "data.protocols=[synthia_61]"), overwrite=True)
    assert (tmp_path / "run/best.pdparams").exists() and list_steps(tmp_path / "run")


def test_continuing_without_a_checkpoint_starts_fresh(tiny, tmp_path):
    assert fit(tiny("toy/source_only", "schedule.stop=2"), resume="latest").step == 2


def test_a_finished_run_continues_to_nothing_and_keeps_its_log(tiny, tmp_path):
    config = tiny("toy/source_only")
    fit(config)
    before = numbers(tmp_path / "run")
    assert fit(config, resume="latest").step == 6
    assert numbers(tmp_path / "run") == before


def test_a_run_is_not_overwritten_or_continued_with_other_settings_by_accident(tiny, tmp_path):
    config = tiny("toy/source_only", "schedule.stop=2")
    fit(config)
    with pytest.raises(CheckpointError, match="already holds a run at step 2: continue it with --continue-train"):
        fit(config)
    with pytest.raises(CheckpointError, match=r"another configuration \(data.batch_size: 2 -> 1\)"):
        fit(override(config, "data.batch_size=1"), resume="latest")
    assert fit(config, overwrite=True).step == 2


def test_different_seeds_give_different_runs_and_equal_ones_the_same(tiny, tmp_path):
    config = tiny("toy/source_only", "schedule.stop=2", "run.eval_every=0")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fit(override(config, f"run.output={tmp_path / name}", f"run.seed={seed}"))
    a, b, c = (load_state(state_path(tmp_path / n, 2)).arrays["method/segmenter.stem.0.weight"] for n in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_weights_of_another_run_are_a_starting_point(tiny, tmp_path):
    first = tiny("toy/source_only", "schedule.stop=2")
    fit(first)
    second = tiny("toy/adaptsegnet_multi", f"run.restore_from={tmp_path / 'run'}", f"run.output={tmp_path / 'second'}",
                  "schedule.stop=1", "optim.segmenter.lr=1e-12")  # fmt: skip
    fit(second)
    a = load_state(state_path(tmp_path / "run", 2)).arrays["method/segmenter.stem.0.weight"]
    b = load_state(state_path(tmp_path / "second", 1)).arrays["method/segmenter.stem.0.weight"]
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert list_steps(tmp_path / "second") == [1]


def test_adaptation_starts_from_the_best_the_last_or_any_step_of_a_source_run(tiny, tmp_path):
    source = tmp_path / "source"
    fit(tiny("toy/source_only_v3plus", f"run.output={source}", "run.keep=9", "schedule.stop=4"))
    files = {"": "best.pdparams", "@best": "best.pdparams", "@latest": "step_00000004.pdparams",
             "@2": "step_00000002.pdparams"}  # fmt: skip
    for which, name in files.items():
        assert find_weights(f"{source}{which}").name == name
    for which in ("@9", "@last"):
        with pytest.raises(CheckpointError, match=f"holds no weights '{which[1:]}'; known: 4, 3, 2, latest, best"):
            find_weights(f"{source}{which}")
    (source / "best.pdparams").unlink()
    assert find_weights(source).name == "step_00000004.pdparams"
    result = fit(tiny(V3PLUS, *EARLY, f"run.restore_from={source}@latest", f"run.baseline={source}"))
    assert result.step == 6
    matrix, config = evaluate(f"{tmp_path / 'run'}@latest")
    assert config.model.name == "small_v3plus" and 100 * matrix.miou() == pytest.approx(result.miou)


def with_old_names(run: Path, step: int) -> None:
    """Rewrite a run's checkpoint, log and configuration as they were when discriminators were called critics."""
    path = state_path(run, step)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    record = json.loads(members.pop("record.json"))
    old = {name: name.replace("discriminator", "critic") for name in record["arrays"]}
    record = {**record, "format": 1, "arrays": [old[name] for name in record["arrays"]]}
    record["config"] = record["config"].replace("discriminator", "critic")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, new in old.items():
            archive.writestr(f"{new}.npy", members[f"{name}.npy"])
        archive.writestr("record.json", json.dumps(record))
    for file in (run / "config.yml", run / "log.jsonl"):
        file.write_text(file.read_text().replace("discriminator", "critic"))


@pytest.mark.parametrize("name", ["toy/adaptsegnet_multi", "toy/clan"])
def test_a_run_from_before_discriminators_had_their_name_is_resumed_bit_for_bit(tiny, tmp_path, name):
    config = tiny(name, *EARLY)
    fit(override(config, f"run.output={tmp_path / 'straight'}"))
    fit(override(config, "schedule.stop=4"))
    with_old_names(tmp_path / "run", 4)
    found = load_config(tmp_path / "run/config.yml", ["schedule.stop=6"])
    assert found == config
    fit(found, resume="latest")
    straight, resumed = (load_state(state_path(tmp_path / run, 6)).arrays for run in ("straight", "run"))
    assert set(straight) == set(resumed) and all(np.array_equal(straight[k], resumed[k]) for k in straight)

"""Checkpoints are whole or refused, weights are plain arrays or refused, logs are cut where a run continues."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import paddle
import pytest
from visualdl import LogReader

from paddle_adaptseg.core.errors import CheckpointError, StorageError
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.training import checkpoint
from paddle_adaptseg.training.checkpoint import (
    Snapshot,
    find_state,
    list_steps,
    load_state,
    prune,
    save_state,
    state_path,
)
from paddle_adaptseg.training.log import VDL_FILE, RunLog
from paddle_adaptseg.weights import arrays_of, load_arrays, save_weights
from paddle_adaptseg.weights.reader import read_weights


def snapshot(step, best=0):
    arrays = {"method/a.b": np.arange(2000, dtype=np.float32) + step, "optim/x/y": np.array(step)}
    return Snapshot(arrays, {"step": step, "best_step": best, "best_miou": None, "config": ""})


def test_a_state_comes_back_as_it_was(tmp_path):
    path = save_state(tmp_path, snapshot(7))
    loaded = load_state(path)
    assert loaded.step == 7 and set(loaded.arrays) == {"method/a.b", "optim/x/y"}
    assert (loaded.arrays["method/a.b"] == snapshot(7).arrays["method/a.b"]).all()
    assert [p.name for p in path.parent.iterdir()] == ["step_00000007.npz"]


def damage(path, kind):
    data = bytearray(path.read_bytes())
    if kind == "truncated":
        data = data[: len(data) // 2]
    elif kind == "empty":
        data = bytearray()
    elif kind == "bit flipped":
        data[len(data) // 2] ^= 1
    elif kind == "garbage":
        data = bytearray(os.urandom(500))
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["truncated", "empty", "bit flipped", "garbage"])
def test_a_damaged_newest_state_is_named_and_the_one_before_used(tmp_path, kind):
    for step in (2, 4):
        save_state(tmp_path, snapshot(step))
    damage(state_path(tmp_path, 4), kind)
    warnings = []
    assert find_state(tmp_path, "latest", warnings.append).step == 2
    assert len(warnings) == 1 and "step_00000004.npz' is damaged" in warnings[0]
    damage(state_path(tmp_path, 2), kind)
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        find_state(tmp_path, "latest", warnings.append)


def test_states_are_found_by_name(tmp_path):
    assert find_state(tmp_path, "latest", print) is None
    for step in (2, 4, 6):
        save_state(tmp_path, snapshot(step, best=4))
    assert [find_state(tmp_path, which, print).step for which in ("latest", "best", "2")] == [6, 4, 2]
    for which, message in (
        ("3", "no checkpoint of step 3; it has 2, 4, 6"),
        ("last", "must be latest, best or a step"),
    ):
        with pytest.raises(CheckpointError, match=message):
            find_state(tmp_path, which, print)


def test_the_last_n_and_the_best_are_kept(tmp_path):
    for step in range(1, 7):
        save_state(tmp_path, snapshot(step))
    prune(tmp_path, keep=2, best_step=3)
    assert list_steps(tmp_path) == [3, 5, 6]


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(handle):
        handle.write(b"half")
        raise OSError("disk full")

    with pytest.raises(StorageError, match="cannot write .*file': disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["n" * 255, "\u00fc" * 127])
def test_the_longest_name_that_a_disk_allows_can_be_written(tmp_path, name):
    write_atomically(tmp_path / name, lambda handle: handle.write(b"all"))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"all")]
    with pytest.raises(StorageError, match="File name too long .*choose a shorter name"):
        write_atomically(tmp_path / f"{name}nn", lambda handle: handle.write(b"all"))


def test_better_is_greater_and_never_nan():
    nan = float("nan")
    assert [checkpoint.is_better(a, b) for a, b in ((1, nan), (2, 1), (1, 1), (nan, nan), (nan, 1))] == [
        True, True, False, False, False]  # fmt: skip


def test_weights_come_back_with_their_configuration_and_paddle_reads_them_too(tmp_path):
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    save_weights(tmp_path / "w.pdparams", arrays, "text: 1")
    loaded, text, _ = read_weights(tmp_path / "w.pdparams")
    assert text == "text: 1" and (loaded["w"] == arrays["w"]).all()
    assert (np.asarray(paddle.load(str(tmp_path / "w.pdparams"))["w"]) == arrays["w"]).all()


def test_weights_saved_by_paddle_are_read(tmp_path):
    net = paddle.nn.Linear(3, 2)
    paddle.save(net.state_dict(), str(tmp_path / "w.pdparams"))
    loaded, text, _ = read_weights(tmp_path / "w.pdparams")
    assert text == "" and (loaded["weight"] == net.weight.numpy()).all()


class Bomb:
    def __reduce__(self):
        return os.system, ("echo this must never run > /tmp/adaptseg_bomb",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"w": Bomb()}), "wants to use '(posix|nt).system'"),
        (b"", "it is empty"),
        (b"PK\x03\x04 a torch file", "a zip archive whose end is missing"),
        (pickle.dumps([1, 2]), "holds a list, not named weights"),
        (pickle.dumps({"w": "text"}), "not an array: w"),
        (pickle.dumps({"w": np.array([{}], object)}), "arrays of type 'object'"),
    ],
)
def test_foreign_or_hostile_weights_are_refused_and_never_run(tmp_path, content, message):
    (tmp_path / "w.pdparams").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "w.pdparams")
    assert not Path("/tmp/adaptseg_bomb").exists()


def test_weights_that_do_not_fit_are_listed_and_loaded_in_part_only_when_asked():
    net = paddle.nn.Sequential(paddle.nn.Linear(3, 2), paddle.nn.Linear(2, 2))
    arrays = arrays_of(net)
    arrays["0.weight"] = arrays["0.weight"] * 0 + 5
    arrays["1.weight"] = np.zeros((2, 7), np.float32)
    arrays["head"] = arrays.pop("1.bias")
    with pytest.raises(CheckpointError) as error:
        load_arrays(net, arrays, "'file'")
    for part in ("1 missing: 1.bias", "1 unused: head", "1 of another shape: 1.weight"):
        assert part in str(error.value)
    assert len(load_arrays(net, arrays, "'file'", partial=True)) == 3
    assert float(net[0].weight.numpy().min()) == 5
    with pytest.raises(CheckpointError, match="no tensor that fits"):
        load_arrays(net, {"other": arrays["head"]}, "'file'", partial=True)


def curve(folder, tag):
    return [(r.id, r.value) for r in LogReader(file_path=str(folder / "vdl" / VDL_FILE)).get_data("scalar", tag)]


def test_a_continued_log_has_no_overlap_and_no_gap(tmp_path):
    log = RunLog(tmp_path)
    for step in range(1, 7):
        log.scalars(step, {"loss/a": step, "loss/b": float("nan")})
        log.picture(step, "p", np.zeros((4, 4, 3), np.uint8))
    log.close()
    for torn in (tmp_path / "log.jsonl", tmp_path / "vdl" / VDL_FILE):
        with torn.open("ab") as handle:
            handle.write(b'{"step": 7, "lo')
    log = RunLog(tmp_path, step=4)
    log.scalars(5, {"loss/a": 50})
    log.close()
    lines = [json.loads(line) for line in io.StringIO((tmp_path / "log.jsonl").read_text())]
    assert [(x["step"], x["loss/a"]) for x in lines] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50)]
    assert lines[0]["loss/b"] is None
    assert curve(tmp_path, "loss/a") == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50)]

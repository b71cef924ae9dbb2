"""Damaged and foreign checkpoints: found, named, and never half believed."""

from __future__ import annotations

import json
import random
import zipfile

import numpy as np
import pytest
from test_resume import assert_same_run

from paddle_adaptseg.config.loading import override
from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.training import checkpoint
from paddle_adaptseg.training.checkpoint import Snapshot, load_state, save_state, state_path
from paddle_adaptseg.training.run import fit

FLIPS = 300


def state(tmp_path):
    arrays = {f"method/{i}": np.random.default_rng(i).normal(size=40).astype(np.float32) for i in range(5)}
    return save_state(tmp_path, Snapshot(arrays, {"step": 7, "best_step": 0, "best_miou": None, "config": ""}))


def damages(data: bytes) -> dict[str, bytes]:
    """A file in many states of decay."""
    choose = random.Random(0)
    flips = {}
    for place in sorted(choose.sample(range(len(data)), FLIPS)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << choose.randrange(8)
        flips[f"bit of byte {place}"] = bytes(flipped)
    cuts = {f"cut at {n}": data[:n] for n in (0, 1, 21, 30, len(data) // 2, len(data) - 23, len(data) - 1)}
    return {**flips, **cuts, "zeros": bytes(len(data)), "twice": data[: len(data) // 2] * 2}


def test_a_damaged_state_is_refused_or_harmless_wherever_a_bit_flips(tmp_path):
    path = state(tmp_path)
    whole, arrays = path.read_bytes(), load_state(path).arrays
    refused = 0
    for name, data in damages(whole).items():
        path.write_bytes(data)
        try:
            loaded = load_state(path)
        except CheckpointError as error:
            refused += 1
            assert "step_00000007.npz' is damaged" in str(error) and "\n" not in str(error), name
        else:  # times and other bytes that say nothing about the content
            assert loaded.step == 7 and all(np.array_equal(loaded.arrays[k], v) for k, v in arrays.items()), name
    assert refused > 0.7 * FLIPS


def rewritten(path, change):
    """The state file with its record or members changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    compression = change(members) or zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def record(**values):
    def change(members):
        members["record.json"] = json.dumps({**json.loads(members["record.json"]), **values}).encode()

    return change


def array(kind, shape):
    """A member that says it is an array of this kind and shape, and holds nothing."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape},)}}".ljust(118).encode()
    return lambda members: members.update({"method/0.npy": b"\x93NUMPY\x01\x00\x76\x00" + text})


HOSTILE = {
    "compressed": lambda members: zipfile.ZIP_DEFLATED,
    "text for a step": record(step="seven"),
    "no configuration": record(config=None),
    "text for a score": record(best_miou="good"),
    "a list of the wrong kind": record(arrays=7),
    "quarantine of the wrong kind": record(quarantined=[1]),
    "another format": record(format=99),
    "pickled array": array("|O", 1),
    "a shape to be computed": array("<f4", "1<<50"),
    "petabytes": array("<f4", 2**50),
    "text": array("<U1", 0),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_state_is_refused_in_one_line(tmp_path, kind):
    path = state(tmp_path)
    rewritten(path, HOSTILE[kind])
    with pytest.raises(CheckpointError, match="step_00000007.npz' is damaged") as error:
        load_state(path)
    assert "\n" not in str(error.value)


CHANGES = {
    "rate": (["optim.discriminators.lr=5e-4"], r"optim.discriminators.lr: 0.0\d+ -> 0.0005"),
    "method": (["method.gan=ls"], r"method.gan: vanilla -> ls"),
    "classes": (["data.classes=synthia_16"], "data.classes: cityscapes_19 -> synthia_16"),
    "model": (["model.width=16"], "model.width: 8 -> 16"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_of_another_configuration_is_refused_with_the_differences(tiny, name):
    config = tiny("toy/adaptsegnet_multi", "schedule.stop=2", "run.eval_every=0")
    fit(config)
    changes, message = CHANGES[name]
    with pytest.raises(CheckpointError, match=rf"another configuration \({message}\): .*--accept-changes"):
        fit(override(config, *changes, "schedule.stop=3"), resume="latest")


def test_changes_that_leave_the_tensors_as_they_are_can_be_accepted(tiny, capsys):
    config = tiny("toy/adaptsegnet_multi", "schedule.stop=2", "run.eval_every=0")
    fit(config)
    changed = override(config, "optim.discriminators.lr=5e-4", "method.gan=ls", "schedule.stop=3")
    assert fit(changed, resume="latest", accept_changes=True).step == 3
    assert "continuing with changes: method.gan: vanilla -> ls, optim.discriminators.lr" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["data.classes=synthia_16", "model.width=16"])
def test_changes_of_the_tensors_are_refused_even_then(tiny, tmp_path, change):
    config = tiny("toy/adaptsegnet_multi", "schedule.stop=2", "run.eval_every=0")
    fit(config)
    with pytest.raises(CheckpointError, match="checkpoint of step 2 does not fit the model: .*of another shape"):
        fit(override(config, change, "schedule.stop=3"), resume="latest", accept_changes=True)
    assert load_state(state_path(tmp_path / "run", 2)).step == 2


def test_another_paddle_is_a_change_too(tiny, tmp_path, monkeypatch):
    config = tiny("toy/source_only", "schedule.stop=2", "run.eval_every=0")
    fit(config)
    rewritten(state_path(tmp_path / "run", 2), record(paddle="1.8.5"))
    with pytest.raises(CheckpointError, match=r"another configuration \(Paddle: 1\.8\.5 -> "):
        fit(config, resume="latest")
    assert fit(config, resume="latest", accept_changes=True).step == 2


@pytest.mark.parametrize("kind", ["cut at 0", "cut at 30", "zeros"])
def test_the_checkpoint_before_a_damaged_one_is_used_and_the_run_ends_the_same(trainer, tmp_path, straight, kind):
    trainer("run", ("optimise", 10, "kill")).wait()
    newest = state_path(tmp_path / "run", checkpoint.list_steps(tmp_path / "run")[-1])
    newest.write_bytes(damages(newest.read_bytes())[kind])
    again = trainer(resume=True).wait()
    assert f"note: checkpoint '{newest}' is damaged" in again.text and "trying the one before it" in again.text
    assert_same_run(straight[0], tmp_path / "run", 6)

"""run.profile writes a timeline and a table of stages, and changes nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest

from paddle_adaptseg import fit
from paddle_adaptseg.training import profile


def test_a_profile_names_the_stages_of_the_steps_asked_for_and_changes_no_weight(tiny, tmp_path, capsys):
    def weights(*more: str) -> dict[str, np.ndarray]:
        output = tmp_path / f"run{len(more)}"
        config = tiny("toy/self_training", f"run.output={output}", "schedule.stop=5", "method.ramp=null", *more)
        fit(config, overwrite=True)
        return dict(np.load(next(output.glob("states/*5*"))))

    plain = weights()
    assert "| stage |" not in capsys.readouterr().out and not (tmp_path / "run0/profile").exists()
    profiled = weights("run.profile=2")
    assert set(plain) == set(profiled)
    for name, value in plain.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            np.testing.assert_array_equal(profiled[name], value, name)
    text, folder = capsys.readouterr().out, tmp_path / "run1/profile"
    assert "2 steps, medians" in text and (folder / "stages.md").read_text() in text
    for name in profile.STAGES:
        assert f"| {name} |" in text, name
    (timeline,) = folder.glob("*.json")
    events = [str(event.get("name")) for event in json.loads(timeline.read_text())["traceEvents"]]
    assert any(event.startswith("forward") for event in events)
    assert not profile.PROFILES


def test_a_run_that_is_shorter_than_its_profile_writes_the_steps_that_it_had(tiny, capsys):
    fit(tiny("toy/source_only", "schedule.stop=4", "run.profile=20"))
    assert "2 steps, medians" in capsys.readouterr().out and not profile.PROFILES


def test_a_stage_within_another_counts_once_and_shares_add_up():
    steps = [{"forward": 0.6, "colours": 0.2, "loader wait": 0.1, "all": 1.0}]
    lines = profile.table(steps).splitlines()
    assert "beyond the networks 40.0 %" in lines[0]
    assert lines[-2] == "| else | 0.1000 | 10.0 % |"
    taken = profile.Profile(None, 1)
    with taken.timed("forward"), taken.timed("colours"):
        pass
    assert taken.own["forward"] >= 0 and taken.own["colours"] >= 0 and not taken.inner


@pytest.mark.parametrize("value", ["-1", "x"])
def test_a_wrong_number_of_steps_is_refused(tiny, value):
    with pytest.raises(Exception, match=r"run\.profile"):
        tiny("toy/source_only", f"run.profile={value}")

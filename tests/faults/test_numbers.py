"""NaN and Inf: the run stops and says where and why, or takes the step back without a trace; nothing bad is saved."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from test_resume import EARLY, assert_same_run

from paddle_adaptseg.config.loading import override
from paddle_adaptseg.core.errors import TrainingError
from paddle_adaptseg.methods.adversarial import OutputAdversarial
from paddle_adaptseg.methods.base import Method, Term
from paddle_adaptseg.training.checkpoint import list_steps, load_state, state_path
from paddle_adaptseg.training.run import _Run, fit

SKIP = ("run.on_nonfinite=skip", "model.norm=batch", "schedule.iter_size=2")
POISONS = {
    "nan": lambda loss: loss * float("nan"),
    "infinite": lambda loss: loss * float("inf"),
    "nan gradient": lambda loss: loss + paddle.sqrt(loss * 0.0) * 1.0,  # the root's slope at 0 is infinite
}


@pytest.fixture
def poison(monkeypatch):
    """poison(kind, *steps) spoils the auxiliary source loss in these steps, counted as the log does."""

    def install(kind, *steps, owner=Method, name="seg_terms", term="seg_aux"):
        real = getattr(owner, name)

        def spoiled(self, *args):
            terms = real(self, *args)
            if args[-1].step + 1 in steps:
                terms[term] = Term(POISONS[kind](terms[term].loss), terms[term].weight)
            return terms

        monkeypatch.setattr(owner, name, spoiled)

    return install


def finite(folder) -> bool:
    states = [load_state(path) for path in (folder / "states").iterdir()]
    return all(np.isfinite(array).all() for state in states for array in state.arrays.values())


@pytest.mark.parametrize("kind", POISONS)
def test_a_run_stops_with_step_term_files_last_losses_and_the_last_good_checkpoint(tiny, tmp_path, poison, kind):
    poison(kind, 5)
    with pytest.raises(TrainingError) as error:
        fit(tiny("toy/adaptsegnet_multi", *EARLY))
    text = str(error.value)
    assert "\n" not in text and text.count("images/000") == 2 and text.count("leftImg8bit.png") == 2
    assert {"nan": "step 5: seg_aux = nan; batch: ", "infinite": "step 5: seg_aux = inf; batch: ",
            "nan gradient": "step 5: gradients of segmenter."}[kind] in text  # fmt: skip
    assert "no weight was changed; last losses: step 2: seg_main" in text and "| step 4: seg_main" in text
    assert (
        f"the last good checkpoint is {state_path(tmp_path / 'run', 4)}; continue with: python tools/train.py" in text
    )
    assert list_steps(tmp_path / "run") == [2, 3, 4] and finite(tmp_path / "run")


@pytest.mark.parametrize("term", ["d_main_source", "d_aux_target"])
def test_the_terms_of_discriminators_are_watched_as_well(tiny, poison, term):
    poison("nan", 3, owner=OutputAdversarial, name="discriminator_terms", term=term)
    with pytest.raises(TrainingError, match=f"step 3: {term} = nan"):
        fit(tiny("toy/adaptsegnet_multi", *EARLY))


def test_weights_that_are_not_finite_are_never_saved(tiny, tmp_path, monkeypatch):
    after_step = _Run.after_step

    def spoil(self, report):
        if self.state.step == 4:
            parameter = self.state.method.parameters()[0]
            parameter.set_value(paddle.full_like(parameter, float("inf")))
        after_step(self, report)

    monkeypatch.setattr(_Run, "after_step", spoil)
    with pytest.raises(TrainingError, match=r"step 4: 1 tensors hold NaN or Inf \(method/.*\); nothing was saved"):
        fit(tiny("toy/source_only", "run.eval_every=0"))
    assert list_steps(tmp_path / "run") == [2] and finite(tmp_path / "run")
    assert not (tmp_path / "run/weights/step_00000004.pdparams").exists()


@pytest.mark.parametrize("kind", POISONS)
def test_a_skipped_step_leaves_no_trace_but_a_count_and_a_line(tiny, tmp_path, poison, kind, capsys):
    poison(kind, 4)
    config = tiny("toy/adaptsegnet_multi", *EARLY, *SKIP, "run.eval_every=0")
    fit(override(config, "schedule.stop=3", f"run.output={tmp_path / 'before'}"))
    fit(override(config, "schedule.stop=4"))
    before, after = load_state(state_path(tmp_path / "before", 3)), load_state(state_path(tmp_path / "run", 4))
    assert any("_mean" in name for name in before.arrays)  # running statistics are among what must not move
    assert all(np.array_equal(before.arrays[name], array) for name, array in after.arrays.items())
    assert (before.record["skipped"], after.record["skipped"]) == (0, 1)
    assert "warning: step 4: step taken back (1 of at most 10): step 4: " in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "warnings" in line] == [4]
    assert [line["step"] for line in lines if "loss/seg_main" in line] == [1, 2, 3]


def test_a_run_with_skipped_steps_resumes_exactly(tiny, tmp_path, poison, monkeypatch):
    poison("nan gradient", 2, 4)
    config = tiny("toy/adaptsegnet_multi", *EARLY, *SKIP)
    fit(override(config, f"run.output={tmp_path / 'straight'}"))
    fit(override(config, "schedule.stop=3"))
    fit(config, resume="2")
    assert_same_run(tmp_path / "straight", tmp_path / "run", 6)
    assert load_state(state_path(tmp_path / "run", 6)).record["skipped"] == 2


def test_no_more_steps_are_skipped_than_allowed(tiny, tmp_path, poison):
    poison("nan", 2, 3, 5)
    with pytest.raises(
        TrainingError, match=r"step 5: seg_aux = nan; .*2 steps were skipped already \(run.max_nonfinite"
    ):
        fit(tiny("toy/adaptsegnet_multi", *EARLY, *SKIP, "run.max_nonfinite=2"))
    assert list_steps(tmp_path / "run")[-1] == 4 and finite(tmp_path / "run")

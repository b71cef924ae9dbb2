"""What notebooks call: training that goes on, and pictures of runs, predictions, data and reports."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import paddle_adaptseg
from paddle_adaptseg.config.loading import override
from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.evaluation.report.curves import PANELS, draw_curves, read_curves
from paddle_adaptseg.lab.notebook import _titles


def pixels(shown) -> np.ndarray:
    """The picture that a notebook would show."""
    with Image.open(io.BytesIO(shown._repr_png_())) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_same_call_starts_goes_on_and_shows_what_is_finished(tiny, capsys):
    config = tiny()
    first = paddle_adaptseg.train(override(config, "schedule.stop=3"))
    assert "step 3, target mIoU" in repr(first) and "steps 0 to 3" in capsys.readouterr().out
    assert "step 6" in repr(paddle_adaptseg.train(config)) and "steps 3 to 6" in capsys.readouterr().out
    before = read_curves(Path(config.run.output))
    assert repr(paddle_adaptseg.train(config)).startswith(config.run.output)
    assert read_curves(Path(config.run.output)) == before, "a finished run is not trained further"
    assert paddle_adaptseg.train(override(config, "schedule.stop=1"), overwrite=True)
    assert "steps 0 to 1" in capsys.readouterr().out


def test_a_training_whose_time_is_up_is_shown_and_goes_on(tiny, capsys):
    config = tiny("toy/source_only")
    shown = paddle_adaptseg.train(override(config, "run.max_hours=1e-9"))
    out = capsys.readouterr().out
    assert "step 1, 0 warnings" in repr(shown) and "run.max_hours" in out and "step 1 is saved" in out
    assert "step 6" in repr(paddle_adaptseg.train(config)) and "steps 1 to 6" in capsys.readouterr().out


def test_an_error_that_a_user_can_mend_is_one_line_in_a_notebook():
    with pytest.raises(CheckpointError) as caught:
        paddle_adaptseg.show_run("absent")
    assert caught.value._render_traceback_() == ["error: 'absent' is no run's folder (it has no log.jsonl)"]


@pytest.fixture
def log(tmp_path):
    """A run's log as training writes it, with a warning, a value that is not finite and a torn last line."""
    lines = [
        {"step": 10, "loss/seg_main": 2.0, "loss/adv_main": None, "rate/all": 0.1},
        {"step": 20, "loss/seg_main": 1.0, "loss/adv_main": 0.7, "loss/d_main_source": 0.3},
        {"step": 20, "target/mIoU": 31.5, "target_IoU/road": 80.0},
        {"step": 20, "warnings": "something looks odd"},
    ]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "lo')
    return folder


def test_curves_are_read_from_a_log_that_is_being_written(log):
    curves = read_curves(log)
    assert curves["loss/seg_main"] == [(10, 2.0), (20, 1.0)] and curves["loss/adv_main"] == [(20, 0.7)]
    assert "warnings" not in curves
    shown = paddle_adaptseg.show_run(log)
    assert repr(shown).splitlines() == [
        f"{log}: step 20, target mIoU 31.50 (best 31.50 at step 20), 1 warning",
        "step 20: something looks odd",
    ]
    with pytest.raises(CheckpointError, match="is no run's folder"):
        paddle_adaptseg.show_run(log.parent)


def test_every_number_stands_in_one_panel_at_most_and_only_panels_with_curves_are_drawn(log, tmp_path):
    names = ("target/mIoU", "target/mIoU_synthia_13", "source_batch/mIoU", "loss/seg_aux", "loss/adv_aux", "loss/d_aux")
    for name in names:
        assert sum(wanted(name) for wanted in PANELS.values()) == 1, name
    assert not any(wanted("target_IoU/road") or wanted("rate/all") for wanted in PANELS.values())
    whole = pixels(paddle_adaptseg.show_run(log))
    one = draw_curves({"run": {"loss/seg_main": [(1, 2.0), (2, 1.0)]}})
    with Image.open(io.BytesIO(one)) as picture:
        assert picture.size[1] < whole.shape[0]


def test_other_runs_stand_beside_the_first(log):
    other = log.with_name("other")
    other.mkdir()
    (other / "log.jsonl").write_text('{"step": 10, "target/mIoU": 20.0}\n{"step": 20, "target/mIoU": 25.0}\n')
    assert (pixels(paddle_adaptseg.show_run(log)) != pixels(paddle_adaptseg.show_run(log, other))).any()


def test_predictions_of_several_runs_stand_beside_the_truth(tiny, tmp_path):
    config = tiny("toy/source_only", "schedule.stop=2")
    paddle_adaptseg.train(config)
    folder = config.run.output
    sheet = pixels(paddle_adaptseg.show_predictions(folder, f"{folder}/best.pdparams", count=2))
    assert sheet.shape[1] == 6 * (96 + 4) + 4
    narrow = paddle_adaptseg.show_predictions(folder, count=2, entropy=False)
    assert pixels(narrow).shape[1] == 3 * (96 + 4) + 4 and repr(narrow) == f"2 of 3 target images: {folder}"
    narrow.save(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes() == narrow.png
    with pytest.raises(CheckpointError, match="at least one run"):
        paddle_adaptseg.show_predictions()


def test_runs_of_a_comparison_are_named_by_what_tells_them_apart():
    assert _titles(["a/advent", "a/clan@best"]) == ["advent", "clan@best"]
    assert _titles([Path("advent/seed_0"), Path("clan/seed_0")]) == ["advent", "clan"]
    assert _titles(["x/advent/seed_0", "y/advent/seed_0"]) == ["x/advent/seed_0", "y/advent/seed_0"]


def test_data_is_shown_with_its_labels(tiny):
    shown = paddle_adaptseg.show_data(tiny(), count=2)
    assert pixels(shown).shape[1] == 4 * (96 + 4) + 4
    assert repr(shown) == "source: 6 images of GTA5 (Playing for Data); target: 3 images of Cityscapes"


def test_a_report_is_shown_in_a_frame_of_its_own(tmp_path):
    with pytest.raises(CheckpointError, match="there is no report in"):
        paddle_adaptseg.show_report(tmp_path)
    (tmp_path / "index.html").write_text('<p class="x">a & b</p>', encoding="utf-8")
    text = paddle_adaptseg.show_report(tmp_path, height=300)._repr_html_()
    assert "&lt;p class=&quot;x&quot;&gt;a &amp; b" in text and "height:300px" in text and "<p" not in text

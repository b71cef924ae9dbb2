"""Measured scores in pages: what is computed from them, and that every page shows those of docs/measured.json."""

from __future__ import annotations

import json
import re

import pages
import pytest
from conftest import ROOT

from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.lab.measured import MARK, SCORES, demo_table, differences, filled, group_table, measured_page


def group(rows, seeds=(0, 1)):
    return {"title": "t", "note": "n", "seeds": list(seeds), "against": "plain", "rows": rows}


def test_a_row_shows_its_mean_and_by_how_much_it_differs_seed_by_seed():
    rows = [
        {"name": "plain", "steps": 900, "scores": [40.0, 42.0]},
        {"name": "more", "steps": 1350, "scores": [43, 41]},
    ]
    assert group_table(group(rows)).splitlines() == [
        "| training | steps | seed 0 | seed 1 | mean | against plain |",
        "|---|---|---|---|---|---|",
        "| plain | 900 | 40.00 | 42.00 | 41.00 |  |",
        "| more | 1350 | 43.00 | 41.00 | 42.00 | +1.00 (+3.00 -1.00) |",
    ]
    assert differences([40.5], [42.0]) == "-1.50"
    alone = group_table(group([{**row, "scores": row["scores"][:1]} for row in rows], [0])).splitlines()
    assert alone[-1] == "| more | 1350 | 43.00 | +3.00 |"


def test_every_training_of_the_page_has_a_score_for_each_seed_and_its_group_a_base():
    data = json.loads(SCORES.read_text(encoding="utf-8"))
    for found in data["groups"]:
        names = [row["name"] for row in found["rows"]]
        assert found["against"] in names and len(set(names)) == len(names)
        assert all(len(row["scores"]) == len(found["seeds"]) for row in found["rows"])


def test_the_page_is_up_to_date():
    page = (ROOT / "docs/toy_self_training.md").read_text(encoding="utf-8")
    assert page == measured_page(), "run: make pages"


def test_a_group_that_is_compared_with_nothing_it_holds_is_an_error():
    with pytest.raises(KeyError, match="plain"):
        group_table(group([{"name": "other", "steps": 1, "scores": [1.0, 2.0]}]))


@pytest.mark.parametrize("path", pages.PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_page_shows_the_measured_numbers(path):
    text = path.read_text(encoding="utf-8")
    assert text == filled(text), "run: make pages"
    assert len(MARK.findall(text)) == text.count("<!-- / -->"), "a mark without its end"


def test_a_number_of_the_demo_stands_on_the_pages_of_newcomers_only_between_marks():
    data = json.loads(SCORES.read_text(encoding="utf-8"))
    scores = {f"{x:.2f}" for row in data["groups"][0]["rows"] for x in row["scores"]}
    for name in ("README.md", "README_zh.md", "docs/toy_seeds.md", "docs/visualdl.md", "docs/zh/quick_start.md"):
        unmarked = MARK.sub("", (ROOT / name).read_text(encoding="utf-8"))
        assert not scores & set(re.findall(r"\d+\.\d\d", unmarked)), name


def test_marks_are_filled_and_a_name_that_is_not_measured_is_an_error(tmp_path):
    assert filled("at <!-- memory.resnet101 -->0<!-- / --> GB") == "at <!-- memory.resnet101 -->8.8<!-- / --> GB"
    with pytest.raises(ConfigError, match="unknown measured value 'memory.resnet110'.*memory.resnet101"):
        filled("<!-- memory.resnet110 -->0<!-- / -->")


def test_the_table_of_the_demo_computes_means_and_lifts():
    scores = {"source_only": [30.0, 32.0], "adapted": [40.0, 46.0], "self_training": [41.0, 47.0]}
    assert demo_table(scores, [0, 1]).splitlines()[2:] == [
        "| 0 | 30.00 | 40.00 | +10.00 | 41.00 | +11.00 |",
        "| 1 | 32.00 | 46.00 | +14.00 | 47.00 | +15.00 |",
        "| mean | 31.00 | 43.00 | +12.00 | 44.00 | +13.00 |",
    ]

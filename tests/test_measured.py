"""The page of measured scores: what it computes from them, and that it is up to date."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT

from paddle_adaptseg.lab.measured import SCORES, differences, group_table, measured_page


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

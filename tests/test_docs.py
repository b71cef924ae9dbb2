"""The example of docs/methods.md is a method that trains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paddle_adaptseg import methods
from paddle_adaptseg.config import Component
from paddle_adaptseg.engine import fit

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_example_of_a_new_method_is_short_and_trains(tiny, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "methods.md").read_text(encoding="utf-8"), re.S)
    assert code.count("\n") < 40
    scope: dict = {}
    exec(compile(code, "docs/methods.md", "exec"), scope)
    monkeypatch.setattr(methods, "METHODS", {**methods.METHODS, "confident": scope["Confident"]})
    config = tiny("toy/source_only", "schedule.stop=2", "method.name=confident", "method.weight=0.1",
                  "method.seg_weights.main=1")  # fmt: skip
    assert isinstance(config.method, Component)
    assert fit(config).step == 2


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target

"""Every command on every page is run, planned, or passed over for a stated reason; flags that do not exist fail."""

from __future__ import annotations

import re

import pages
import pytest
from conftest import ROOT, tiny_overrides

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.training.run import fit

# These pages are run line by line, in their order, by tests of their own.
ELSEWHERE = {
    "docs/migration.md": "test_migration.py",
    "docs/deploy.md": "test_docs.py",
    "docs/paddleseg.md": "test_paddleseg.py",
    "docs/zh/paddleseg.md": "test_paddleseg.py",
}
NAMES = {path: str(path.relative_to(ROOT)) for path in pages.PAGES}
COMMANDS = list(dict.fromkeys(c for path in pages.PAGES if NAMES[path] not in ELSEWHERE for c in pages.commands(path)))


@pytest.fixture(scope="module")
def made(toy_root, tmp_path_factory):
    """A run of one step."""
    folder = tmp_path_factory.mktemp("runs") / "made"
    fit(load_config(ROOT / "configs/toy/source_only.yml", [
        *tiny_overrides(toy_root, folder), "schedule.stop=1", "run.eval_every=1", "run.save_every=1"]))  # fmt: skip
    return folder


@pytest.fixture
def elsewhere(toy_root, made, tmp_path, monkeypatch):
    """A folder with the configurations, the toy pair where real data belong, and the run, as a working folder."""
    (tmp_path / "dataset").mkdir()
    for link, target in {
        "configs": ROOT / "configs",
        "made": made,
        "dataset/toy": toy_root,
        "dataset/GTA5": toy_root / "GTA5",
        "dataset/Cityscapes": toy_root / "Cityscapes",
    }.items():
        (tmp_path / link).symlink_to(target)  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = (toy_root / "toy.json").read_text()
    yield tmp_path
    assert (toy_root / "toy.json").read_text() == before, "a command changed the toy pair of all tests"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: re.sub(r"\W+", "-", c)[:70])
def test_a_command_on_a_page_works(command, elsewhere, monkeypatch, capsys):
    pages.check(command, elsewhere, monkeypatch, capsys)


@pytest.mark.parametrize(
    "command",
    ["python tools/train.py --no-such-flag", "python tools/eval.py --restore-from made --flop",
     "python tools/predict.py --model made street.jpg", "python tools/train.py --config configs/typo.yml",
     "make no-such-target", "pip install -r absent.txt", "pip install -e '.[absent]'",
     "python tools/train.py --config configs/toy/advent.yml -o method.wieghts.main=1", "unknown program"],
)  # fmt: skip
def test_a_command_that_is_wrong_is_found_out(command, elsewhere, monkeypatch, capsys):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        pages.check(command, elsewhere, monkeypatch, capsys)


@pytest.mark.parametrize("path", pages.PAGES, ids=NAMES.get)
def test_blocks_say_what_they_hold_so_that_no_command_is_overlooked(path):
    for kind, block in pages.fences(path.read_text(encoding="utf-8")):
        assert kind in ("", *pages.SHELL, *pages.OTHER)
        if kind not in (*pages.SHELL, "text"):
            commands = [line for line in block.splitlines() if line.split(" ")[0] in ("python", "make", "pip")]
            assert not commands, f"a block of commands must be marked as sh: {commands}"


def test_commands_are_found_in_blocks_and_in_sentences():
    assert len(COMMANDS) > 40
    assert {c.split()[0] for c in COMMANDS} <= {*pages.PROGRAMS}

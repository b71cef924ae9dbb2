"""What those who carry on rely on: READMEs and versions agree, templates can be read, every target is listed."""

from __future__ import annotations

import hashlib
import re
import subprocess

import pages
import pytest
import release
import yaml
from conftest import ROOT, tiny_overrides
from PIL import Image

from paddle_adaptseg import __version__
from paddle_adaptseg.config import loading
from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.core.errors import UserError
from paddle_adaptseg.lab.badges import badges

READMES = [ROOT / "README.md", ROOT / "README_zh.md"]


def read(path):
    return path.read_text(encoding="utf-8")


def test_both_readmes_have_the_same_headings_commands_links_and_tables():
    english, chinese = map(read, READMES)
    outside = [re.sub(r"^```.*?^```", "", text, flags=re.M | re.S) for text in (english, chinese)]
    levels = [[len(hashes) for hashes in re.findall(r"^(#+) ", text, re.M)] for text in outside]
    assert levels[0] == levels[1] and len(levels[0]) > 8
    one, other = map(pages.commands, READMES)
    assert one == other and len(one) > 12
    links = [set(re.findall(r"\]\(([^)#]+)", text)) for text in (english, chinese)]
    assert links[0] ^ links[1] == {"README.md", "README_zh.md"}
    rows = [re.findall(r"^\|", text, re.M) for text in outside]
    assert len(rows[0]) == len(rows[1])
    numbers = [sorted(re.findall(r"\b\d\d\.\d\b", text)) for text in outside]
    assert numbers[0] == numbers[1]


def test_badges_say_what_the_project_asks_for():
    for name, text in badges(ROOT).items():
        assert read(ROOT / "docs/images" / name) == text, "run: make pages"
        said = re.search(r'aria-label="\w+: (.*)"', text)[1]
        assert all(name in read(path) for path in READMES)
        assert said in read(READMES[0]), said
    assert "//img" not in read(READMES[0]), "pages load nothing from elsewhere"


def test_the_five_lines_of_python_work(toy_root, tmp_path, monkeypatch):
    """As both READMEs show them, on a training of a few steps."""
    blocks = [re.findall(r"```python\n(.*?)```", read(path), re.S) for path in READMES]
    assert [re.sub(r" *#.*", "", code) for code in blocks[0]] == [re.sub(r" *#.*", "", code) for code in blocks[1]]
    small = [o for o in tiny_overrides(toy_root, tmp_path) if not o.startswith("run.output")]
    monkeypatch.setattr(loading, "load_config", lambda name, keys: load_config(name, [*keys, *small]))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (200, 100), (90, 90, 90)).save("street.jpg")
    exec(compile(blocks[0][0], "README.md", "exec"), {})
    assert (tmp_path / "curves.png").is_file() and (tmp_path / "street_labels.png").is_file()


def test_the_chinese_pages_are_chinese():
    for path in [READMES[1], *(ROOT / "docs/zh").glob("*.md")]:
        assert len(re.findall("[\u4e00-\u9fff]", read(path))) > 500, path


def test_version_change_log_and_citation_agree(monkeypatch):
    release.check_version()
    monkeypatch.setattr(release, "__version__", "9.9.9")
    with pytest.raises(UserError, match=f"CHANGELOG.md is at version {re.escape(__version__)}"):
        release.check_version()


def test_the_licence_is_whole_and_the_notice_names_the_weights_that_are_not_free():
    text = " ".join(read(ROOT / "LICENSE").split())
    assert hashlib.sha256(text.encode()).hexdigest().startswith("0ffddef9e48f8a09")
    assert "non-commercial research" in read(ROOT / "NOTICE")


@pytest.mark.parametrize(
    "path",
    [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"],
    ids=lambda p: p.name,
)
def test_what_others_read_can_be_read(path):
    assert yaml.safe_load(read(path))


def test_the_hooks_before_a_commit_need_no_network():
    repos = yaml.safe_load(read(ROOT / ".pre-commit-config.yaml"))["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    assert all(hook["language"] == "system" for repo in repos for hook in repo["hooks"])


def test_help_lists_every_target():
    told = set(re.findall(r"^  make (\S+)", subprocess.check_output(["make", "help"], cwd=ROOT, text=True), re.M))
    makefile = read(ROOT / "Makefile").replace("\\\n", "")
    declared = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    defined = set(re.findall(r"^([a-z0-9-]+):", makefile, re.M))
    assert told == declared == defined


# One wait for an event, and one kill at a random moment.
SLEEPS = {"conftest.py": 1, "faults/test_kill.py": 1}


def test_tests_wait_for_events_with_a_generous_limit_and_never_for_time_to_pass():
    for path in (ROOT / "tests").rglob("*.py"):
        name, text = path.relative_to(ROOT / "tests").as_posix(), read(path)
        assert len(re.findall(r"\bsleep\(", text)) == SLEEPS.get(name, 0), name
        assert not re.findall(r"[( ]timeout=[0-9]", text), f"{name}: LIMIT of conftest.py is the limit"

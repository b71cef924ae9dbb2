"""What the pages show works: examples, deployment, links; and the reference of keys is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pages
import pytest
import site_chinese
from forked import tool
from PIL import Image

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.config.optim import OPTIMISERS
from paddle_adaptseg.config.schema import Component, Config
from paddle_adaptseg.lab.api import api_page, missing
from paddle_adaptseg.lab.reference import configuration_page, fields, keywords
from paddle_adaptseg.lab.reference_keys import KEYWORDS, MEANINGS, OPTIMISER_KEYS
from paddle_adaptseg.lab.reference_self_training import VALUE_KEYS, VALUES
from paddle_adaptseg.methods import ADDITIONS, METHODS
from paddle_adaptseg.models import MODELS
from paddle_adaptseg.models.encode_decode import BACKBONES, HEADS
from paddle_adaptseg.training.run import fit

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_example_of_a_new_method_is_short_and_trains(tiny, plugin):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "methods.md").read_text(encoding="utf-8"), re.S)
    assert code.count("\n") < 40
    config = tiny("toy/source_only", "schedule.stop=2", "method.name=confident", "method.weight=0.1",
                  "method.seg_weights.main=1", f"plugins=[{plugin(code)}]")  # fmt: skip
    assert isinstance(config.method, Component)
    assert fit(config).step == 2


def test_the_deployment_page_works_as_it_stands(toy_root, tmp_path, monkeypatch):
    """Its commands and snippets one after the other, on a run of a few steps in place of the demo's."""
    pytest.importorskip("paddle2onnx", reason="the extra 'deploy' is not installed")
    run = tmp_path / "checkpoint/toy/adaptsegnet_multi"
    fit(load_config(DOCS.parent / "configs/toy/adaptsegnet_multi.yml", [
        f"data.source.root={toy_root / 'GTA5'}", f"data.target.root={toy_root / 'Cityscapes'}",
        f"data.validation.root={toy_root / 'Cityscapes'}", "data.workers=0", "data.batch_size=1", "model.width=8",
        "schedule.stop=1", "run.eval_every=1", f"run.output={run}"]))  # fmt: skip
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/toy").symlink_to(toy_root)
    Image.new("RGB", (400, 200), (90, 90, 90)).save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "deploy.md").read_text(encoding="utf-8")
    for name, arguments in re.findall(r"^python tools/(\S+)\.py (.*)$", text, re.M):
        done = tool(name, *arguments.split(), cwd=tmp_path)
        assert done.returncode == 0, (name, arguments, done.stdout, done.stderr)
    if (tmp_path / "exported/model.pdmodel").is_file():
        text = text.replace("model.json", "model.pdmodel")
    labels = []
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        scope: dict = {}
        exec(compile(code, "docs/deploy.md", "exec"), scope)
        labels.append(scope.get("labels"))
    assert (tmp_path / "street_labels.png").is_file() and (tmp_path / "predictions").is_dir()
    assert labels[1].shape == labels[2].shape == (96, 192) and (labels[1] == labels[2]).mean() > 0.99


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub and the site give a page's headings."""
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.M))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("path", pages.PAGES, ids=lambda p: str(p.relative_to(DOCS.parent)))
def test_links_between_pages_lead_somewhere(path):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        page = (path.parent / target).resolve() if target else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), f"{target}#{anchor}"


@pytest.mark.parametrize(
    "word, page, heading",
    [
        ("discriminator", "troubleshooting.md", "Discriminator, adversarial loss and collapse"),
        ("collapse", "troubleshooting.md", "Discriminator, adversarial loss and collapse"),
        ("video", "deploy.md", "Predict images and videos"),
        ("ground truth", "evaluation.md", "Comparison with the ground truth"),
        ("learning rate", "configuration.md", "schedule: learning rate, warm-up and number of steps"),
        ("learning rate", "scaling.md", "Batch size, learning rate and steps"),
        ("resume", "reliability.md", "Resume a run"),
    ],
)
def test_the_search_finds_the_words_of_the_field_in_headings(word, page, heading):
    assert word in heading.lower()
    assert heading in re.findall(r"^#+ (.*)$", (DOCS / page).read_text(encoding="utf-8"), re.M)


def test_the_page_of_the_python_interface_has_every_public_name_and_is_up_to_date():
    assert not missing()
    assert (DOCS / "api.md").read_text(encoding="utf-8") == api_page(), "run: make pages"
    assert re.findall(r"^### (.*)$", api_page(), re.M)[:3] == ["load_config", "override", "register"]


def test_the_site_lists_every_page_and_names_it_in_chinese():
    text, titles = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"), site_chinese.TITLES
    listed = re.findall(r"^ +- (?:[\w ]+: )?(\S+\.md)$", text[text.index("\nnav:") :], re.M)
    own = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert own <= set(listed) and len(set(listed)) == len(listed)
    assert {page for page in listed if not page.startswith("zh/")} - {"index.md"} <= set(titles)
    assert set(re.findall(r"^  - (\w[\w ]*):", text[text.index("\nnav:") :], re.M)) - {"中文"} <= set(titles)


def lists_after_text(text: str) -> list[str]:
    """First items of lists that follow a line without an empty one between: the site shows them as plain text."""
    found, before, inside = [], "", False
    for line in text.splitlines():
        if re.match(r"[-*] |1\. ", line) and before.strip() and not inside and not re.match(r"[-*#] |  |\d\. ", before):
            found.append(line)
        inside ^= line.strip().startswith("```")
        before = line
    return found


@pytest.mark.parametrize("path", pages.PAGES, ids=lambda p: str(p.relative_to(DOCS.parent)))
def test_an_empty_line_stands_before_every_list(path):
    assert not lists_after_text(path.read_text(encoding="utf-8"))
    assert lists_after_text("text\n- one\n- two") == ["- one"] and not lists_after_text("text\n\n- one\n  more\n- two")


def test_the_site_searches_without_a_server_and_loads_nothing_from_elsewhere():
    text = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    (script,) = re.findall(r"polyfills: \[(.*?)\]", text)
    assert "- offline" in text and "iframe-worker" in script and (DOCS / script).is_file()
    assert not re.search(r"https?://", text)


def test_every_key_of_a_configuration_has_a_meaning_and_the_page_is_up_to_date():
    assert {key for key, _, _ in fields(Config)} == set(MEANINGS)
    used = {
        key
        for table in (MODELS, BACKBONES, HEADS, METHODS, ADDITIONS)
        for cls in table.values()
        for key, _, _ in keywords(cls)
    }
    assert used == set(KEYWORDS)
    assert {key for cls in VALUES.values() for key, _, _ in fields(cls)} == set(VALUE_KEYS)
    assert {key for cls in OPTIMISERS.values() for key, _, _ in fields(cls)} == set(OPTIMISER_KEYS)
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == configuration_page(), "run: make pages"

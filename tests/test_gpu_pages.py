"""What pages say about GPUs names the check that will show it, and Paddle's calls stand where the page says."""

from __future__ import annotations

import re
from pathlib import Path

import paddle
import pages
import pytest
from conftest import ROOT

from paddle_adaptseg.lab.doctor.checks import all_checks

HARDWARE = ROOT / "docs/hardware.md"
MARK = re.compile(r"\[GPU: ([^]]+)\]\((?:docs/|\.\./)?(?:hardware\.md)?#what-waits-for-a-gpu\)")
CHECKS = {check.name for check in all_checks()} | {"test-gpu", "unchecked"}
OURS = re.compile(r"paddle\.(?:amp|device|distributed)(?:\.\w+)+|\bdist\.\w+|\b(?:set|get)_(?:flags|rng_state)\b")
PLAIN = {"paddle.device.cuda", "paddle.distributed.fleet.utils.hybrid_parallel_util"}  # modules, for others to call


def section(title: str) -> str:
    """The text of a section of the page of hardware."""
    return re.split(r"^## ", HARDWARE.read_text(encoding="utf-8").split(f"\n## {title}")[1], maxsplit=1, flags=re.M)[0]


@pytest.mark.parametrize("path", pages.PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_mark_names_checks_that_exist(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("[GPU: ") == len(MARK.findall(text)), "a mark leads to docs/hardware.md#what-waits-for-a-gpu"
    for names in MARK.findall(text):
        assert set(names.split(", ")) <= CHECKS, names


def test_every_check_of_the_table_exists_and_what_is_marked_stands_in_it():
    rows = [line for line in section("What waits for a GPU").splitlines() if line.startswith("| ")][1:]
    table = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[-1])}
    assert table <= CHECKS
    marked = {name for path in pages.PAGES for names in MARK.findall(path.read_text(encoding="utf-8"))
              for name in names.split(", ")}  # fmt: skip
    assert marked <= table
    assert len(re.findall(r"^def test_", (ROOT / "tests/test_gpu.py").read_text(encoding="utf-8"), re.M)) > 5


def test_paddles_calls_stand_where_the_page_says():
    column = {"2.6.2": 2, "3.3.1": 3}.get(paddle.__version__)
    if column is None:
        pytest.skip(f"the page has no column for Paddle {paddle.__version__}")
    rows = [line[2:].split(" | ") for line in section("Paddle calls").splitlines() if line.startswith("| `")]
    assert len(rows) > 20
    for row in rows:
        place, name = row[column].rstrip(" |").strip("`"), re.findall(r"[\w.]+", row[0])[0].split(".")[-1]
        if ".py:" not in place:
            continue
        file, line = place.split(":")
        source = (Path(paddle.__file__).parent / file).read_text(encoding="utf-8").splitlines()
        assert re.match(rf"(def|class) {name}\b", source[int(line) - 1]), f"{place} is not {name}"


def test_every_call_of_the_package_that_is_for_gpus_stands_on_the_page():
    listed, found = section("Paddle calls"), set()
    for path in (ROOT / "paddle_adaptseg").rglob("*.py"):
        code = re.sub(r'"""[\s\S]*?"""|#.*', "", path.read_text(encoding="utf-8"))
        found |= {call for call in OURS.findall(code) if call not in PLAIN}
    assert len(found) > 10
    missing = {call for call in found if not re.search(rf"\b{call.split('.')[-1]}\b", listed)}
    assert not missing


# Paragraphs and rows that name a GPU and claim nothing about running on one, by words of theirs.
CLAIM_NOTHING = (
    "where most users of PaddlePaddle get a GPU", "Create a notebook project with a GPU", "never ran on a GPU",
    "All times here were measured on CPUs", "Weights saved on a GPU can be loaded", "memory of the GPU | recipes",
    "the authors trained them on 11 GB", "checked on a GPU by |", "the launcher chooses gloo",
    "several GPUs give less than one", "unknown ids are found on the CPU", "replaces the GPU build of Paddle",
)  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_what_a_page_says_about_gpus_is_marked(path):
    if path == HARDWARE:
        return  # its whole subject; the table of what waits is tested above
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n|\n(?=\||- |\d+\. |#)", text))
    unmarked = [
        part
        for part in parts
        if re.search(r"\b(GPUs?|NCCL|cuDNN|TF32)\b", part) and not part.startswith("#")
        and not any(words in part for words in ("[GPU: ", "not run", *CLAIM_NOTHING))
    ]  # fmt: skip
    assert not unmarked, "add a mark as docs/hardware.md explains, or to CLAIM_NOTHING"

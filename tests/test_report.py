"""The report: what it says, that nothing can leave or enter it, and how it behaves in a real browser."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest
from conftest import LIMIT
from PIL import Image

from paddle_adaptseg.config.loading import load_config, override
from paddle_adaptseg.core.labels import CITYSCAPES_19, LabelSpace
from paddle_adaptseg.evaluation.extras import ERROR, _picture
from paddle_adaptseg.evaluation.metrics import ConfusionMatrix
from paddle_adaptseg.evaluation.report import Findings, Shown, Trajectory, html, write_report
from paddle_adaptseg.evaluation.report.findings import DomainScores
from paddle_adaptseg.evaluation.report.published import PUBLISHED, published
from paddle_adaptseg.evaluation.report.sheets import csv_of
from paddle_adaptseg.evaluation.report.titles import method_title, network_title
from paddle_adaptseg.evaluation.selection import headline, pick_all

HOSTILE = '"><script>document.title="owned"</script>&'
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
         "--enable-logging=stderr", "--virtual-time-budget=5000")  # fmt: skip


def scores(seed: int, classes: int = 19, images: int = 4) -> DomainScores:
    rng = np.random.default_rng(seed)
    matrix = ConfusionMatrix(classes)
    matrix.counts = rng.integers(0, 50, (classes, classes)) + np.diag(rng.integers(0, 900, classes))
    matrix.counts[3] = 0  # an absent class
    matrix.images = images
    pixels = rng.integers(1, 100, 15).astype(float)
    reliability = np.stack([pixels, pixels * np.linspace(0.03, 0.97, 15), pixels * np.linspace(0, 0.8, 15)])
    boundary = np.stack([matrix.counts.diagonal(), matrix.counts.sum(1), matrix.counts.sum(0)])
    return DomainScores(matrix, boundary, reliability, {"cityscapes_19": (0.4, 0.6)}, 0.25, 2.0)


def trajectory() -> Trajectory:
    names = ("miou", "low", "high", "source_miou", "entropy", "stability", "share_agreement")
    values = [(10, 20, 19, 21, 50, 0.5, math.nan, 0.8), (60, 30, 28, 31, 55, 0.4, 0.7, 0.9),
              (100, 25, 24, 27, 60, 0.3, 0.9, 0.7)]  # fmt: skip
    rows = [dict(zip(("step", *names), map(float, line))) for line in values]
    return Trajectory(rows, pick_all(rows), headline(rows, 2))


@pytest.fixture
def findings(tiny) -> Findings:
    space = LabelSpace((HOSTILE, *CITYSCAPES_19.names[1:]), CITYSCAPES_19.colours)
    picture = np.random.default_rng(0).integers(0, 255, (48, 96, 3)).astype(np.uint8)
    return Findings(
        title=f"title {HOSTILE}",
        weights=[HOSTILE],
        config=tiny(),
        space=space,
        sets={"cityscapes_19": list(range(19))},
        protocol=["protocol: by hand"],
        prediction="plain",
        environment="here",
        domains={"target": scores(0), "source": scores(1)},
        baseline={"target": scores(2)},
        baseline_name=HOSTILE,
        effects={"plain": 40.0, "flip": 41.5},
        images=[Shown(f"best {HOSTILE}", {"image": picture, "errors, this model": picture}, [0, 5])],
        run=trajectory(),
    )


def test_the_page_needs_no_network_and_no_name_becomes_markup(findings, tmp_path):
    page = write_report(findings, tmp_path).read_text(encoding="utf-8")
    assert "<script>document.title" not in page and page.count("<script>") == 1
    assert "://" not in page.replace("data:image", "")
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    assert "default-src 'none'" in page
    text = unescape(re.sub(r"<[^>]+>", " ", page))
    for said in ("chosen on target labels", "mean of the last 2", "What each option changes", "1.50", "Calibration",
                 "no published number to compare with, because the network 'small'"):  # fmt: skip
        assert said in text, said
    lift = 100 * (findings.domains["target"].matrix.miou() - findings.baseline["target"].matrix.miou())
    assert f"{lift:+.1f} target lift over the baseline" in " ".join(text.split())


def test_every_figure_is_also_a_file(findings, tmp_path):
    write_report(findings, tmp_path)
    made = {p.name for p in tmp_path.glob("*.png")}
    assert made == {"curve.png", "classes_target.png", "classes_source.png", "confusion_target.png",
                    "confusion_source.png", "reliability.png", "image_0.png"}  # fmt: skip
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10, path


def config(name, *more):
    return override(load_config(f"configs/{name}.yml"), *more)


def test_published_numbers_are_those_of_the_same_setting_or_none(monkeypatch):
    from conftest import ROOT

    monkeypatch.chdir(ROOT)
    gta = config("gta5_cityscapes/adaptsegnet_multi")
    numbers, _ = published(gta, 19, 500, training_size=False)
    assert {n.method: n.miou for n in numbers}["AdaptSegNet, multi level"] == 42.4
    reduced, _ = published(gta, 19, 500, training_size=True)
    assert {n.miou for n in reduced} == {36.9, 42.2, 44.3, 45.2, 46.4}
    synthia = config("synthia_cityscapes/adaptsegnet_multi")
    assert 46.7 in {n.miou for n in published(synthia, 13, 500, False)[0]}
    vgg = config("gta5_cityscapes/adaptsegnet_vgg16")
    assert 35.0 in {n.miou for n in published(vgg, 19, 500, False)[0]}
    daformer = {n.method: n.miou for n in published(config("gta5_cityscapes/daformer"), 19, 500, False)[0]}
    assert daformer["DAFormer"] == 68.3 and daformer["MIC on HRDA"] == 75.9
    hrda, _ = published(config("gta5_cityscapes/hrda"), 19, 500, False)
    assert {n.method: n.miou for n in hrda} == daformer
    assert 77.1 in {n.miou for n in published(config("gta5_cityscapes/vfm_uda_base"), 19, 500, False)[0]}
    assert 60.9 in {n.miou for n in published(config("synthia_cityscapes/mic_daformer"), 16, 500, False)[0]}
    none = {
        "mit_b0, 19 classes": published(config("gta5_cityscapes/daformer_mit_b0"), 19, 500, False),
        "500 images of Cityscapes val, this evaluation 100": published(gta, 19, 100, False),
        "none of the papers'": published(config("toy/adaptsegnet_multi"), 19, 500, False),
        "no number is on record": published(gta, 13, 500, False),
    }
    for reason, (numbers, said) in none.items():
        assert numbers == () and reason in said


def test_published_means_are_drawn_and_listed_beside_ones_own(findings, tmp_path, monkeypatch):
    from dataclasses import replace

    from conftest import ROOT

    monkeypatch.chdir(ROOT)
    found = replace(findings, config=config("gta5_cityscapes/clan"), domains={"target": scores(0, images=500)})
    page = write_report(found, tmp_path).read_text(encoding="utf-8")
    assert (tmp_path / "published_19.png").is_file() and "hatched bars are published means" in page
    assert '<td data-v="43.2">43.20</td>' in page
    assert (tmp_path / "published_classes_0.png").is_file() and "By class beside AdaptSegNet, released weights" in page


def test_published_classes_have_the_published_mean():
    for numbers in PUBLISHED.values():
        for number in numbers:
            assert not number.classes or abs(np.mean(number.classes) - number.miou) < 0.005


def test_numbers_of_numpy_sort_as_numbers():
    page = html.table(["class", "share"], [["road", np.float64(1.5)], ["sky", np.float32(2)]])
    assert re.findall('data-v="([^"]*)"', page) == ["1.5", "2.0"]


def test_what_was_not_measured_is_an_empty_cell():
    lines = csv_of(trajectory().rows).decode().splitlines()
    assert lines[0].startswith("iterations,mIoU,interval low")
    assert lines[1].split(",")[:2] == ["10", "20.0"] and lines[1].split(",")[6] == ""


PROBE = """<script>
var seen={errors:[]};
window.onerror=function(text){seen.errors.push(String(text));};
window.addEventListener("load",function(){
  seen.tables=[].map.call(document.querySelectorAll("table.sortable"),function(table){
    var column=function(n){return [].map.call(table.tBodies[0].rows,function(row){return row.cells[n].textContent;});};
    return [].map.call(table.querySelectorAll("th button"),function(button,n){
      var orders=[];
      for(var i=0;i<2;i++){button.click();orders.push([button.parentNode.getAttribute("aria-sort"),column(n)]);}
      return [button.textContent,orders];
    });
  });
  seen.pictures=[].map.call(document.images,function(i){return i.complete&&i.naturalWidth>0;});
  seen.wide=document.documentElement.scrollWidth-document.documentElement.clientWidth;
  seen.width=document.documentElement.clientWidth;
  seen.title=document.title;
  var out=document.createElement("pre");out.id="probe";out.textContent=JSON.stringify(seen);
  (parent===window?document:parent.document).body.appendChild(out);
});
</script>"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here (looked for {', '.join(BROWSERS)}); on Debian: apt-get install chromium")
    return found


def browse(browser, page, folder, narrow=None):
    """What the probe saw in a page, and the lines on the console; `narrow` puts it into a frame of that width."""
    text = page.read_text(encoding="utf-8").replace('<meta name="viewport"', f'{PROBE}<meta name="viewport"', 1)
    if narrow:
        frame = f"var f=document.createElement('iframe');f.style.cssText='border:0;width:{narrow}px;height:900px';"
        inside = json.dumps(text).replace("</", "<\\/")
        text = f"<!doctype html><body><script>{frame}f.srcdoc={inside};document.body.appendChild(f);</script></body>"
    probed = folder / "probed.html"
    probed.write_text(text, encoding="utf-8")
    command = [browser, *QUIET, "--window-size=1280,900", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, probed.as_uri()], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert found, f"the page did not load: {done.stderr[-2000:]}"
    return json.loads(unescape(found.group(1))), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("narrow", [None, 390])
def test_the_page_renders_without_errors_and_its_tables_sort(findings, tmp_path, browser, narrow):
    seen, console = browse(browser, write_report(findings, tmp_path / "report"), tmp_path, narrow)
    assert seen["errors"] == [] and console == []
    assert seen["title"] == findings.title
    assert len(seen["pictures"]) == 8 and all(seen["pictures"])
    assert seen["wide"] <= 0 and (narrow is None or seen["width"] == narrow)
    assert len(seen["tables"]) == 6
    for table in seen["tables"]:
        for title, ((up, first), (down, second)) in table:
            assert (up, down) == ("ascending", "descending"), title
            for order, cells in ((1, first), (-1, second)):
                numbers = [float(c) for c in cells if re.fullmatch(r"-?[\d.]+", c)]
                assert numbers == sorted(numbers, reverse=order < 0), title
                dashes = [i for i, c in enumerate(cells) if c == "\u2013"]
                assert dashes == list(range(len(cells) - len(dashes), len(cells))), title
    iterations = next(t for t in seen["tables"] if t[0][0] == "iterations")
    assert iterations[0][1][0][1] == ["10", "60", "100"]  # as numbers, not as text


def test_the_browser_test_would_see_an_error_and_a_request(findings, tmp_path, browser):
    page = write_report(findings, tmp_path / "report")
    text = page.read_text(encoding="utf-8")
    page.write_text(
        text.replace("<main>", '<main><img src="https://example.invalid/x.png"><script>nothing();</script>')
    )
    seen, console = browse(browser, page, tmp_path)
    assert any("nothing is not defined" in line for line in seen["errors"])
    assert any("Content Security Policy" in line for line in console) and not all(seen["pictures"])


def test_titles_are_words():
    def called(name, *more):
        return method_title(config(name, *more))

    assert called("gta5_cityscapes/adaptsegnet_multi") == "AdaptSegNet, multi level"
    assert called("gta5_cityscapes/adaptsegnet_single_ls") == "AdaptSegNet, single level, LS-GAN"
    assert called("gta5_cityscapes/advent") == "AdvEnt, multi level"
    assert called("gta5_cityscapes/iw_maxsquare") == "MaxSquare, image-weighted"
    assert called("toy/self_training_masked") == "Self-training with masked consistency"
    assert network_title(config("gta5_cityscapes/adaptsegnet_multi")) == "DeepLabV2 (ResNet)"
    assert network_title(config("gta5_cityscapes/hrda")) == "HRDA on mit_b5 + daformer"


def test_the_mean_of_the_last_checkpoints_takes_none_from_the_start_of_training():
    rows = [{"step": step, "miou": float(step)} for step in (10, 20, 80, 100)]
    assert headline(rows, 5).tail == 2 and headline(rows, 5).tail_mean == 90.0
    assert headline(rows, 1).tail_mean == 100.0


def test_wrong_pixels_are_red_and_a_baseline_stands_beside_the_model():
    truth = np.zeros((48, 192), np.uint8)
    truth[:, 96:] = 255
    wrong = np.full_like(truth, 5)
    shown = _picture(
        "x", np.full((48, 192, 3), 100, np.uint8), truth, {"baseline": wrong, "this model": truth}, CITYSCAPES_19
    )
    assert list(shown.pictures) == [
        "image",
        "ground truth",
        "baseline",
        "this model",
        "errors, baseline",
        "errors, this model",
    ]
    errors = shown.pictures["errors, baseline"]
    assert (errors[:, :96] == ERROR).all() and (errors[:, 96:] == 0).all()
    assert (shown.pictures["errors, this model"][:, :96] == 70).all() and shown.classes == [0, 5]

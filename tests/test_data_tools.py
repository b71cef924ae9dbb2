"""Checking, preparing and comparing data: every planted fault is found, prepared copies are the same tensors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import LIMIT, ROOT, tiny_overrides
from forked import tool
from PIL import Image
from test_tools import script

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.config.schema import Domain, Roots
from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.core.labels import CITYSCAPES_19
from paddle_adaptseg.data import TrainData
from paddle_adaptseg.data import loader as loading
from paddle_adaptseg.data.check import check_domain
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.prepared import FORMATS, digest, prepare, publish
from paddle_adaptseg.data.toy import ToySpec, write_toy_pair
from paddle_adaptseg.evaluation.folders import score_folders


@pytest.fixture
def pair(tmp_path):
    """A toy pair that a test may break."""
    write_toy_pair(tmp_path / "toy", ToySpec(source=8, target=2, validation=3, height=32, width=64))
    return tmp_path / "toy"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


FAULTS = {  # what is done to which file, and what the report must say of it
    "missing pair": ("labels/00001.png", lambda p: p.unlink(), "images/00001.png has no label"),
    "zero-byte file": ("images/00002.png", lambda p: p.write_bytes(b""), "the file is empty"),
    "truncated image": ("images/00003.png", truncate, "the image is damaged"),
    "colour label": (
        "labels/00005.png",
        lambda p: Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(p),
        "must hold 8-bit ids, but its mode is RGB",
    ),
    "16-bit confusion": (
        "labels/00006.png",
        lambda p: cv2.imwrite(str(p), np.full((32, 64), 300, np.uint16)),
        "must hold 8-bit ids, but its mode is I",
    ),
    "unknown ids": (
        "labels/00007.png",
        lambda p: Image.fromarray(np.full((32, 64), 77, np.uint8)).save(p),
        "unknown ids 77",
    ),
}


def test_every_planted_fault_is_found_in_one_pass(pair):
    domain = Domain("gta5", Roots([str(pair / "GTA5")]), "all", (64, 32))
    assert check_domain(domain, CITYSCAPES_19, True).problems == []
    for name, fault, _ in FAULTS.values():
        fault(pair / "GTA5" / name)
    report = check_domain(domain, CITYSCAPES_19, True)
    assert report.images == 8 and len(report.problems) == len(FAULTS)
    for name, _, message in FAULTS.values():
        where = name.replace("labels/00001", "images/00001")
        assert [p for p in report.problems if where in p and message in p], (name, report.problems)


def test_a_label_of_another_size_than_its_image_is_a_note_and_no_problem(pair):
    Image.fromarray(np.full((30, 64), 7, np.uint8)).save(pair / "GTA5/labels/00004.png")
    done = tool("check_dataset", "gta5", pair / "GTA5", "--sheets", pair / "sheets")
    assert done.returncode == 0 and "0 problems" in done.stdout, done.stdout
    (note,) = (line for line in done.stdout.splitlines() if line.startswith("NOTE "))
    assert "labels/00004.png: is 64x30, but its image is 64x32" in note


def test_labels_without_any_class_of_the_network_are_a_problem(pair):
    for path in (pair / "GTA5/labels").glob("*.png"):
        Image.fromarray(np.zeros((32, 64), np.uint8)).save(path)
    domain = Domain("gta5", Roots([str(pair / "GTA5")]), "all", (64, 32))
    (problem,) = check_domain(domain, CITYSCAPES_19, True).problems
    assert "no pixel of any label is of a class of the network" in problem


def test_copies_that_other_programs_left_beside_the_labels_are_one_note(pair):
    for path in [*(pair / "GTA5/labels").glob("*.png")]:
        shutil.copy(path, path.with_name(f"{path.stem}_labelTrainIds.png"))
    domain = Domain("gta5", Roots([str(pair / "GTA5")]), "all", (64, 32))
    report = check_domain(domain, CITYSCAPES_19, True)
    assert report.images == 8 and report.problems == []
    assert report.notes == ["8 files *_labelTrainIds.png of other programs are passed over"]


def test_a_label_without_its_image_is_a_problem_too(pair):
    (pair / "GTA5/images/00003.png").unlink()
    domain = Domain("gta5", Roots([str(pair / "GTA5")]), "all", (64, 32))
    (problem,) = check_domain(domain, CITYSCAPES_19, True).problems
    assert problem.endswith("labels/00003.png has no image")


def test_a_split_by_formula_is_checked_in_one_pass_and_may_have_known_gaps(pair, tmp_path):
    domain = Domain("gta5", Roots([str(pair / "GTA5")]), "official", (64, 32))
    truncate(pair / "GTA5/images/00003.png")
    problems = check_domain(domain, CITYSCAPES_19, True).problems
    assert len(problems) == 24966 - 8 + 1 and problems[0] == "00009.png is missing"
    (tmp_path / "known.txt").write_text("\n".join(f"{n:05d}.png" for n in range(9, 24967)))
    (problem,) = check_domain(replace(domain, exclude=str(tmp_path / "known.txt")), CITYSCAPES_19, True).problems
    assert "00003.png" in problem


def test_an_empty_split_is_a_problem(pair):
    domain = Domain("cityscapes", Roots([str(pair / "Cityscapes")]), "test", (64, 32))
    (problem,) = check_domain(domain, CITYSCAPES_19, True).problems
    assert "no images of Cityscapes (test)" in problem


def test_the_check_tool_tells_shares_draws_sheets_and_exits_with_1_when_something_is_bad(pair, tmp_path):
    sheets = tmp_path / "sheets"
    good = script("check_dataset", "gta5", pair / "GTA5", "--sheets", sheets)
    assert good.returncode == 0 and "8 images; sizes: 64x32 (8)" in good.stdout and "% of pixels" in good.stdout
    with Image.open(sheets / "gta5.png") as sheet:
        assert sheet.size == (4 * 320, 4 * 160)
    truncate(pair / "GTA5/images/00003.png")
    options = [o for o in tiny_overrides(pair, tmp_path) if "root" in o]
    bad = tool("check_dataset", "--config", "configs/toy/adaptsegnet_multi.yml", "-o", *options, "--sheets", sheets)
    assert bad.returncode == 1 and "BAD" in bad.stdout and "00003.png" in bad.stdout
    assert all((sheets / f"{name}.png").exists() for name in ("source", "target", "validation"))
    ignored = tool("check_dataset", "gta5", pair / "GTA5", "-o", "no.such.key=1")
    assert ignored.returncode == 2 and "-o changes a configuration: name one with --config" in ignored.stderr
    wrong = tool("check_dataset", "gta6", pair)
    assert wrong.returncode == 2 and "unknown data set 'gta6': did you mean 'gta5'" in wrong.stderr


def batches(config):
    return [
        [getattr(b, n).numpy() for n in ("source_image", "source_label", "target_image")]
        for b in TrainData(config, True).batches(0)
    ]


def smaller(pair, tmp_path, *more):
    """A configuration whose training size is not the files' size."""
    sizes = [f"data.{d}.size=[48, 24]" for d in ("source", "target", "validation")]
    overrides = [*tiny_overrides(pair, tmp_path / "run"), *sizes, f"data.cache={tmp_path / 'cache'}", *more]
    return load_config(ROOT / "configs/toy/adaptsegnet_multi.yml", overrides)


@pytest.mark.parametrize("kind", FORMATS)
def test_prepared_copies_are_the_same_tensors(pair, tmp_path, kind):
    config = smaller(pair, tmp_path)
    before = batches(config)
    options = [o for o in tiny_overrides(pair, tmp_path / "run") if "root" in o]
    sizes = [f"data.{d}.size=[48, 24]" for d in ("source", "target")]
    command = ("prepare", "--config", "configs/toy/adaptsegnet_multi.yml", "--format", kind, "-o", *options, *sizes,
               f"data.cache={tmp_path / 'cache'}")  # fmt: skip
    first, second = tool(*command), tool(*command)
    assert first.returncode == 0 and "source: 8 items" in first.stdout, first.stderr
    assert "source: already prepared" in second.stdout
    for folder in (tmp_path / "cache").iterdir():
        next(folder.glob("*_image.*")).unlink()
    mended = tool(*command)  # as the error about a damaged cache advises
    assert mended.returncode == 0 and "source: 8 items" in mended.stdout, mended.stderr
    data = TrainData(config, True)
    assert data.source.cache is not None and data.target.cache is not None
    assert "(prepared)" in data.notes()[0]
    for one, other in zip(before, batches(config)):
        assert all((a == b).all() for a, b in zip(one, other))


def test_a_changed_recipe_finds_no_cache_and_a_damaged_one_is_named(pair, tmp_path):
    def files(size=(48, 24), root=pair):
        domain = Domain("gta5", Roots([str(root / "GTA5")]), "all", size)
        return DomainFiles(domain, CITYSCAPES_19, True, cache=str(tmp_path / "cache"))

    folder, size = prepare(files(), tmp_path / "cache", "png", workers=2)
    assert size == sum(p.stat().st_size for p in folder.glob("*.png"))
    assert files().cache is not None and files((40, 20)).cache is None
    name = pair / "GTA5/images/00001.png"
    shutil.copy(pair / "GTA5/images/00002.png", name)
    assert files().cache is None and digest(files()) != folder.name
    fresh, _ = prepare(files(), tmp_path / "cache", "png", workers=2)
    (fresh / "000003_label.png").unlink()
    with pytest.raises(DataError, match="cache .* is damaged .'000003_label.png' is missing or cut"):
        files()


def test_an_interrupted_preparation_leaves_no_cache(pair, tmp_path):
    domain = Domain("gta5", Roots([str(pair / "GTA5")]), "all", (48, 24))
    files = DomainFiles(domain, CITYSCAPES_19, True)
    truncate(pair / "GTA5/images/00008.png")
    with pytest.raises(DataError, match="00008.png"):
        prepare(files, tmp_path / "cache", "png", workers=1)
    assert not [p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")]


def test_three_preparations_at_once_on_one_cache_all_succeed(pair, tmp_path):
    options = [o for o in tiny_overrides(pair, tmp_path / "run") if "root" in o or "size" in o]
    command = [sys.executable, "tools/prepare.py", "--config", "configs/toy/adaptsegnet_multi.yml", "-o", *options]
    command.append(f"data.cache={tmp_path / 'cache'}")
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=LIMIT)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert len([*(tmp_path / "cache").iterdir()]) == 2, "a source, a target and nothing left over"


def test_a_preparation_that_runs_while_another_one_does_the_same_harms_neither(pair, tmp_path, monkeypatch):
    files = DomainFiles(Domain("gta5", Roots([str(pair / "GTA5")]), "all", (48, 24)), CITYSCAPES_19, True)
    decode, inner = files.pair, []

    def pair_and_more(index, size):
        if index == 3 and not inner:
            inner.append(True)
            inner.append(prepare(files, tmp_path / "cache", "png", workers=1))
        return decode(index, size)

    monkeypatch.setattr(files, "pair", pair_and_more)
    assert prepare(files, tmp_path / "cache", "png", workers=1) == inner[1]
    (left,) = (tmp_path / "cache").iterdir()
    assert len([*left.glob("*.png")]) == 16


def test_of_folders_moved_to_one_place_at_once_the_last_one_stays_whole(tmp_path):
    def move(number):
        folder = tmp_path / f".cache.{number}.partial"
        folder.mkdir()
        for part in range(20):
            (folder / f"{part}").write_text(str(number))
        publish(folder, tmp_path / "cache")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(move, range(60)))
    (left,) = tmp_path.iterdir()
    assert left.name == "cache" and len({file.read_text() for file in left.iterdir()}) == 1
    assert len([*left.iterdir()]) == 20


def test_what_a_killed_preparation_left_is_deleted_once_it_is_old(pair, tmp_path):
    files = DomainFiles(Domain("gta5", Roots([str(pair / "GTA5")]), "all", (48, 24)), CITYSCAPES_19, True)
    old, young = (tmp_path / f".{digest(files)}.{name}.partial" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    prepare(files, tmp_path, "png", workers=1)
    assert not old.exists() and young.exists()


def test_a_damaged_manifest_is_an_error_that_names_it(pair, tmp_path):
    domain = Domain("gta5", Roots([str(pair / "GTA5")]), "all", (48, 24))
    folder, _ = prepare(DomainFiles(domain, CITYSCAPES_19, True), tmp_path, "png", workers=1)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="cache .* is damaged .'manifest.json' is missing or cut"):
        DomainFiles(domain, CITYSCAPES_19, True, cache=str(tmp_path))


def predictions(pair, folder, change=lambda label: label):
    from paddle_adaptseg.core.labels import CITYSCAPES_IDS

    folder.mkdir()
    lut = CITYSCAPES_19.lut(CITYSCAPES_IDS)
    for path in (pair / "Cityscapes/gtFine/val").rglob("*_labelIds.png"):
        label = np.asarray(Image.open(path))
        name = path.name.replace("gtFine_labelIds", "leftImg8bit")
        Image.fromarray(change(lut[label])).save(folder / name)


def test_saved_predictions_are_scored_as_the_originals_script_does(pair, tmp_path):
    predictions(pair, tmp_path / "right")
    ground_truth = pair / "Cityscapes/gtFine/val"
    matrix = score_folders(ground_truth, tmp_path / "right", "cityscapes", CITYSCAPES_19, workers=2)
    assert matrix.images == 3 and matrix.miou() == 1.0 and matrix.counts.sum() == 3 * 32 * 64
    predictions(pair, tmp_path / "road", np.zeros_like)
    done = script("compute_iou", ground_truth, tmp_path / "road", "--protocols", "synthia_16,synthia_13")
    assert done.returncode == 0, done.stderr
    share = matrix.counts[0, 0] / matrix.counts.sum()
    assert f"===> {'road:':<12} {100 * share:6.2f}" in done.stdout
    assert "(synthia_16, 16 classes)" in done.stdout and "(synthia_13, 13 classes)" in done.stdout
    assert "as the original programs" not in done.stdout
    for path in ground_truth.rglob("*_labelIds.png"):  # the bus becomes unlabelled, and is predicted all the same
        label = np.asarray(Image.open(path))
        Image.fromarray(np.where(label == 28, 0, label).astype(np.uint8)).save(path)
    done = tool("compute_iou", ground_truth, tmp_path / "right")
    assert "(cityscapes_19, as the original programs" not in done.stdout
    Image.fromarray(np.full((32, 64), CITYSCAPES_19.names.index("bus"), np.uint8)).save(
        tmp_path / "right/toyville_000001_000019_leftImg8bit.png"
    )
    done = tool("compute_iou", ground_truth, tmp_path / "right")
    assert done.stdout.count("===> mIoU") == 2 and "as the original programs count it" in done.stdout, done.stdout
    assert "absent from the ground truth: bus)" in done.stdout


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda p: p.unlink(), "1 of 3 predictions are missing: .*toyville_000001"),
        (lambda p: Image.fromarray(np.zeros((16, 64), np.uint8)).save(p), "is 64x16, but its ground truth .* is 64x32"),
        (lambda p: Image.fromarray(np.full((32, 64), 19, np.uint8)).save(p), "prediction 19 is not one of 19 classes"),
        (lambda p: p.write_bytes(b""), "the file is empty"),
    ],
)
def test_a_missing_or_wrong_prediction_is_an_error_never_skipped(pair, tmp_path, fault, message):
    predictions(pair, tmp_path / "out")
    fault(tmp_path / "out/toyville_000001_000019_leftImg8bit.png")
    with pytest.raises(DataError, match=message):
        score_folders(pair / "Cityscapes/gtFine/val", tmp_path / "out", "cityscapes", CITYSCAPES_19, workers=1)


def test_two_labels_of_one_name_are_an_error_never_scored_as_one(pair, tmp_path):
    predictions(pair, tmp_path / "out")
    folder = pair / "Cityscapes/gtFine/val"
    (folder / "other").mkdir()
    shutil.copy(next(folder.rglob("*_labelIds.png")), folder / "other")
    with pytest.raises(DataError, match="would be compared with one prediction"):
        score_folders(folder, tmp_path / "out", "cityscapes", CITYSCAPES_19, workers=1)


def test_a_small_dev_shm_is_noticed_said_and_worked_around(tiny, monkeypatch):
    expected = batches(tiny("toy/adaptsegnet_multi", "schedule.stop=2"))
    usage = namedtuple("usage", "total used free")(64 * 2**20, 48 * 2**20, 16 * 2**20)
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda path: usage)
    config = tiny("toy/adaptsegnet_multi", "schedule.stop=2", "data.workers=2")
    assert any("/dev/shm is too small for 2 loader workers" in line for line in TrainData(config, True).notes())
    for one, other in zip(expected, batches(config)):
        assert all((a == b).all() for a, b in zip(one, other))

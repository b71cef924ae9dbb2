"""Every data set in its true format: folders, palettes, 16-bit channels, names; from folders and from archives."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.config.schema import Domain, Roots
from paddle_adaptseg.core.errors import ConfigError, DataError
from paddle_adaptseg.core.labels import CITYSCAPES_19, CITYSCAPES_IDS, LABEL_SPACES, SYNTHIA_13, SYNTHIA_16, SYNTHIA_IDS
from paddle_adaptseg.data import TrainData
from paddle_adaptseg.data.catalog import DATASETS, dataset_spec
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.decode import decode_rgb
from paddle_adaptseg.data.files import Ref
from paddle_adaptseg.data.pairs import list_items
from paddle_adaptseg.data.prepared import prepare
from paddle_adaptseg.evaluation.protocol import class_sets
from paddle_adaptseg.training.run import fit

H, W = 12, 19
GROUND_TRUTH = np.tile(np.arange(W, dtype=np.uint8), (H, 1))  # every class a column
GROUND_TRUTH[0] = 255
RAW = {name: raw for raw, name in CITYSCAPES_IDS.items()}


def raw_ids():
    table = np.zeros(256, np.uint8)  # 0: unlabelled
    table[:19] = [RAW[n] for n in CITYSCAPES_19.names]
    return table[GROUND_TRUTH]


def write_image(path, seed, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (H, W, 3)).astype(np.uint8)).save(path, kind)


def write_ids(path, ids=None, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(raw_ids() if ids is None else ids)
    if palette:
        image = image.convert("P")
        image.putpalette([(i * 37) % 256 for i in range(768)])
    image.save(path)


def write_synthia_label(path):
    """16-bit colour: class in red, instance in green, as SYNTHIA-RAND-CITYSCAPES stores it."""
    table = np.zeros(256, np.uint16)
    for raw, name in SYNTHIA_IDS.items():
        table[CITYSCAPES_19.names.index(name)] = raw
    label = np.zeros((H, W, 3), np.uint16)
    label[..., 2] = table[GROUND_TRUTH]
    label[..., 1] = 976
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), label)


def gta5(root, n):
    write_image(root / f"images/{n:05d}.png", n)
    write_ids(root / f"labels/{n:05d}.png", palette=True)


def synthia(root, n):
    write_image(root / f"RGB/{n:07d}.png", n)
    write_synthia_label(root / f"GT/LABELS/{n:07d}.png")


def synscapes(root, n):
    write_image(root / f"img/rgb/{n}.png", n)
    write_ids(root / f"img/class/{n}.png")


def cityscapes(root, n, image="leftImg8bit/{}_leftImg8bit.png", kind="labelIds", ids=None):
    base = f"val/ulm/ulm_{n:06d}_000019"
    write_image(root / image.format(base), n)
    write_ids(root / f"gtFine/{base}_gtFine_{kind}.png", ids)
    write_image(root / f"gtFine/{base}_gtFine_color.png", n)  # lies beside and must not be taken for a label


def foggy(root, n):
    cityscapes(root, n, "leftImg8bit_foggy/{}_leftImg8bit_foggy_beta_0.02.png")
    write_image(root / f"leftImg8bit_foggy/val/ulm/ulm_{n:06d}_000019_leftImg8bit_foggy_beta_0.01.png", n)


def foggy_dbf(root, n):
    cityscapes(root, n, "leftImg8bit_foggyDBF/{}_leftImg8bit_foggy_beta_0.02.png")
    write_image(root / f"leftImg8bit_foggyDBF/val/ulm/ulm_{n:06d}_000019_leftImg8bit_foggy_beta_0.005.png", n)


def crosscity(root, n):
    write_image(root / f"Rome/Images/Test/pano_{n:05d}_2_180.png", n)
    write_ids(root / f"Rome/Labels/Test/pano_{n:05d}_2_180_eval.png")


def acdc(root, n):
    for part, tail in (("rgb_anon", "rgb_anon"), ("gt", "gt_labelTrainIds")):
        path = root / f"{part}/fog/val/GOPR0476/GOPR0476_frame_{n:06d}_{tail}.png"
        write_image(path, n) if part == "rgb_anon" else write_ids(path, GROUND_TRUTH)


def dark_zurich(root, n):
    write_image(root / f"rgb_anon/val/night/GOPR0356/GOPR0356_frame_{n:06d}_rgb_anon.png", n)
    write_ids(root / f"gt/val/night/GOPR0356/GOPR0356_frame_{n:06d}_gt_labelTrainIds.png", GROUND_TRUTH)
    write_image(root / f"gt/val/night/GOPR0356/GOPR0356_frame_{n:06d}_gt_invGray.png", n)


def bdd100k(root, n):
    write_image(root / f"images/10k/val/7d06fefd-{n:08d}.jpg", n, "JPEG")
    write_ids(root / f"labels/sem_seg/masks/val/7d06fefd-{n:08d}.png", GROUND_TRUTH)


def paddleseg(root, n):
    write_image(root / f"images/{n}.jpg", n, "JPEG")
    write_ids(root / f"annotations/{n}.png", GROUND_TRUTH)
    with (root / "train.txt").open("a") as handle:
        handle.write(f"images/{n}.jpg annotations/{n}.png\n")


WRITERS = {
    "paddleseg": (paddleseg, "all"),
    "gta5": (gta5, "all"),
    "synthia": (synthia, "all"),
    "synscapes": (synscapes, "all"),
    "cityscapes": (cityscapes, "val"),
    "foggy_cityscapes": (foggy, "val"),
    "foggy_cityscapes_dbf": (foggy_dbf, "val"),
    "crosscity": (crosscity, "Test"),
    "acdc": (acdc, "val"),
    "dark_zurich": (dark_zurich, "val"),
    "bdd100k": (bdd100k, "val"),
}


def make(root, name, count=3):
    writer, split = WRITERS[name]
    for n in range(1, count + 1):
        writer(root, n)
    return Domain(name, Roots([str(root)]), split, (W, H), list=str(root / "train.txt") if name == "paddleseg" else "")


def archive(folder: Path, path: Path, prefix="", pick=lambda name: True) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as handle:
        for file in sorted(folder.rglob("*.*")):
            name = file.relative_to(folder).as_posix()
            if pick(name):
                handle.write(file, prefix + name)
    return str(path)


def moved(domain, *roots, **changes):
    from dataclasses import replace

    return replace(domain, root=Roots(map(str, roots)), **changes)


def test_every_row_of_the_catalog_has_a_fixture_here():
    assert set(WRITERS) == set(DATASETS)


@pytest.mark.parametrize("name", WRITERS)
def test_a_data_set_in_its_true_format_reads_to_the_right_train_ids(tmp_path, name):
    files = DomainFiles(make(tmp_path, name), CITYSCAPES_19, labelled=True)
    assert len(files) == 3
    for index in range(3):
        assert files.image(index).shape == (H, W, 3)
        assert files.label(index).tolist() == GROUND_TRUTH.tolist()


@pytest.mark.parametrize("name", WRITERS)
def test_an_archive_gives_the_same_arrays_as_its_folder(tmp_path, name):
    domain = make(tmp_path / "folder", name)
    zipped = archive(tmp_path / "folder", tmp_path / "all.zip", prefix="Some/Top Folder/")
    one, other = (DomainFiles(d, CITYSCAPES_19, labelled=True) for d in (domain, moved(domain, zipped)))
    assert len(one) == len(other) == 3
    for index in range(3):
        assert (one.image(index) == other.image(index)).all() and (one.label(index) == other.label(index)).all()
    assert "all.zip!Some/Top Folder/" in other.name(0)


def test_ten_parts_a_pattern_and_a_folder_of_archives_are_one_data_set(tmp_path):
    domain = make(tmp_path / "folder", "gta5", 4)
    (tmp_path / "zips").mkdir()
    for number in range(1, 5):
        for part in ("images", "labels"):
            archive(tmp_path / "folder", tmp_path / f"zips/{number:02d}_{part}.zip",
                    pick=lambda name, wanted=f"{part}/{number:05d}.png": name == wanted)  # fmt: skip
    expected = [i.image.name for i in list_items(domain, True).items]
    for roots in ((tmp_path / "zips",), (tmp_path / "zips/*.zip",), sorted((tmp_path / "zips").glob("*.zip"))):
        assert [i.image.name for i in list_items(moved(domain, *roots), True).items] == expected


def test_zip_and_folder_give_identical_batches_in_every_worker(tiny, toy_root, tmp_path):
    plain = tiny("toy/adaptsegnet_multi", "schedule.stop=3")
    paths = {d: archive(toy_root / d, tmp_path / f"{d}.zip") for d in ("GTA5", "Cityscapes")}
    zipped = tiny("toy/adaptsegnet_multi", "schedule.stop=3", "data.workers=2",
                  f"data.source.root={paths['GTA5']}", f"data.target.root={paths['Cityscapes']}")  # fmt: skip
    for one, other in zip(*(TrainData(c, True).batches(0) for c in (plain, zipped))):
        for name in ("source_image", "source_label", "target_image"):
            assert (getattr(one, name).numpy() == getattr(other, name).numpy()).all()


def test_cityscapes_labels_may_be_train_ids(tmp_path):
    for n in (1, 2):
        cityscapes(tmp_path, n, kind="labelTrainIds", ids=GROUND_TRUTH)
    files = DomainFiles(Domain("cityscapes", Roots([str(tmp_path)]), "val", (W, H)), CITYSCAPES_19, labelled=True)
    assert (files.label(0) == GROUND_TRUTH).all()


def test_images_and_labels_may_differ_in_size(tmp_path):
    domain = make(tmp_path, "gta5", 1)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "images/00001.png")
    files = DomainFiles(domain, CITYSCAPES_19, labelled=True)
    assert files.image(0).shape == (H, W, 3) and files.label(0, files.size).shape == (H, W)
    image, label, note = files.pair(0, (2 * W, 2 * H))
    assert image.shape == (2 * H, 2 * W, 3) and (label == GROUND_TRUTH.repeat(2, 0).repeat(2, 1)).all()
    assert note.endswith(f"labels/00001.png' is {W}x{H}, but its image is 60x40")


@pytest.mark.parametrize("workers", [0, 2])
def test_labels_of_another_size_are_trained_on_told_once_and_counted(tmp_path, toy_root, tiny, capsys, workers):
    shutil.copytree(toy_root / "GTA5", tmp_path / "GTA5")
    for number in (2, 3, 5):
        Image.fromarray(np.full((46, 90), 7, np.uint8)).save(tmp_path / f"GTA5/labels/{number:05d}.png")
    config = tiny("toy/source_only", f"data.source.root={tmp_path / 'GTA5'}", f"data.workers={workers}")
    assert fit(config).step == 6  # two passes over six images
    said = capsys.readouterr().out.splitlines()
    assert len([line for line in said if "is 90x46, but its image is 96x48" in line]) == 1
    assert said.count("labels of another size than their images, resized: 3") == 1


def test_files_of_all_patterns_are_read_and_the_first_pattern_counts(tmp_path):
    for n, (city, ending) in enumerate((("Rome", "jpg"), ("Rio", "png"), ("Tokyo", "png"), ("Tokyo", "jpg"))):
        write_image(tmp_path / f"{city}/Images/Test/a.{ending}", n, {"jpg": "JPEG", "png": "PNG"}[ending])
        write_ids(tmp_path / f"{city}/Labels/Test/a_eval.png")
    listing = list_items(Domain("crosscity", Roots([str(tmp_path)]), "Test", (W, H)), True)
    assert [i.image.name for i in listing.items] == [
        "Rio/Images/Test/a.png", "Rome/Images/Test/a.jpg", "Tokyo/Images/Test/a.png"]  # fmt: skip
    assert listing.alone == ()


def test_each_image_is_read_with_the_label_source_that_has_its_label(tmp_path):
    cityscapes(tmp_path, 1)
    cityscapes(tmp_path, 2, kind="labelTrainIds", ids=GROUND_TRUTH)
    cityscapes(tmp_path, 3)
    cityscapes(tmp_path, 3, kind="labelTrainIds", ids=np.zeros_like(GROUND_TRUTH))  # its raw ids count
    domain = Domain("cityscapes", Roots([str(tmp_path)]), "val", (W, H))
    assert list_items(domain, True).alone == ()
    files = DomainFiles(domain, CITYSCAPES_19, labelled=True)
    assert [files.items[n].source for n in range(3)] == [0, 1, 0]
    assert all((files.label(n) == GROUND_TRUTH).all() for n in range(3))
    folder, _ = prepare(files, tmp_path / "cache", "png", workers=1)
    prepared = DomainFiles(domain, CITYSCAPES_19, labelled=True, cache=str(tmp_path / "cache"))
    assert prepared.cache.folder == folder and all((prepared.label(n, (W, H)) == GROUND_TRUTH).all() for n in range(3))


def test_the_official_split_is_a_formula_and_a_gap_is_named(tmp_path):
    domain = moved(make(tmp_path, "gta5", 2), tmp_path, split="official")
    with pytest.raises(DataError, match=r"24964 files of GTA5 .* are missing: 00003.png"):
        list_items(domain, False)


def test_lists_exclusions_and_filters_choose_images(tmp_path):
    domain = make(tmp_path / "gta", "gta5", 4)

    def names(**changes):
        return [Path(i.image.name).stem for i in list_items(moved(domain, *domain.root, **changes), True).items]

    (tmp_path / "some.txt").write_text("00003.png\n00001.png 00001.png\n")
    (tmp_path / "bad.txt").write_text("images/00002\n")
    assert names(list=str(tmp_path / "some.txt")) == ["00003", "00001"]
    assert names(exclude=str(tmp_path / "bad.txt")) == ["00001", "00003", "00004"]
    (tmp_path / "bad.txt").write_text("00002\n00099.png\n")  # a known bad file need not be there
    assert names(exclude=str(tmp_path / "bad.txt")) == ["00001", "00003", "00004"]
    (tmp_path / "some.txt").write_text("00009.png\n")
    (tmp_path / "bad.txt").write_text("\ufeffimages/00002.png  # cannot read it: no image\n", encoding="utf-8")
    assert names(exclude=str(tmp_path / "bad.txt")) == ["00001", "00003", "00004"]
    for part in ("images", "labels"):
        (tmp_path / f"gta/{part}/00004.png").rename(tmp_path / f"gta/{part}/00004 b.png")
    (tmp_path / "bad.txt").write_text("images/00004 b.png  # cannot read it: no image\n")
    assert names(exclude=str(tmp_path / "bad.txt")) == ["00001", "00002", "00003"]
    with pytest.raises(DataError, match="1 lines of .*some.txt' name no image .*: 00009.png"):
        names(list=str(tmp_path / "some.txt"))


@pytest.mark.parametrize(
    ("name", "lines", "found"),
    [
        ("gta5", "2\n1\n", ["00002", "00001"]),
        ("synthia", "1\n", ["0000001"]),
        ("cityscapes", "val_ulm_000002_000019\n", ["ulm_000002_000019_leftImg8bit"]),
        ("crosscity", "pano_00002_2_180\n", ["pano_00002_2_180"]),
    ],
)
def test_the_lists_of_maxsquare_are_read(tmp_path, name, lines, found):
    (tmp_path / "list.txt").write_text(lines)
    domain = moved(make(tmp_path, name), tmp_path, list=str(tmp_path / "list.txt"))
    assert [Path(i.image.name).stem for i in list_items(domain, True).items] == found


def test_a_list_of_paddleseg_names_images_and_labels_in_its_own_order_with_any_separator(tmp_path):
    domain = make(tmp_path, "paddleseg")
    for separator in (" ", ",", "\t"):
        (tmp_path / "train.txt").write_text(f"images/2.jpg{separator}annotations/1.png\nimages/1.jpg\n")
        items = list_items(domain, False).items
        assert [item.image.name for item in items] == ["images/2.jpg", "images/1.jpg"]
        (tmp_path / "train.txt").write_text(f"images/2.jpg{separator}annotations/1.png\n")
        (item,) = list_items(domain, True).items
        assert (item.image.name, item.label.name) == ("images/2.jpg", "annotations/1.png")
    for part, name, other in (("images", "2.jpg", "b,2.jpg"), ("annotations", "1.png", "b,1.png")):
        (tmp_path / part / other).write_bytes((tmp_path / part / name).read_bytes())
    (tmp_path / "train.txt").write_text("images/b,2.jpg annotations/b,1.png\n")  # a comma that separates nothing
    (item,) = list_items(domain, True).items
    assert (item.image.name, item.label.name) == ("images/b,2.jpg", "annotations/b,1.png")
    (tmp_path / "out.txt").write_text("images/1.jpg  # cannot read it: as data.quarantine wrote\n")
    (tmp_path / "train.txt").write_text("images/1.jpg a\nimages/2.jpg annotations/1.png\n")
    assert len(list_items(moved(domain, tmp_path, exclude=str(tmp_path / "out.txt")), True).items) == 1


@pytest.mark.parametrize(("line", "message"), [
    ("images/9.jpg annotations/1.png", "'images/9.jpg' is not in"),
    ("images/1.jpg annotations/9.png", "'annotations/9.png' is not in"),
    ("images/1.jpg", "images/1.jpg has no label in the list"),
    ("images/1.jpg annotations/1.png 3", "must name an image and its label"),
    ("", "names no images"),
])  # fmt: skip
def test_a_list_of_paddleseg_that_names_what_is_not_there_is_an_error(tmp_path, line, message):
    domain = make(tmp_path, "paddleseg")
    (tmp_path / "train.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        list_items(domain, True)
    with pytest.raises(DataError, match="'list' must name a file"):
        list_items(moved(domain, tmp_path, list=""), True)


def test_a_list_of_paddleseg_with_classes_of_ones_own(tmp_path):
    domain = make(tmp_path, "paddleseg")
    classes = ", ".join(f"{{name: c{n}, ids: [{n}], colour: [{n}, 0, 0]}}" for n in range(W))
    (tmp_path / "mine.yml").write_text(f"classes: [{classes}]")
    own = str(tmp_path / "mine.yml")
    files = DomainFiles(moved(domain, tmp_path, dataset=own), dataset_spec(own).classes, labelled=True)
    assert len(files) == 3 and (files.label(0) == GROUND_TRUTH).all()


def test_a_number_in_a_list_means_the_file_of_exactly_that_name_first(tmp_path):
    for name in ("1", "01", "0"):
        write_image(tmp_path / f"images/{name}.png", 0)
    (tmp_path / "list.txt").write_text("1\n0\n01\n")
    domain = Domain("gta5", Roots([str(tmp_path)]), "all", (W, H), list=str(tmp_path / "list.txt"))
    assert [Path(i.image.name).stem for i in list_items(domain, False).items] == ["1", "0", "01"]


def test_the_target_of_dark_zurich_is_its_night_images(tmp_path):
    for part in ("night", "twilight", "day"):
        write_image(tmp_path / f"rgb_anon/train/{part}/GOPR0351/GOPR0351_frame_000001_rgb_anon.png", 0)
    config = load_config(
        ROOT / "configs/cityscapes_dark_zurich/adaptsegnet_multi.yml", [f"data.target.root={tmp_path}"]
    )
    assert [i.image.name.split("/")[2] for i in list_items(config.data.target, False).items] == ["night"]


def test_an_archive_that_must_be_unpacked_first_is_named(tmp_path):
    (tmp_path / "SYNTHIA_RAND_CITYSCAPES.rar").write_bytes(b"Rar!")
    for root in (tmp_path, tmp_path / "SYNTHIA_RAND_CITYSCAPES.rar", tmp_path / "*.rar"):
        with pytest.raises(DataError, match=r"CITYSCAPES.rar' cannot be read as it is.*: unpack it"):
            list_items(Domain("synthia", Roots([str(root)]), "all", (W, H)), True)


def test_synthia_with_swapped_channels_is_refused(tmp_path):
    domain = make(tmp_path, "synthia", 1)
    path = str(tmp_path / "GT/LABELS/0000001.png")
    right = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    right[..., 1] = 0
    cv2.imwrite(path, right[..., ::-1])
    with pytest.raises(DataError, match="0000001.png' has nothing in its red channel.*were its channels swapped"):
        DomainFiles(domain, CITYSCAPES_19, labelled=True).label(0)
    cv2.imwrite(path, np.zeros_like(right))  # nothing but void may be
    assert (DomainFiles(domain, CITYSCAPES_19, labelled=True).label(0) == 255).all()


def test_cityscapes_is_divided_by_city(tmp_path):
    for city in ("aachen", "bochum", "ulm"):
        write_image(tmp_path / f"leftImg8bit/train/{city}/{city}_000000_000019_leftImg8bit.png", 0)
    domain = Domain("cityscapes", Roots([str(tmp_path)]), "train", (W, H))

    def cities(**rule):
        return [i.image.name.split("/")[2] for i in list_items(moved(domain, tmp_path, **rule), False).items]

    assert cities(only={"city": ("aachen", "ulm")}) == ["aachen", "ulm"]
    assert cities(without={"city": ("aachen", "ulm")}) == ["bochum"]
    with pytest.raises(DataError, match="no image has city 'aachn': did you mean 'aachen'"):
        cities(only={"city": ("aachn",)})


@pytest.mark.parametrize(
    ("writer", "message"),
    [
        (
            lambda p: Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(p),
            "must be a 16-bit colour image, but is uint8",
        ),
        (lambda p: Image.fromarray(np.zeros((H, W), np.uint8)).save(p), "but is uint8, 1 channels"),
        (lambda p: cv2.imwrite(str(p), np.full((H, W, 3), 976, np.uint16)), "holds the id 976"),
    ],
)
def test_another_channel_or_the_colour_folder_of_synthia_is_recognised(tmp_path, writer, message):
    domain = make(tmp_path, "synthia", 1)
    writer(tmp_path / "GT/LABELS/0000001.png")
    with pytest.raises(DataError, match=message):
        DomainFiles(domain, CITYSCAPES_19, labelled=True).label(0)


OWN = """
title: Our town
images: ["pictures/{split}/{name}.png"]
labels: ["masks/{split}/{name}.png"]
splits: [day, night]
classes:
  - {name: road, ids: [3, 4], colour: [128, 64, 128]}
  - {name: tram, ids: [9], colour: [0, 80, 100]}
"""


def test_a_yaml_file_makes_a_data_set_and_sizes_the_head(tmp_path, tiny):
    own = tmp_path / "town.yml"
    own.write_text(OWN)
    label = np.full((48, 96), 255, np.uint8)
    label[:, :30], label[:, 30:60], label[:, 60:90] = 3, 9, 4
    for split in ("day", "night"):
        for n in range(3):
            Path(tmp_path / f"pictures/{split}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(n).integers(0, 255, (48, 96, 3)).astype(np.uint8)).save(
                tmp_path / f"pictures/{split}/{n}.png"
            )
            write_ids(tmp_path / f"masks/{split}/{n}.png", label)
    spec = dataset_spec(str(own))
    assert spec.classes.names == ("road", "tram")
    files = DomainFiles(Domain(str(own), Roots([str(tmp_path)]), "night", (96, 48)), spec.classes, labelled=True)
    assert [np.flatnonzero(np.bincount(files.label(0).ravel())).tolist()] == [[0, 1, 255]]

    first = tiny("toy/source_only", "schedule.stop=1", "run.eval_every=0")
    fit(first)
    where = [f"data.{d}.{k}={v}" for d, split in (("source", "day"), ("target", "night"), ("validation", "night"))
             for k, v in (("dataset", own), ("root", tmp_path), ("split", split))]  # fmt: skip
    second = tiny("toy/adaptsegnet_multi", *where, f"data.classes={own}", "schedule.stop=2",
                  f"run.restore_from={tmp_path / 'run'}", f"run.output={tmp_path / 'own'}")  # fmt: skip
    assert fit(second).miou >= 0


def test_heads_of_another_class_count_are_reported_as_new(tiny, tmp_path, capsys):
    fit(tiny("toy/source_only", "schedule.stop=1", "run.eval_every=0"))
    fit(tiny("toy/source_only", "data.classes=synthia_16", "schedule.stop=1", "run.eval_every=0",
             f"run.restore_from={tmp_path / 'run'}", f"run.output={tmp_path / 'new'}"))  # fmt: skip
    assert "initialised anew: 16 of another shape: heads.aux.branches.0.weight" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title: Our town", "titel: Our town"), "unknown key 'titel': did you mean 'title'"),
        (("ids: [9]", "ids: [4]"), "must have distinct names and ids"),
        (("ids: [9]", "ids: [300]"), r"must lie in 0\.\.255"),
        (("colour: [0, 80, 100]", "colour: [0, 80]"), r"'classes\[1\].colour' must be a list of 3"),
    ],
)
def test_a_wrong_data_set_file_is_named_with_its_fault(tmp_path, change, message):
    (tmp_path / "town.yml").write_text(OWN.replace(*change))
    with pytest.raises(ConfigError, match=message):
        dataset_spec(str(tmp_path / "town.yml"))


def test_label_spaces_are_the_published_class_sets():
    assert [CITYSCAPES_19.names.index(n) for n in SYNTHIA_16.names] == [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18]  # fmt: skip
    assert [CITYSCAPES_19.names.index(n) for n in SYNTHIA_13.names] == [0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18]
    assert LABEL_SPACES["crosscity_13"] == SYNTHIA_13
    lut = CITYSCAPES_19.lut(SYNTHIA_IDS)
    published = {
        3: 0,
        4: 1,
        2: 2,
        21: 3,
        5: 4,
        7: 5,
        15: 6,
        9: 7,
        6: 8,
        1: 10,
        10: 11,
        17: 12,
        8: 13,
        19: 15,
        12: 17,
        11: 18,
    }
    assert {raw: int(lut[raw]) for raw in published} == published
    assert all(lut[raw] == 255 for raw in (0, 13, 14, 22))


def test_head_and_protocols_are_separate_and_a_set_outside_the_head_is_refused(tiny):
    config = tiny("toy/source_only", "data.protocols=[synthia_16, synthia_13]")
    assert {k: len(v) for k, v in class_sets(config).items()} == {"synthia_16": 16, "synthia_13": 13}
    with pytest.raises(ConfigError, match="unknown class 'terrain'"):
        class_sets(tiny("toy/source_only", "data.classes=synthia_16", "data.protocols=[cityscapes_19]"))


def test_a_label_space_that_shares_no_class_is_refused_and_a_partial_one_is_told(tmp_path, tiny):
    domain = make(tmp_path, "gta5", 1)
    own = tmp_path / "town.yml"
    own.write_text(OWN.replace("name: road", "name: street"))
    with pytest.raises(DataError, match="shares no class with the network: it has .*; is data.classes right"):
        DomainFiles(domain, dataset_spec(str(own)).classes, labelled=True)
    files = DomainFiles(domain, SYNTHIA_16, labelled=True)
    assert files.unknown == ["terrain", "train", "truck"]
    notes = TrainData(tiny("toy/source_only", "data.classes=synthia_16"), False).notes()
    assert "source: labels of classes that the network does not predict are ignored: terrain, train, truck" in notes


def test_images_with_an_orientation_are_read_as_stored(tmp_path):
    path = tmp_path / "photo.jpg"
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif, quality=95)
    for size in (None, (20, 10)):
        array = decode_rgb(Ref(str(tmp_path), "photo.jpg"), size).astype(int)
        width, height = size or (80, 40)
        assert array.shape == (height, width, 3)
        assert array[:, : width // 4].min() > 200 and array[:, -width // 4 :].max() < 60


def test_what_macos_adds_to_archives_is_passed_over(tmp_path):
    domain = make(tmp_path / "folder", "gta5", 2)
    for name in ("__MACOSX/images/._00001.png", "images/._00002.png"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(b"junk")
    zipped = archive(tmp_path / "folder", tmp_path / "mac.zip")
    assert len(list_items(moved(domain, zipped), True).items) == 2
    assert len(list_items(domain, True).items) == 2

"""Mounted data sets are told by their listings, results go to what is kept, and what is short is said."""

from __future__ import annotations

import json
import zipfile
from collections import namedtuple

import pytest
from conftest import ROOT

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.core.errors import ConfigError, DataError
from paddle_adaptseg.lab import aistudio
from paddle_adaptseg.lab.aistudio import check_room, find_places

GAME = [f"{part}/{i:05d}.png" for part in ("images", "labels") for i in (1, 2, 3)]
STREET = [
    name
    for split, city in (("train", "aachen"), ("val", "ulm"), ("test", "bonn"))
    for name in (
        f"leftImg8bit/{split}/{city}/{city}_000000_000019_leftImg8bit.png",
        f"gtFine/{split}/{city}/{city}_000000_000019_gtFine_labelIds.png",
        f"gtFine/{split}/{city}/{city}_000000_000019_gtFine_color.png",
    )
]
SYNTHIA = [f"{part}/{i:07d}.png" for part in ("RGB", "GT/LABELS") for i in (0, 1)]


def make_zip(path, names, above=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(above + name, b"")


@pytest.fixture
def home(tmp_path):
    """An AI Studio home: data sets as zips under numbers that say nothing, and a work folder."""
    data = tmp_path / "data"
    make_zip(data / "data7/01_images.zip", GAME[:3])
    make_zip(data / "data7/01_labels.zip", GAME[3:])
    make_zip(data / "data40/archive.zip", STREET, "Cityscapes/")
    make_zip(data / "data5/rand.zip", SYNTHIA, "RAND_CITYSCAPES/")
    make_zip(data / "data9/flowers.zip", ["images/rose.png", "labels/rose.png", "images/1.png"])
    (data / "data9/broken.zip").write_bytes(b"not an archive")
    (data / "data9/init.pth").write_bytes(b"")
    (tmp_path / "work").mkdir()
    return tmp_path


def test_data_sets_are_found_by_what_their_archives_list(home):
    places = find_places(home)
    assert {name: (found.images, found.labels) for name, found in places.found.items()} == {
        "gta5": (3, 3),
        "synthia": (2, 2),
        "cityscapes": (3, 3),
    }
    assert places.roots("gta5") == tuple(str(home / f"data/data7/01_{part}.zip") for part in ("images", "labels"))
    assert places.roots("cityscapes") == (str(home / "data/data40/archive.zip"),)
    assert places.weights == (str(home / "data/data9/init.pth"),)
    assert "cityscapes: 3 images, 3 labels in" in repr(places) and "flowers" not in repr(places)


def test_overrides_bring_roots_and_the_kept_folder_into_a_configuration(home):
    lines = find_places(home).overrides("gta5", "cityscapes", "my run")
    config = load_config(ROOT / "configs/gta5_cityscapes/adaptsegnet_multi.yml", lines)
    assert len(config.data.source.root) == 2 and config.data.source.root[0].endswith("01_images.zip")
    assert config.data.target.root == config.data.validation.root == (str(home / "data/data40/archive.zip"),)
    assert config.run.output == str(home / "work/checkpoint/my run")


def test_an_unpacked_folder_counts_and_a_whole_copy_is_preferred_to_parts(home):
    folder = home / "data/data1/unpacked/GTA5"
    for name in GAME:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    found = find_places(home).found["gta5"]
    assert found.roots == (str(folder),) and (found.images, found.labels) == (3, 3)


def test_named_roots_win_over_what_is_found(home):
    elsewhere = home / "elsewhere.zip"
    make_zip(elsewhere, GAME)
    places = find_places(home, gta5=elsewhere, work=home / "here")
    assert places.roots("gta5") == (str(elsewhere),) and "cityscapes" in places.found
    assert json.loads(places.overrides("gta5", "cityscapes", "r")[-1].split("=", 1)[1]).startswith(str(home / "here"))
    pattern = find_places(home, gta5=str(home / "data/data7/*.zip")).found["gta5"]
    assert pattern.images == pattern.labels == 3
    with pytest.raises(DataError, match="'absent.zip' does not exist"):
        find_places(home, gta5="absent.zip")
    with pytest.raises(ConfigError, match="unknown data set 'gta'"):
        find_places(home, gta=str(elsewhere))


def test_what_is_absent_or_only_a_tar_is_said_with_the_way_out(home):
    (home / "data/data40/archive.zip").unlink()
    with pytest.raises(DataError, match=r"Cityscapes was not found below .*find_places\(cityscapes="):
        find_places(home).roots("cityscapes")
    tar = home / "data/data64/cityscapes.tar"
    tar.parent.mkdir()
    tar.write_bytes(b"")
    with pytest.raises(DataError, match=f"unpack it at the start of a session: tar -xf {tar} -C {tar.parent}"):
        find_places(home).roots("cityscapes")
    rar = tar.rename(tar.with_suffix(".rar"))  # as SYNTHIA comes
    with pytest.raises(DataError, match=f"unpack it at the start of a session: unrar x {rar} {rar.parent}/"):
        find_places(home).roots("cityscapes")


def test_without_mounted_data_results_go_to_the_current_folder(tmp_path):
    places = find_places(tmp_path)
    assert places.found == {} and str(places.work) == "."


def test_memory_disk_and_time_are_told(home, monkeypatch):
    (home / "work/big").write_bytes(b"x" * 2**20)
    places = find_places(home)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(aistudio.shutil, "disk_usage", lambda path: usage(64 * 2**20, 0, 64 * 2**20))
    memory, disk, session = check_room(places, hours=6, quota_gb=0.05)
    assert "0.06 of 0.06 GB free in /dev/shm" in memory
    assert "0.0 GB left" in disk and "of 0.05 GB used" in disk
    assert "6 hours" in session
    assert "quota" in check_room(places)[1] and "no limit" in check_room(places)[2]

"""Files that no data set should hold: every one is refused in one line, soon, and never hangs a training."""

from __future__ import annotations

import os
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from paddle_adaptseg.config.schema import Domain, Roots
from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.core.labels import CITYSCAPES_19
from paddle_adaptseg.data import sampling
from paddle_adaptseg.data.check import check_domain
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.files import Ref
from paddle_adaptseg.data.pairs import list_items
from paddle_adaptseg.training.run import fit

NAME = "images/00003.png"


def encrypted(path: Path) -> None:
    """A member that its headers call encrypted."""
    with zipfile.ZipFile(path) as archive:
        local = archive.getinfo(NAME).header_offset
    data = bytearray(path.read_bytes())
    data[local + 6] |= 1
    data[data.rindex(NAME.encode()) - 46 + 8] |= 1
    path.write_bytes(data)


def lying(path: Path, size: int) -> None:
    """A member whose listing promises another size than it unpacks to."""
    data = bytearray(path.read_bytes())
    start = data.rindex(NAME.encode()) - 46
    data[start + 24 : start + 28] = struct.pack("<I", size)
    path.write_bytes(data)


def member_of_unknown_method(path: Path) -> None:
    data = bytearray(path.read_bytes())
    start = data.rindex(NAME.encode()) - 46
    data[start + 10 : start + 12] = struct.pack("<H", 97)
    path.write_bytes(data)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def zipped(root: Path) -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root).as_posix())
    return path


def bomb(path: Path, method: int = zipfile.ZIP_LZMA) -> None:
    """The member becomes 40 MB of zeros, of which the listing promises 2 MB."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, NAME: bytes(40 * 2**20)}.items():
            archive.writestr(name, content, method if name == NAME else zipfile.ZIP_STORED)
    lying(path, 2**21)


IN_ARCHIVES = {
    "encrypted": (encrypted, "is encrypted"),
    "LZMA bomb": (bomb, "is packed by a method other than deflate"),
    "unknown method": (member_of_unknown_method, "is packed by a method other than deflate"),
}
IN_FOLDERS = {"pipe": (fifo, "is no regular file"), "device": (endless, "is no regular file")}


@pytest.fixture
def hostile(toy_root, tmp_path):
    """hostile(name) -> the root of a GTA5 with one such file."""

    def build(name: str) -> Path:
        shutil.copytree(toy_root / "GTA5", tmp_path / "GTA5")
        if name in IN_FOLDERS:
            IN_FOLDERS[name][0](tmp_path / "GTA5" / NAME)
            return tmp_path / "GTA5"
        path = zipped(tmp_path / "GTA5")
        IN_ARCHIVES[name][0](path)
        return path

    return build


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", [*IN_ARCHIVES, *IN_FOLDERS])
def test_a_hostile_file_ends_a_training_in_one_line_that_names_it(trainer, hostile, name, workers):
    options = [f"data.source.root={hostile(name)}", f"data.workers={workers}"]
    error = trainer("run", options=options).wait().error
    assert NAME in error
    assert {**IN_ARCHIVES, **IN_FOLDERS}[name][1] in error


@pytest.mark.parametrize("workers", [0, 2])
def test_a_hostile_file_can_be_passed_over(trainer, hostile, workers):
    options = [f"data.source.root={hostile('encrypted')}", f"data.workers={workers}", "data.quarantine=1"]
    training = trainer("run", options=options).wait()
    assert training.code == 0 and "passed over (1 of at most 1)" in training.text, training.text


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_more_of_a_member_is_unpacked_than_its_listing_promises(hostile, method):
    path = hostile("encrypted").with_name("bomb.zip")
    zipped(path.with_name("GTA5")).rename(path)
    bomb(path, method)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=f"bomb.zip!{NAME}'"):
            Ref(str(path), NAME).read()
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_whole_whether_they_are_packed_or_not(tmp_path, method):
    content = os.urandom(100_000) + bytes(100_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.png", content)
        archive.writestr("empty.png", b"")
    assert Ref(str(tmp_path / "a.zip"), "a.png").read() == content
    assert Ref(str(tmp_path / "a.zip"), "empty.png").read() == b""


@pytest.mark.parametrize("workers", [0, 2])
def test_what_no_reader_should_raise_ends_a_training_too(tiny, monkeypatch, workers):
    def fail(self, index, size):
        raise KeyError("a surprise")

    monkeypatch.setattr(DomainFiles, "reading", fail)
    with pytest.raises(DataError, match="cannot read '.*images/0000..png': KeyError: 'a surprise'"):
        fit(tiny("toy/source_only", f"data.workers={workers}"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["_usable", "collate"])
def test_an_error_of_the_loader_itself_ends_a_training_with_its_traceback(tiny, monkeypatch, workers, name):
    def fail(*_):
        raise AssertionError("a surprise")

    monkeypatch.setattr(sampling if name == "collate" else sampling.PairStream, name, fail)
    with pytest.raises(RuntimeError, match=r"(?s)the loader failed at position.*Traceback.*a surprise"):
        fit(tiny("toy/source_only", f"data.workers={workers}"))


def domain(root: Path, **more) -> Domain:
    return Domain("gta5", Roots([str(root)]), "all", (96, 48), **more)


def test_a_file_name_that_is_not_text_is_refused(hostile, tmp_path):
    root = hostile("pipe")
    (root / NAME).unlink()
    (root / "labels/00003.png").unlink()
    shutil.copy(root / "images/00001.png", os.fsencode(root / "images") + b"/\xff.png")
    with pytest.raises(DataError, match=r"the name of 'images/\\udcff.png' in '.*GTA5' is not text"):
        list_items(domain(root), True)
    assert len(check_domain(domain(root), CITYSCAPES_19, True).problems) == 1


def test_an_archive_whose_listing_is_not_text_is_refused(hostile):
    path = hostile("encrypted")
    data = bytearray(path.read_bytes())
    start = data.rindex(NAME.encode())
    data[start - 46 + 9] |= 8  # says that the name is UTF-8
    data[start] = 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot open archive '.*GTA5.zip'"):
        list_items(domain(path), True)


def test_a_pipe_in_place_of_an_archive_or_a_list_is_refused(tmp_path, toy_root):
    os.mkfifo(tmp_path / "data.zip")
    with pytest.raises(DataError, match="data.zip': it is no regular file"):
        list_items(domain(tmp_path / "data.zip"), True)
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(DataError, match="list.txt': it is no regular file"):
        list_items(domain(toy_root / "GTA5", list=str(tmp_path / "list.txt")), True)


def test_of_a_member_name_that_repeats_the_last_counts_as_when_unpacking(toy_root, tmp_path):
    path = zipped(shutil.copytree(toy_root / "GTA5", tmp_path / "GTA5"))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.write(toy_root / "GTA5/images/00001.png", "images/00002.png")
    files = DomainFiles(domain(path), CITYSCAPES_19, labelled=True)
    assert len(files) == 6 and (files.image(1) == files.image(0)).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_empty_first_file_is_named_or_passed_over(toy_root, tmp_path, tiny, workers):
    root = shutil.copytree(toy_root / "GTA5", tmp_path / "GTA5")
    (root / "images/00001.png").write_bytes(b"")
    where = (f"data.source.root={root}", f"data.workers={workers}")
    with pytest.raises(DataError, match="images/00001.png': the file is empty"):
        fit(tiny("toy/source_only", *where))
    assert fit(tiny("toy/source_only", *where, "data.quarantine=1", f"run.output={tmp_path / 'on'}")).step == 6

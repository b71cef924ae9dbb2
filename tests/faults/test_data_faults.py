"""Every fault that the data check knows, met in training: named and the end, or passed over, listed and counted."""

from __future__ import annotations

import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from test_data_tools import FAULTS, pair  # noqa: F401 (a fixture)
from test_resume import assert_same_run

from paddle_adaptseg.config.loading import override
from paddle_adaptseg.core.errors import DataError
from paddle_adaptseg.data.decode import MAX_PIXELS, decode_ids, decode_red16, decode_rgb
from paddle_adaptseg.data.files import Ref
from paddle_adaptseg.training.checkpoint import load_state, state_path
from paddle_adaptseg.training.run import fit

IN_FILES = {name: fault for name, fault in FAULTS.items() if name != "missing pair"}  # that one is found at the start


@pytest.fixture
def broken(tiny, pair):  # noqa: F811
    """broken(*overrides, faults=...) -> a configuration whose source has these faults."""

    def build(*overrides, faults=IN_FILES):
        for file, fault, _ in (FAULTS[name] for name in faults):
            fault(pair / "GTA5" / file)
        roots = (f"data.source.root={pair / 'GTA5'}", f"data.target.root={pair / 'Cityscapes'}",
                 f"data.validation.root={pair / 'Cityscapes'}")  # fmt: skip
        sizes = [f"data.{d}.size=[64, 32]" for d in ("source", "target", "validation")]
        return tiny("toy/adaptsegnet_multi", *roots, *sizes, "data.batch_size=2", "run.keep=9", "method.ramp.start=1",
                    *overrides)  # fmt: skip

    return build


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_names_its_file_and_stops(broken, name, workers):
    file, _, message = FAULTS[name]
    with pytest.raises(DataError) as error:
        fit(broken(f"data.workers={workers}", faults=[name]))
    text = str(error.value)
    assert "\n" not in text and file.split("/")[1] in text and message in text
    if name in IN_FILES:
        assert "tools/check_dataset.py lists all" in text and "data.quarantine=N" in text and "checkpoint" in text


@pytest.mark.parametrize("workers", [0, 2])
def test_quarantined_items_are_replaced_listed_and_counted_and_the_run_resumes_exactly(
    broken, tmp_path, workers, capsys
):
    config = broken("data.quarantine=5", f"data.workers={workers}")
    fit(override(config, f"run.output={tmp_path / 'straight'}", "data.workers=0"))
    assert "warning: step 1: passed over (1 of at most 5): " in capsys.readouterr().out
    fit(override(config, "schedule.stop=3"))
    fit(config, resume="2")
    assert_same_run(tmp_path / "straight", tmp_path / "run", 6)
    listed = (tmp_path / "run/quarantine_source.txt").read_text()
    assert listed == (tmp_path / "straight/quarantine_source.txt").read_text()
    state = load_state(state_path(tmp_path / "run", 6))
    assert len(state.record["quarantined"]) == len(listed.splitlines()) == 5
    fit(override(config, f"data.source.exclude={tmp_path / 'run/quarantine_source.txt'}", "data.quarantine=0",
                 f"run.output={tmp_path / 'mended'}"))  # fmt: skip


def test_one_unusable_item_too_many_stops_the_run(broken):
    with pytest.raises(DataError, match="4 items were passed over already, and data.quarantine allows no more"):
        fit(broken("data.quarantine=4"))


def test_an_evaluation_never_passes_over_an_image(broken, pair):  # noqa: F811
    image = next((pair / "Cityscapes/leftImg8bit/val").rglob("*.png"))
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(DataError, match=f"cannot read '{image}'.*an evaluation passes over no image"):
        fit(broken("data.quarantine=9", faults=[]))


def png(width, height):
    """A tiny file that claims to be a huge picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore:Image size")  # which only pytest shows
@pytest.mark.parametrize("width", [MAX_PIXELS // 1000 + 1, 10 * MAX_PIXELS // 1000])
@pytest.mark.parametrize("decode", [decode_rgb, decode_ids, decode_red16])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, decode, width):
    (tmp_path / "bomb.png").write_bytes(png(width, 1000))
    with pytest.raises(DataError, match="bomb.png' has more than 64 million pixels; it is refused"):
        decode(Ref(str(tmp_path), "bomb.png"))


def test_huge_files_and_members_are_refused_before_they_are_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**40)  # sparse: takes no space
    with pytest.raises(DataError, match=r"huge.png' is 1048576 MB, which no picture"):
        Ref(str(tmp_path), "huge.png").read()
    with (
        zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.png", "w") as out,
    ):
        for _ in range(300):
            out.write(bytes(2**20))
    with pytest.raises(DataError, match=r"data.zip!a.png' would unpack to 300 MB, which no picture"):
        Ref(str(tmp_path / "data.zip"), "a.png").read()


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_that_ends_early_is_never_filled_up(tmp_path, kind, share):
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole", kind)
    assert decode_rgb(Ref(str(tmp_path), "whole")).shape == (100, 100, 3)
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="cut': the picture is damaged"):
        decode_rgb(Ref(str(tmp_path), "cut"))

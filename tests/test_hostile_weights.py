"""Whatever a weights file claims, reading it takes little time and memory, and ends in arrays or in one clear line."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from conftest import ROOT

from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.weights.reader import ORIGIN, RECORD, read_weights

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits by resource and /proc")


@pytest.fixture(scope="module")
def read():
    """A function that reads a file under limits and returns what was said."""
    command = [sys.executable, str(ROOT / "tests/limited_reader.py")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None

        def ask(path):
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


class Code:
    """A pickle put together by hand, protocol 2."""

    def __init__(self, *parts: bytes) -> None:
        self.data = b"\x80\x02" + b"".join(parts) + b"."


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def tuple_of(*parts):
    return b"(" + b"".join(parts) + b"t"


def name(module, what):
    return f"c{module}\n{what}\n".encode()


def call(function, *arguments):
    return function + tuple_of(*arguments) + b"R"


def named(*values):
    """A mapping of w0, w1, ... to values."""
    return b"}(" + b"".join(text(f"w{i}") + value for i, value in enumerate(values)) + b"u"


NDARRAY, DTYPE = name("numpy", "ndarray"), name("numpy", "dtype")
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
F4 = call(DTYPE, text("f4"), b"\x89", b"\x88")
OBJECT = call(DTYPE, text("O8"), b"\x89", b"\x88")
EMPTY = call(RECONSTRUCT, NDARRAY, tuple_of(number(0)), text("b"))
TWINS = text("x") + b"2\x86" * 200  # (x, x), ((x, x), (x, x)), ...


def array_state(shape, kind, data):
    return EMPTY + tuple_of(number(1), tuple_of(*map(number, shape)), kind, b"\x89", data) + b"b"


def dtype_state(*state):
    return array_state([2], F4 + tuple_of(*state) + b"b", text("12345678"))


def tensor(shape=(2,), stride=(1,), offset=0, numel=2, key=None, kind="FloatStorage"):
    storage = tuple_of(text("storage"), name("torch", kind), key or text("0"), text("cpu"), number(numel)) + b"Q"
    return call(REBUILD, storage, number(offset), tuple_of(*map(number, shape)),
                tuple_of(*map(number, stride)), b"\x89", b"}")  # fmt: skip


def alias(part, count, place=b"\x01"):
    """The same value many times: remembered once, and fetched."""
    return [part + b"q" + place, *[b"h" + place] * (count - 1)]


def torch_zip(code, members=(("0", bytes(8)),), compression=zipfile.ZIP_STORED):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", compression) as archive:
        archive.writestr("x/data.pkl", code.data)
        for key, data in members:
            archive.writestr(f"x/data/{key}", data)
    return memory.getvalue()


def lying_zip(method, packed, claimed):
    """An archive whose data is said to have `claimed` bytes, whatever it unpacks to."""
    content = torch_zip(Code(named(tensor(numel=claimed // 4))), [("0", packed)])
    content = bytearray(content)
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = content.rindex(mark, 0, content.rindex(b"x/data/0"))
        start = content.rindex(mark, 0, len(content)) if mark == b"PK\x03\x04" else start
        struct.pack_into("<H", content, start + offset, method)
        struct.pack_into("<I", content, start + offset + 14, claimed)
    return bytes(content)


def overlapping_zip(count):
    """Many names for one member."""
    content = torch_zip(
        Code(named(*(tensor(numel=2**18, key=text(f"{i:03}")) for i in range(count)))), [("000", bytes(2**20))]
    )
    end = content.rindex(b"PK\x05\x06")
    entry = content[content.rindex(b"PK\x01\x02", 0, end) : end]
    directory = content[struct.unpack_from("<I", content, end + 16)[0] : end] + b"".join(
        entry.replace(b"x/data/000", b"x/data/%03d" % i) for i in range(1, count)
    )
    start = struct.unpack_from("<I", content, end + 16)[0]
    return content[:start] + directory + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count + 1, count + 1,
                                                     len(directory), start, 0)  # fmt: skip


def deflated(size):
    """Zeros by the megabyte, packed once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (size // 2**20) + packer.flush()


def stacked(*parts):
    head = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}))
    return head + b"".join(p.data if isinstance(p, Code) else p for p in parts)


def records(count):
    data = stacked(Code(named(*(tensor(numel=1, key=text(str(i))) for i in range(20)))))
    return data + pickle.dumps([str(i % 20) for i in range(count)], 2) + (struct.pack("<Q", 1) + bytes(4)) * count


ENCODE = name("_codecs", "encode")


def colliding():
    """Numbers with one hash."""
    return [b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"N" for i in range(1, 100_000)]


CONTENT = {
    "an array of 1e9 objects": lambda: Code(named(call(NDARRAY, tuple_of(number(10**9)), text("O")))),
    "a state of 1e9 objects": lambda: Code(named(array_state([10**9], OBJECT, b"]"))),
    "a new object of a class": lambda: Code(named(NDARRAY + tuple_of(tuple_of(number(10**9))) + b"\x81")),
    "an array over 4 bytes repeated": lambda: Code(
        named(call(NDARRAY, tuple_of(number(10**9)), F4, text("abcd"), number(0), tuple_of(number(0))))
    ),
    "a shape beyond its data": lambda: Code(named(array_state([10**9], F4, text("abcd")))),
    "a shape of a huge number": lambda: Code(named(array_state([2**60], F4, text("abcd")))),
    "a number of 2000 bits": lambda: Code(named(b"\x8a\xff" + b"\x7f" * 255)),
    "a number of 100 MB": lambda: Code(named(b"\x8b" + struct.pack("<I", 10**8) + b"\x7f" * 10**8)),
    "a number of 100 million digits": lambda: Code(named(b"I" + b"9" * 10**8 + b"\n")),
    "100000 dimensions": lambda: Code(named(array_state([1] * 100_000, F4, text("abcd")))),
    "colliding numbers as keys": lambda: Code(b"}(", *colliding(), b"u"),
    "numbers that meet in a table": lambda: Code(b"}(", *(number(i << 41) + b"N" for i in range(300_000)), b"u"),
    "a float as a key": lambda: Code(b"}(G", struct.pack(">d", 2.0**61), b"Nu"),
    "a deep nest as a key": lambda: Code(b"}", b"()" + b"\x85" * 900_000, b"N", b"u"),
    "a deep nest as a value": lambda: Code(named(b")" + b"\x85" * 900_000)),
    "a key whose text explodes": lambda: Code(b"}(", TWINS, b"Nu"),
    "a value whose text explodes": lambda: Code(named(TWINS)),
    "a shape whose text explodes": lambda: Code(
        named(EMPTY + tuple_of(number(1), TWINS, F4, b"\x89", text("abcd")) + b"b")
    ),
    "a name of 50 MB": lambda: Code(b"}(", text("n" * 50_000_000), b"Nu"),
    "a class of 50 MB": lambda: Code(name("m" * 25_000_000, "n" * 25_000_000)),
    "a class of nested text": lambda: Code(TWINS, TWINS, b"\x93"),
    "long text of wide characters": lambda: Code(named(text("x" * 200_000_000 + "\U0001f600"))),
    "text encoded a thousand times": lambda: Code(
        b"}(", text("t"), text(bytes(10**7)), b"q\x01u", (call(ENCODE, b"h\x01", text("latin1")) + b"0") * 10**4
    ),
    "a list copied a thousand times": lambda: Code(
        b"](", b"N" * 100_000, b"eq\x01", (call(name("builtins", "tuple"), b"h\x01") + b"0") * 10**4
    ),
    "pairs repeated": lambda: Code(
        b"](", *alias(tuple_of(text("a"), b"N"), 300_000), b"eq\x02",
        (call(name("collections", "OrderedDict"), b"h\x02") + b"0") * 1000
    ),
    "one array under many names": lambda: Code(named(*alias(array_state([2**18], F4, text(bytes(2**20))), 19_000))),
    "a million names": lambda: Code(named(*[b"N"] * 400_000)),
    "more names than tensors": lambda: Code(named(*alias(array_state([1], F4, text("abcd")), 30_000))),
    "a million lists": lambda: Code(b"]" * 900_000),
    "values doubled": lambda: Code(b"]" + b"2" * 2_000_000),
    "a state of a type with fields": lambda: Code(
        named(dtype_state(number(3), text("<"), tuple_of(F4, tuple_of(number(9))), text("x"), b"}", number(4)))
    ),
    "a state of a type that is no text": lambda: Code(named(dtype_state(number(3), *[b"N"] * 4, number(-1)))),
    "a state of a type with sizes": lambda: Code(
        named(dtype_state(number(3), text("|"), b"N", b"N", b"N", number(10**9), number(10**9), number(63)))
    ),
    "an empty state of a type": lambda: Code(named(dtype_state())),
    "a type of 1 GB": lambda: Code(named(call(DTYPE, text("V1000000000"), b"\x89", b"\x88"))),
    "a type with brackets": lambda: Code(named(call(DTYPE, text("(" * 100_000 + "f4"), b"\x89", b"\x88"))),
    "a deep record of its origin": lambda: pickle.dumps({"w": np.zeros(2), ORIGIN: "[" * 500_000}, 4),
    "an origin that is no mapping": lambda: pickle.dumps({"w": np.zeros(2), ORIGIN: "[1]"}, 4),
    "a configuration of 50 MB": lambda: pickle.dumps({"w": np.zeros(2), RECORD: "x" * 50_000_000}, 4),
    "stride 0": lambda: torch_zip(Code(named(tensor([10**9], [0])))),
    "many dimensions of stride 0": lambda: torch_zip(Code(named(tensor([2] * 31, [0] * 31)))),
    "1e9 numbers of one": lambda: torch_zip(Code(named(tensor([10**9], [1], numel=10**9)))),
    "a shape of 2000 bits": lambda: torch_zip(
        Code(named(call(REBUILD, b"N", number(0), tuple_of(b"\x8a\xff" + b"\x7f" * 255))))
    ),
    "negative numbers": lambda: torch_zip(Code(named(tensor(numel=-1)))),
    "a storage named by a nest": lambda: torch_zip(Code(named(tensor(key=TWINS)))),
    "one tensor under many names": lambda: torch_zip(
        Code(named(*alias(tensor([2**18], [1], numel=2**18), 19_000))), [("0", bytes(2**20))]
    ),
    "one storage seen 10000 times": lambda: torch_zip(
        Code(named(*(tensor([512, 512], [1, 512], numel=2**18) for _ in range(10_000)))), [("0", bytes(2**20))]
    ),
    "a member that unpacks to more than it says": lambda: lying_zip(8, deflated(2**31), 400),
    "a member that says more than it unpacks to": lambda: lying_zip(8, deflated(2**20), 10**9),
    "a member compressed a thousandfold": lambda: lying_zip(8, deflated(1000 * 2**20), 1000 * 2**20),
    "a stored member that says more": lambda: lying_zip(0, bytes(100), 10**9),
    "bzip2": lambda: lying_zip(12, bytes(1000), 400),
    "LZMA": lambda: lying_zip(14, b"\x09\x04\x05\x00\x5d\x00\x00\x00\xc0" + bytes(1000), 400),
    "another method": lambda: lying_zip(99, bytes(1000), 400),
    "a pickle compressed a hundredfold": lambda: torch_zip(Code(b"]" * 50_000_000), (), zipfile.ZIP_DEFLATED),
    "members that overlap": lambda: overlapping_zip(900),
    "a directory of 50 MB": lambda: torch_zip(Code(named(tensor())), [("0", bytes(8))]).replace(
        b"PK\x05\x06", b"PK\x01\x02" + bytes(50_000_000) + b"PK\x05\x06"
    )[:-10] + struct.pack("<IIH", 50_000_100, 0, 0),
    "a million records": lambda: records(990_000),
    "as many records as there is budget": lambda: records(300_000),
    "a record longer than the file": lambda: stacked(Code(named(tensor(numel=2**30))), pickle.dumps(["0"], 2),
                                            struct.pack("<Q", 2**30)),
}  # fmt: skip


HARMLESS = {"a state of a type with sizes"}  # what they claim is never looked at


@pytest.mark.parametrize("kind", CONTENT)
def test_a_hostile_file_is_refused_in_one_line_at_little_cost(read, tmp_path, kind):
    path = tmp_path / "w.pth"
    content = CONTENT[kind]()
    path.write_bytes(content.data if isinstance(content, Code) else content)
    answer = read(path)
    assert answer["status"] == 0, f"killed with status {answer['status']}"
    said = answer["said"]
    if kind in HARMLESS:
        assert said == "read 1 arrays"
        return
    assert said.startswith(f"'{path}' is not ") and "\n" not in said and len(said) < 500 + len(str(path)), said
    for trouble in ("MemoryError", "RecursionError", "SystemError"):
        assert trouble not in said


@pytest.mark.parametrize("kind", ["/dev/zero", "FIFO", "folder"])
def test_only_regular_files_are_read(read, tmp_path, kind):
    path = tmp_path / "w.pth"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    answer = read(path)
    assert answer["status"] == 0 and "it is not a regular file" in answer["said"]


NO_WEIGHTS = {
    "web page": (b"\n<!DOCTYPE html><html>Sign in</html>", r"it is a web page \(HTML\): the download brought a page"),
    "error page": (b"<html><head><title>Google Drive - Quota exceeded", "it is a web page"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "it is a pointer of Git LFS"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "it is a gzip archive, which must be unpacked first"),
    "RAR": (b"Rar!\x1a\x07" + bytes(100), "it is a RAR archive"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(100), "it is a PNG image"),
    "tar": (bytes(257) + b"ustar" + bytes(300), "it is a tar archive"),
    "JSON": (b'{"error": "not found"}', "it is a text file that begins with '{"),
    "text": (b"Not Found", "it is a text file that begins with 'Not Found'"),
    "bytes": (b"\x00\x01\x02\x03" * 100, "it is of no known format"),
    "zip without its end": (torch_zip(Code(named(tensor())))[:-30], "zip archive whose end is missing"),
    "beginning of a zip": (torch_zip(Code(named(tensor())))[:100], "zip archive whose end is missing"),
    "cut pickle": (pickle.dumps({"w": np.zeros(100)}, 4)[:-300], "it ends before its data does"),
    "cut stacked pickles": (
        stacked(Code(named(tensor())), pickle.dumps(["0"], 2), struct.pack("<Q", 2), b"1234"), "it ends before"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_a_file_that_is_no_weights_is_called_what_it_is(tmp_path, kind):
    path, (content, message) = tmp_path / "w.pth", NO_WEIGHTS[kind]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_weights(path)


def test_a_zip_archive_of_something_else_says_what_it_holds(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("models/GTA2Cityscapes.pth", b"x")
    with pytest.raises(
        CheckpointError, match=r"without PyTorch's data.pkl \(it holds models/GTA2Cityscapes.pth\); unpack"
    ):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_pickles_is_read(tmp_path, protocol):
    arrays = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "flags": np.array([True, False]),
        "one": np.array(7),
        "none": np.zeros((0, 3), np.float16),
    }
    (tmp_path / "w.pdparams").write_bytes(
        pickle.dumps({**arrays, RECORD: "a: 1", ORIGIN: '{"kind": "ours"}'}, protocol)
    )
    loaded, config, origin = read_weights(tmp_path / "w.pdparams")
    assert list(loaded) == list(arrays) and config == "a: 1" and origin == {"kind": "ours"}
    assert all(np.array_equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in arrays.items())


def test_what_is_built_by_hand_above_is_read_when_nothing_is_wrong_with_it(tmp_path):
    path = tmp_path / "w"
    for content in (
        torch_zip(Code(named(tensor()))),
        torch_zip(Code(named(tensor())), compression=zipfile.ZIP_DEFLATED),
        stacked(Code(named(tensor())), pickle.dumps(["0"], 2), struct.pack("<Q", 2), bytes(8)),
        Code(named(array_state([2], F4, text("abcdefgh")))).data,
        Code(named(dtype_state(number(3), text("<"), b"N", b"N", b"N", number(-1), number(-1), number(0)))).data,
    ):
        path.write_bytes(content)
        assert len(read_weights(path).arrays) == 1

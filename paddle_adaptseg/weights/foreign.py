"""What a file is that was taken for weights, told by its first bytes."""

from __future__ import annotations

from typing import Optional

_ARCHIVE = "which must be unpacked first"
_SIGNATURES = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: run 'git lfs pull' where it came from"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", f"a gzip archive, {_ARCHIVE}"),
    (b"BZh", f"a bzip2 archive, {_ARCHIVE}"),
    (b"\xfd7zXZ\0", f"an xz archive, {_ARCHIVE}"),
    (b"\x28\xb5\x2f\xfd", f"a Zstandard archive, {_ARCHIVE}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7-Zip archive, {_ARCHIVE}"),
    (b"Rar!", f"a RAR archive, {_ARCHIVE}"),
    (b"\x89HDF", "an HDF5 file (Keras or Caffe), which is not read here"),
    (b"\x93NUMPY", "a single NumPy array, which has no names"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x7fELF", "a program"),
)
_PICKLE = b"\x80(}]c"  # a protocol number, or what the oldest pickles of a mapping start with
HEAD = 512


def what_it_is(head: bytes) -> Optional[str]:
    """A description of a file that cannot be weights; None when it may be a pickle."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        return "a web page (HTML): the download brought a page, such as a login or an error, and not the file"
    if head[257:262] == b"ustar":
        return f"a tar archive, {_ARCHIVE}"
    known = next((what for signature, what in _SIGNATURES if head.startswith(signature)), None)
    if known or head[:1] in [bytes([code]) for code in _PICKLE]:
        return known
    if start and all(code >= 32 or code in b"\t\r\n" for code in start):
        return f"a text file that begins with {start[:40].decode('utf-8', 'replace')!r}"
    return f"of no known format (it begins with the bytes {head[:8].hex(' ')})"

"""Where bytes come from: folders and zip archives, read alike. Nothing is unpacked.

A root is a folder, an archive, a folder of archives, or a pattern such as `data/*_images.zip`; several act as one.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import NamedTuple

from paddle_adaptseg.core.errors import DataError

Fields = tuple[tuple[str, str], ...]  # what a pattern's {fields} matched, sorted by name
_FIELD = re.compile(r"\{(\w+)\}")
_HIDDEN = re.compile(r"(^|/)(__MACOSX/|\._)")  # what macOS adds to archives
_UNREAD = (".rar", ".7z", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")  # archives that must be unpacked first
MAX_BYTES = 256 * 2**20  # no image of these data sets comes near it; a decompression bomb does


class Ref(NamedTuple):
    """One file: in a folder, or a member of an archive."""

    store: str
    name: str

    def __str__(self) -> str:
        return f"{self.store}!{self.name}" if is_archive(self.store) else str(Path(self.store) / self.name)

    def read(self) -> bytes:
        """All bytes; an unreadable file is an error that names it."""
        try:
            return _read_member(self) if is_archive(self.store) else _read_file(self)
        except DataError:
            raise
        except Exception as error:  # what zipfile raises for encrypted, damaged and hostile members is not documented
            raise DataError(f"cannot read '{self}': {error or type(error).__name__}") from None


def is_archive(path: str) -> bool:
    """Whether a root is a zip archive by its name."""
    return path.lower().endswith(".zip")


def expand(roots: Iterable[str]) -> list[str]:
    """Folders and archives behind roots; one that does not exist is an error."""
    stores: list[str] = []
    for root in roots:
        found = sorted(glob(root)) if any(c in root for c in "*?[") else [root]  # noqa: PTH207 (absolute patterns)
        if not found or not all(Path(p).exists() for p in found):
            raise DataError(f"data folder or archive '{root}' does not exist")
        for path in found:
            if path.lower().endswith(_UNREAD) and not Path(path).is_dir():
                raise DataError(f"'{path}' cannot be read as it is (only folders and zip archives can): unpack it")
            stores.append(path)
            if Path(path).is_dir():
                stores += sorted(str(p) for p in Path(path).glob("*.zip"))
    return stores


def find(stores: Iterable[str], pattern: str) -> dict[Fields, Ref]:
    """Files that match a pattern whose {fields} each stand for one path part, by what the fields matched.

    Inside an archive the pattern may lie below other folders, as archives are packed in many ways.
    """
    matches: dict[Fields, Ref] = {}
    for store in stores:
        regex = _regex(pattern, inside=is_archive(store))
        for name in _names(store, pattern):
            found = regex.fullmatch(name)
            if found and not _HIDDEN.search(name):
                _refuse_unprintable(store, name)
                matches.setdefault(tuple(sorted(found.groupdict().items())), Ref(store, name))
    return matches


def unread_archives(stores: Iterable[str]) -> list[str]:
    """Archives in the folders among `stores` that must be unpacked before anything in them is found."""
    folders = [Path(store) for store in stores if Path(store).is_dir()]
    return [str(path) for folder in folders for path in sorted(folder.iterdir()) if path.name.lower().endswith(_UNREAD)]


def members(store: str) -> list[str]:
    """Names of all files in an archive."""
    return [name for name in _archive(store, os.getpid()).namelist() if not _HIDDEN.search(name)]


def fields_of(pattern: str) -> list[str]:
    """Names of a pattern's fields."""
    return _FIELD.findall(pattern)


def select(fields: Fields, wanted: Iterable[str]) -> Fields:
    """The part of a match that another pattern with the fields `wanted` shares."""
    wanted = set(wanted)
    return tuple(item for item in fields if item[0] in wanted)


def fill(pattern: str, values: Mapping[str, str]) -> str:
    """A pattern with known fields filled in; others stay."""
    return _FIELD.sub(lambda m: values.get(m.group(1), m.group(0)), pattern)


def _names(store: str, pattern: str) -> Iterable[str]:
    if is_archive(store):
        return _archive(store, os.getpid()).namelist()
    root = Path(store)
    return sorted(p.relative_to(root).as_posix() for p in root.glob(_FIELD.sub("*", pattern)))


def _regex(pattern: str, inside: bool) -> re.Pattern[str]:
    parts, seen = _FIELD.split(pattern), set()
    text = "(?:.*/)?" if inside else ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            text += re.escape(part)
        else:
            text += f"(?P={part})" if part in seen else f"(?P<{part}>[^/]+)"
            seen.add(part)
    return re.compile(text)


@lru_cache(maxsize=64)
def _archive(path: str, process: int) -> zipfile.ZipFile:
    # One handle for each process: a forked loader worker must not share its parent's file position.
    try:
        _refuse_special(path, os.stat(path))  # noqa: PTH116
        return zipfile.ZipFile(path)
    except DataError:
        raise
    except Exception as error:  # also names that are not the text that the archive promises, and cut listings
        raise DataError(f"cannot open archive '{path}': {error or type(error).__name__}") from None


def _read_file(ref: Ref) -> bytes:
    path = Path(ref.store) / ref.name
    status = path.stat()
    _refuse_special(str(ref), status)
    _refuse_huge(ref, status.st_size, "is")
    return path.read_bytes()


def _read_member(ref: Ref) -> bytes:
    """No more than the listing promises is ever unpacked, whatever the packed bytes would become."""
    archive = _archive(ref.store, os.getpid())
    info = archive.getinfo(ref.name)
    _refuse_huge(ref, info.file_size, "would unpack to")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # Python would unpack others without limit
        raise DataError(f"'{ref}' is packed by a method other than deflate: unpack the archive, or pack it again")
    with archive.open(info) as member:
        return member.read(info.file_size)


def _refuse_special(name: str, status: os.stat_result) -> None:
    """A pipe would keep the reader waiting for ever, and a device has no end."""
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"cannot read '{name}': it is no regular file")


def _refuse_unprintable(store: str, name: str) -> None:
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = name.encode("utf-8", "backslashreplace").decode()
            raise DataError(f"the name of '{shown}' in '{store}' is not text (UTF-8): rename the file") from None


def _refuse_huge(ref: Ref, size: int, verb: str) -> None:
    if size > MAX_BYTES:
        raise DataError(f"'{ref}' {verb} {size / 2**20:.0f} MB, which no image of a data set needs")

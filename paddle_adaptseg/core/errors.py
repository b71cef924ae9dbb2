"""Errors that a user can mend. Tools print them as one line and exit with code 2; anything else is our own bug."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """Something outside the program is wrong; the message names the thing, the value and the fix, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # names and values of others may hold line breaks

    def _render_traceback_(self) -> list[str]:
        """What notebooks show: the one line that tools print, not where in the program it was noticed."""
        return [f"error: {self}"]


class ConfigError(UserError):
    """A configuration file, override or flag is wrong."""


class DataError(UserError):
    """A data set is missing, incomplete or unreadable."""


class CheckpointError(UserError):
    """A checkpoint or weights file is missing, broken, foreign or does not fit."""


class TrainingError(UserError):
    """Training cannot continue, for example because a loss is not finite."""


class StorageError(UserError):
    """A file cannot be written: the disk is full, a limit is reached, or permission is missing."""


class Stopped(Exception):
    """Not an error: a run was asked to end, and everything needed to resume it is saved. `code` is the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class StopRequested(Exception):
    """Not an error: work is broken off where it can be taken up again, because the run was asked to end."""


def suggest(name: str, known: Iterable[str]) -> str:
    """The tail of an 'unknown name' message: the nearest known name if there is one, and all known ones."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


def shorten(names: Iterable[str], limit: int = 8) -> str:
    """A list of names for a message, cut after `limit`."""
    names = list(names)
    more = f", ... ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def kinds(kind: type[UserError]) -> Iterator[type[UserError]]:
    """All classes below one."""
    for below in kind.__subclasses__():
        yield below
        yield from kinds(below)

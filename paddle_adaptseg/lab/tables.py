"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table with a line for its head and one for each row."""
    first, *others = ("| " + " | ".join(map(str, row)) + " |" for row in (head, *rows))
    return "\n".join([first, "|" + "---|" * len(head), *others])

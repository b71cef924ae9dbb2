"""The public checkpoints that are known (zoo.yml), whether a file is one of them, and the page that lists them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Optional

from paddle_adaptseg.config.conversion import convert
from paddle_adaptseg.config.yamltree import parse_tree, read_text
from paddle_adaptseg.core.errors import CheckpointError, suggest
from paddle_adaptseg.core.files import sha256
from paddle_adaptseg.weights.kinds import KINDS, Arrays, identify, trained_branches

MANIFEST = Path(__file__).with_name("zoo.yml")


@dataclass(frozen=True)
class Entry:
    """One public checkpoint; what is not known is empty."""

    project: str
    home: str
    about: str
    kind: str
    licence: str
    file: str = ""
    tensors: int = 0
    classes: int = 0
    branches: int = 0
    sha256: str = ""
    miou: dict[str, float] = field(default_factory=dict)


@lru_cache(maxsize=1)
def zoo() -> Mapping[str, Entry]:
    """All entries by name."""
    tree = parse_tree(read_text(MANIFEST), str(MANIFEST))
    return {name: convert(value, Entry, f"{MANIFEST.name}: {name}") for name, value in tree.items()}


def find_entry(path: Path, arrays: Arrays, name: str = "") -> tuple[str, Entry]:
    """The entry called `name`; without a name the one whose file is called so, else the only one of this kind."""
    if name:
        if name not in zoo():
            raise CheckpointError(f"the model zoo has no '{name}': {suggest(name, zoo())}")
        return name, zoo()[name]
    same_file = [n for n, e in zoo().items() if e.file.split(" ")[0] == path.name]
    same_kind = [n for n, e in zoo().items() if e.kind == identify(arrays)]
    found = same_file or same_kind
    if len(found) != 1:
        several = f" (of this kind: {', '.join(same_kind)})" if same_kind else ""
        raise CheckpointError(f"the name of '{path}' is in no entry of the model zoo; name one: --check ENTRY{several}")
    return found[0], zoo()[found[0]]


def check_entry(path: Path, arrays: Arrays, entry: Entry) -> list[tuple[bool, str]]:
    """What a file has and what the entry says, point by point; only what the entry knows is compared."""
    facts = [
        ("kind", identify(arrays), entry.kind),
        ("tensors", sum(not name.endswith("num_batches_tracked") for name in arrays), entry.tensors),
        ("classes", head_classes(arrays), entry.classes),
        ("trained pyramid branches", trained_branches(arrays), entry.branches),
    ]
    results = [(have == want, _line(what, have, want)) for what, have, want in facts if want]
    if entry.sha256:
        digest = sha256(path)
        results.append((digest.startswith(entry.sha256), _line("sha256", digest[: len(entry.sha256)], entry.sha256)))
    return results


def head_classes(arrays: Arrays) -> Optional[int]:
    """The number of classes of the first head."""
    heads = (a for n, a in arrays.items() if re.search(r"(conv2d_list\.0|last_conv\.8|fc)\.weight$", n))
    head = next(heads, None)
    return head.shape[0] if head is not None and head.ndim else None


def _line(what: str, have: object, want: object) -> str:
    return f"{what} {have}" + ("" if have == want else f", but {want} is expected")


def zoo_page() -> str:
    """docs/model_zoo.md."""
    lines = [
        "# Model zoo",
        "",
        "Public weights that can be read here. Written from `paddle_adaptseg/weights/zoo.yml` by `make pages`.",
        "Nothing is downloaded automatically: download a file from its project, then check and convert it, or use it",
        "directly with `--restore-from`.",
        "",
        "```bash",
        "python tools/convert_weights.py FILE --check",
        "python tools/convert_weights.py FILE weights.pdparams",
        "```",
        "",
        "Code inside a file is never run. Files that are no weights (a web page, an archive, a cut download), and",
        "files that would need much more memory than their size, are refused with an error of one line.",
        "",
        "mIoU was published by the authors (in the paper or repository); it was not measured here. sha256 is the first",
        "part of the checksum, from the file name. Empty cells: not known.",
        "",
        "| Entry | What | Kind | File | sha256 | Tensors | Published mIoU | Licence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in zoo().items():
        scores = ", ".join(f"{value} ({protocol})" for protocol, value in entry.miou.items())
        lines.append(
            f"| {name} | [{entry.project}]({entry.home}): {entry.about} | {entry.kind} | {entry.file} | {entry.sha256} "
            f"| {entry.tensors or ''} | {scores} | {entry.licence} |"
        )
    lines += [
        "",
        "## Kinds",
        "",
        "The kind of a file is recognised by the names and shapes of its tensors; it sets these keys.",
        "",
    ]
    lines += ["| Kind | What | Keys that it sets |", "|---|---|---|"]
    lines += [f"| {n} | {k.title} | {' '.join(f'`{o}`' for o in k.overrides())} |" for n, k in KINDS.items()]
    return "\n".join(lines) + "\n"

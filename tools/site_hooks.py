"""Hooks of mkdocs: the READMEs are pages, and links from docs/ into the repository lead to copies inside the site."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Optional

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
START = {"README.md": "index.md", "README_zh.md": "zh/index.md"}
SHOWN = {".yml": "yaml", ".py": "python", ".cff": "yaml", "": "text"}  # files that become a page with their text
UNSEARCHED = "---\nsearch: {exclude: true}\n---\n"  # code and lists of files: a search is for pages
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")


def inside(path: str) -> Optional[str]:
    """Where a file of the repository lies in the site; None: nothing such is there."""
    if path in START:
        return START[path]
    if path.startswith("docs/"):
        return path[len("docs/") :]
    if not (ROOT / path).exists():
        return None
    if (ROOT / path / "README.md").is_file():
        path = f"{path}/README.md"
    ending = "/index.md" if (ROOT / path).is_dir() else ".md" if Path(path).suffix in SHOWN else ""
    return f"repository/{path}{ending}"


def relinked(text: str, page: str, wanted: set[str]) -> str:
    """A page's text with its links, which are relative to its place in the repository, led into the site."""
    here = PurePosixPath(inside(page) or page).parent

    def lead(match: re.Match) -> str:
        target = os.path.normpath(PurePosixPath(page).parent / match[2])
        to = inside(target)
        if to is None:
            return match[0]  # mkdocs reports it
        wanted.add(target)
        return match[1] + os.path.relpath(to, here) + match[3]

    return LINK.sub(lead, text)


def content_of(path: str, wanted: set[str]) -> str | bytes:
    """What the site shows of a file or folder of the repository."""
    file = ROOT / path
    if file.is_dir():
        return f"{UNSEARCHED}# {path}\n\n" + "\n".join(
            f"- `{entry.name}`" for entry in sorted(file.iterdir()) if entry.suffix
        )
    if path.endswith(".md"):
        return relinked(file.read_text(encoding="utf-8"), path, wanted)
    if file.suffix in SHOWN:
        return f"{UNSEARCHED}# {path}\n\n```{SHOWN[file.suffix]}\n{file.read_text(encoding='utf-8')}```\n"
    return file.read_bytes()


def on_files(files: Files, config) -> Files:
    """Add the READMEs, and whatever pages link to outside docs/."""
    wanted = {*START, "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{f.src_uri}" for f in files.documentation_pages())}
    done: set[str] = set()
    while wanted - done:
        done.add(path := min(wanted - done))
        to = inside(path)
        if to is None or not (ROOT / path).exists() or (path.startswith("docs/") and not path.endswith(".md")):
            continue
        if known := files.get_file_from_path(to):
            files.remove(known)
        files.append(File.generated(config, to, content=content_of(path, wanted)))
    return files

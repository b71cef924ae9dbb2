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
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")


def inside(path: str) -> Optional[str]:
    """Where a file of the repository lies in the site; None: nothing such is there."""
    if path in START:
        return START[path]
    if path.startswith("docs/"):
        return path[len("docs/") :]
    if not (ROOT / path).is_file():
        return None
    shown = Path(path).suffix in SHOWN
    return f"repository/{path}" + (".md" if shown else "")


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


def on_files(files: Files, config) -> Files:
    """Add the READMEs, and whatever pages link to outside docs/."""
    waiting = {*START, *(f"docs/{f.src_uri}" for f in files if f.src_uri.endswith(".md"))}
    waiting |= {"CONTRIBUTING.md", "CHANGELOG.md"}
    done: set[str] = set()
    while waiting - done:
        path = min(waiting - done)
        done.add(path)
        to = inside(path)
        if to is None or not (ROOT / path).is_file() or (path.startswith("docs/") and not path.endswith(".md")):
            continue
        if path.endswith(".md"):
            content = relinked((ROOT / path).read_text(encoding="utf-8"), path, waiting)
        elif to.endswith(".md"):
            content = f"# {path}\n\n```{SHOWN[Path(path).suffix]}\n{(ROOT / path).read_text(encoding='utf-8')}```\n"
        else:
            content = (ROOT / path).read_bytes()
        if files.get_file_from_path(to):
            files.remove(files.get_file_from_path(to))
        files.append(File.generated(config, to, content=content))
    return files

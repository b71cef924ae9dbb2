"""All checks in turn, and the page about them: for a terminal, a notebook, an issue (Markdown) and programs (JSON)."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from tqdm import tqdm

from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import ConfigError, suggest
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.lab.doctor.checks import FAILED, OK, SKIPPED, Check, Finding, Given, all_checks
from paddle_adaptseg.lab.tables import markdown_table

SECONDS = 180.0
MARKS = {OK: "ok", FAILED: "FAILED", SKIPPED: "skipped"}
WIDTH = 110


@dataclass(frozen=True)
class Report:
    """What every check found."""

    findings: dict[str, Finding]
    seconds: float

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [name for name, found in self.findings.items() if found.verdict == FAILED]

    def verdict(self) -> str:
        """One line over all."""
        count = sum(found.verdict == OK for found in self.findings.values())
        head = f"failed: {', '.join(self.failed)}" if self.failed else "nothing failed"
        skipped = [name for name, found in self.findings.items() if found.verdict == SKIPPED]
        more = f"; skipped: {', '.join(skipped)}" if skipped else ""
        return f"{head} ({count} of {len(self.findings)} checks are ok{more}; {self.seconds:.0f} s)"

    def text(self) -> str:
        """The page for a terminal."""
        widest = max(map(len, self.findings))
        lines = []
        for name, found in self.findings.items():
            for place, part in enumerate(textwrap.wrap(found.text, WIDTH - widest - 11) or [""]):
                lines.append(
                    f"{name if not place else '':<{widest}}  {MARKS[found.verdict] if not place else '':<7}  {part}"
                )
        return "\n".join([*lines, "", self.verdict()])

    def markdown(self) -> str:
        """The page as a block for an issue or docs/hardware.md."""
        rows = ([name, MARKS[f.verdict], f.text.replace("|", "/")] for name, f in self.findings.items())
        return f"{markdown_table(['check', '', 'what was found'], rows)}\n\n{self.verdict()}\n"

    def _repr_markdown_(self) -> str:
        """What notebooks show."""
        return self.markdown()

    def write(self, folder: Path) -> list[Path]:
        """doctor.json and doctor.md in a folder."""
        plain = {"seconds": self.seconds, "findings": {name: asdict(f) for name, f in self.findings.items()}}
        files = {"doctor.json": json.dumps(plain, indent=1, default=float), "doctor.md": self.markdown()}
        for name, text in files.items():
            write_atomically(folder / name, lambda handle, text=text: handle.write(text.encode()))
        return [folder / name for name in files]


def examine(
    folder: Path,
    device: str = "auto",
    seconds: float = SECONDS,
    only: Sequence[str] = (),
    checks: Optional[Sequence[Check]] = None,
) -> Report:
    """Run the checks with a progress bar. What they write lies below `folder`, on the runs' disk, and is removed."""
    began, checks = time.monotonic(), all_checks() if checks is None else checks
    known = [check.name for check in checks]
    for name in only:
        if name not in known:
            raise ConfigError(f"there is no check '{name}': {suggest(name, known)}")
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="doctor_", dir=folder))
    device = runtime.set_device(device)
    given = Given(scratch, device, began + seconds)
    chosen = [check for check in checks if check.name in (only or known)]
    try:
        with tqdm(total=len(chosen), unit="check", dynamic_ncols=True, file=sys.stderr) as bar:
            for check in chosen:
                bar.set_description(check.name)
                with runtime.quiet():
                    given.found[check.name] = check.find(given)
                bar.update()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Report(given.found, time.monotonic() - began)

#!/usr/bin/env python3
"""Build the archives of a release, inspect them, and use the wheel in a fresh environment. Uploads nothing."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from _cli import exit_with

from paddle_adaptseg import __version__
from paddle_adaptseg.core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
NAMED_IN = {"CHANGELOG.md": r"^## (\S+)", "CITATION.cff": r"^version: (\S+)"}  # file, where its newest version stands
IN_WHEEL = ("paddle_adaptseg/weights/zoo.yml", "paddle_adaptseg/configs/toy/adaptsegnet_multi.yml", "LICENSE", "NOTICE")
USE = """import paddle_adaptseg
from paddle_adaptseg.weights.zoo import zoo
print(paddle_adaptseg.load_config("gta5_cityscapes/adaptsegnet_multi").method.name)
print(f"{paddle_adaptseg.__file__}: version {paddle_adaptseg.__version__}, {len(zoo())} entries of the model zoo")"""


def check_version() -> None:
    """Refuse a version that the change log or the citation does not know."""
    for name, pattern in NAMED_IN.items():
        newest = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.M)
        found = newest[1] if newest else "none"
        if found != __version__:
            raise UserError(f"{name} is at version {found}, version.py at {__version__}: make them agree")


def build(folder: Path) -> Path:
    """The wheel, built from the source archive, which is thereby known to be complete."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the build failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    (wheel,) = folder.glob(f"*-{__version__}-*.whl")  # those of earlier versions may be there too
    with zipfile.ZipFile(wheel) as archive:
        missing = [name for name in IN_WHEEL if not any(n.endswith(name) for n in archive.namelist())]
    if missing:
        raise UserError(f"{wheel.name} lacks {', '.join(missing)}")
    return wheel


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="dist", help="folder for the archives")
    folder = Path(parser.parse_args().output)
    check_version()
    wheel = build(folder)
    with tempfile.TemporaryDirectory() as fresh:
        python = Path(fresh) / "bin/python"
        subprocess.run([sys.executable, "-m", "venv", fresh], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel.resolve()], check=True)
        found = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}  # what it depends on is not installed twice
        used = subprocess.run([python, "-c", USE], text=True, cwd=fresh, env=found, capture_output=True)
        if used.returncode:
            raise UserError(f"the wheel cannot be used: {used.stderr.strip()[-2000:]}")
        print(used.stdout.strip())
    print("built: " + ", ".join(str(path) for path in sorted(folder.iterdir())))
    return 0


if __name__ == "__main__":
    exit_with(main)

"""How fast this machine trains and reads, measured."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from typing import Any, Optional

from paddle_adaptseg.config.loading import SHIPPED, load_config
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core.runtime import child_environment
from paddle_adaptseg.data import TrainData
from paddle_adaptseg.data.toy import ToySpec, write_toy_pair
from paddle_adaptseg.lab.doctor.checks import FAILED, SKIPPED, Finding, Given, judge
from paddle_adaptseg.lab.doctor.recipe import sizes
from paddle_adaptseg.lab.launch import quoted

RECIPES = ("adaptsegnet_multi", "dacs", "clan", "source_only")  # of GTA5 to Cityscapes
SHRINK = 4  # on a CPU, where a step at the papers' sizes takes half a minute, each side is a quarter
LONGEST = 60.0  # seconds for one recipe
READ, SLOWEST = 8, 1.0  # pairs that are read, and pairs a second below which a machine reads too slowly
LARGE = (1914, 1052)  # GTA5's images
GB = 10**9


def recipes(given: Given) -> Finding:
    """Step time and peak memory of the main recipes, and the hours of a full run."""
    measured: dict[str, Any] = {}
    for name in RECIPES:
        if given.seconds_left() > (20 if given.on_gpu else 35) or not measured:
            measured[name] = recipe(given, name)
    failed = [name for name, numbers in measured.items() if "failed" in numbers]
    text = "; ".join(sentence(name, numbers) for name, numbers in measured.items())
    if not failed and not any("step" in numbers for numbers in measured.values()):
        return Finding(SKIPPED, text, measured)
    return judge(not failed, text, f"{', '.join(failed)} did not run", **measured)


def recipe(given: Given, name: str) -> dict[str, Any]:
    """One recipe: its figures, or why there are none."""
    path, shrink = SHIPPED / f"gta5_cityscapes/{name}.yml", 1 if given.on_gpu else SHRINK
    steps = "4" if given.on_gpu else "1"
    config, limit = load_config(path), max(10.0, min(LONGEST, given.seconds_left() - 10))
    command = [sys.executable, "-m", "paddle_adaptseg.lab.doctor.recipe", str(path), given.device, str(shrink), steps]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=child_environment(), timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"too slow": limit}
    if done.returncode:
        out = "out of memory" in done.stderr.lower() or "ResourceExhausted" in done.stderr or done.returncode == -9
        return {"does not fit": True} if out else {"failed": (done.stderr.strip().splitlines() or ["?"])[-1][:200]}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    (width, height), _ = sizes(config, shrink)
    seconds = found["seconds"] * shrink**2
    hours = seconds * config.schedule.stop / 3600
    return {"step": found["seconds"], "peak": found["peak"], "size": [width, height], "hours": hours,
            "steps": config.schedule.stop, "estimated": shrink > 1, "images": config.data.batch_size}  # fmt: skip


def sentence(name: str, numbers: dict[str, Any]) -> str:
    """A recipe in words."""
    if "step" not in numbers:
        (reason, value), *_ = numbers.items()
        return f"{name} {reason}" + (f" (more than {value:.0f} s)" if reason == "too slow" else "")
    width, height = numbers["size"]
    much = f"{numbers['step']:.2f} s a step and {numbers['peak'] / GB:.1f} GB at {width}x{height}"
    scaled = f"estimated for {SHRINK**2} times the pixels: " if numbers["estimated"] else ""
    return f"{name} {much} ({scaled}{numbers['hours']:.0f} hours for {numbers['steps']} steps)"


def loader(given: Given) -> Finding:
    """How many pairs of full-size PNG files a second the loader workers deliver, beside what a step takes."""
    root = given.folder / "large"
    write_toy_pair(root, ToySpec(source=4, target=4, validation=1, height=LARGE[1], width=LARGE[0]))
    roots = [quoted(f"data.{d}.root", root / p) for d, p in (("source", "GTA5"), ("target", "Cityscapes"))]
    config = load_config(
        SHIPPED / "gta5_cityscapes/adaptsegnet_multi.yml", [*roots, quoted("data.cache", given.folder / "no")]
    )
    speed = pairs_a_second(config)
    needed = fastest_step(given)
    text = f"{speed:.1f} pairs of {LARGE[0]}x{LARGE[1]} a second with {config.data.workers} workers"
    if speed < SLOWEST:
        return Finding(FAILED, f"{text}: too slow to train; see tools/prepare.py", {"pairs": speed})
    text += f"; {needed[0]} takes {needed[1]:.2g} a second" if needed else ""
    fault = "training waits for images: raise data.workers, or prepare the data with tools/prepare.py"
    return judge(not needed or speed >= needed[1], text, fault, pairs=speed, needed=needed[1] if needed else 0.0)


def fastest_step(given: Given) -> Optional[tuple[str, float]]:
    """The recipe that takes most pairs a second at its full size."""
    found = given.found.get("recipes", Finding(SKIPPED, "")).numbers
    rates = {
        name: n["images"] * n["steps"] / (3600 * n["hours"])
        for name, n in found.items()
        if isinstance(n, dict) and n.get("hours")
    }
    return max(rates.items(), key=lambda pair: pair[1]) if rates else None


def pairs_a_second(config: Config) -> float:
    """Pairs of source and target a second, without the workers' start."""
    with contextlib.closing(TrainData(config, True).batches(0)) as batches:
        next(batches)
        began = time.perf_counter()
        for _ in range(READ):
            next(batches)
        return READ * config.data.batch_size / (time.perf_counter() - began)

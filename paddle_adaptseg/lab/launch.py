"""Several trainings at once, each in a process with a GPU or its share of the cores, watched through their logs."""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core.errors import TrainingError
from paddle_adaptseg.core.runtime import child_environment, cpu_count, visible_gpus

PR_SET_PDEATHSIG = 1  # of Linux' prctl
SECONDS = "seconds"  # file in a run's folder: how long its (last) process trained
TRAIN = ("-m", "paddle_adaptseg", "train")


@dataclass(frozen=True)
class Job:
    """A training: its arguments to `train` and the configuration they amount to."""

    arguments: tuple[str, ...]
    config: Config

    @property
    def folder(self) -> Path:
        return Path(self.config.run.output)

    def done_steps(self) -> int:
        """Steps that its log records."""
        path = self.folder / "log.jsonl"
        if not path.exists():
            return 0
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - 4096))
            for line in reversed(handle.read().splitlines()):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    return int(json.loads(line)["step"])
        return 0


def quoted(key: str, value: object) -> str:
    """An override with a text or path, whatever characters are in it: JSON is YAML."""
    return f"{key}={json.dumps(str(value))}"


def places_of(jobs: Sequence[Job], parallel: int = 0) -> tuple[list[dict[str, str]], str]:
    """The environment of each training that may run at once, and a line about it. 0: one to each GPU, or to each core.

    A training that names its GPU (gpu:1) or the CPU is not sent elsewhere.
    """
    devices = {job.config.run.device for job in jobs}
    gpus = visible_gpus() if devices <= {"auto", "gpu"} else []
    one_device = not gpus and any(device.startswith("gpu") for device in devices)
    count = max(1, min(parallel or len(gpus) or (1 if one_device else cpu_count()), len(jobs)))
    threads = {"OMP_NUM_THREADS": str(max(1, cpu_count() // count))}
    if not gpus:
        note = f"{count} training{'s'[: count > 1]} at once, threads of each: {threads['OMP_NUM_THREADS']}"
        return [threads] * count, note
    used = [gpus[number % len(gpus)] for number in range(count)]
    several = " (several on one GPU: --parallel)" if count > len(gpus) else ""
    note = f"{count} training{'s'[: count > 1]} at once, on GPU {', '.join(used)}{several}"
    return [{**threads, "CUDA_VISIBLE_DEVICES": gpu} for gpu in used], note


def run_jobs(jobs: Sequence[Job], parallel: int = 0) -> None:
    """Run all jobs, `parallel` at once (places_of); the first that fails stops the others and is reported."""
    waiting, running = list(jobs), dict[subprocess.Popen, tuple[Job, float, dict[str, str]]]()
    total = sum(job.config.schedule.stop for job in jobs)
    free, note = places_of(jobs, parallel)
    if jobs:
        print(note, flush=True)
    bar = tqdm(total=total, unit="step", dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 20)
    try:
        while waiting or running:
            while waiting and free:
                job, place = waiting.pop(0), free.pop(0)
                running[_start(job, place)] = (job, time.monotonic(), place)
            time.sleep(0.3)
            bar.update(min(total, sum(job.done_steps() for job in jobs)) - bar.n)
            for process in [p for p in running if p.poll() is not None]:
                job, began, place = running.pop(process)
                free.append(place)
                _finish(job, began, process.returncode)
    finally:
        bar.close()
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _start(job: Job, place: dict[str, str]) -> subprocess.Popen:
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / SECONDS).unlink(missing_ok=True)
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    with (job.folder / "console.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *TRAIN, *job.arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=child_environment(**place),
            # However this process ends, none of its trainings keeps running in a folder that the next one resumes.
            preexec_fn=(lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)) if libc else None,
        )


def _finish(job: Job, began: float, code: int) -> None:
    """Note how long a training took, or report why it failed."""
    if code == 0 and job.done_steps() < job.config.schedule.stop:
        raise TrainingError(
            f"training in '{job.folder}' ended at step {job.done_steps()} with its time budget (run.max_hours); "
            "the same command resumes from there"
        )
    if code == 0:
        (job.folder / SECONDS).write_text(f"{time.monotonic() - began:.1f}\n", encoding="utf-8")
        return
    log = job.folder / "console.log"
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    raise TrainingError(f"training in '{job.folder}' ended with code {code}: {' '.join(last)} (see {log})")

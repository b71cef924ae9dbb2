"""Runs a tool (tools/train.py) in a child process for each line on stdin, with a fault planted where the line says.

Paddle is imported once and children are forked, which saves seconds for each.
"""

from __future__ import annotations

import atexit
import importlib
import itertools
import json
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / "tools"
sys.path.insert(0, str(ROOT))

# Moments of a training: the function at whose n-th call a fault comes.
MOMENTS = {
    "optimise": "paddle_adaptseg.training.optim:Player.step",
    "evaluate": "paddle_adaptseg.evaluation.measure:ImageScores.matrix",
    "draw": "paddle_adaptseg.evaluation.visual:panel",
    "inside a state": "numpy.lib.format:write_array",
    "file written, not moved": "os:fsync",
    "file moved": "paddle_adaptseg.core.files:_sync_folder",
    "weights saved, state not": "paddle_adaptseg.training.checkpoint:save_state",
    "state saved": "paddle_adaptseg.training.checkpoint:prune",
    "inside a log line": "paddle_adaptseg.core.files:AppendFile.write",
}


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_half_written(file, data):
    """A torn line or record."""
    file._file.write(data[: len(data) // 2])
    kill()


def send(number):
    return lambda *_: os.kill(os.getpid(), number)


def limit(size):
    """No file may grow beyond `size` from now on; 0: beyond the log as it is and ten bytes."""

    def impose(*args):
        most = size or args[0].path.stat().st_size + 10
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    return impose


def workers(number):
    def strike(*_):
        for child in multiprocessing.active_children():
            os.kill(child.pid, number)

    return strike


FAULTS = {
    "kill": lambda moment: kill_half_written if moment == "inside a log line" else kill,
    "terminate": lambda _: send(signal.SIGTERM),
    "ctrl-c": lambda _: send(signal.SIGINT),
    "pause": lambda _: send(signal.SIGSTOP),
    "own group": lambda _: lambda *_: os.setpgid(0, 0),
    "limit": lambda _, size=0: limit(size),
    "kill workers": lambda _: workers(signal.SIGKILL),
    "freeze workers": lambda _: workers(signal.SIGSTOP),
}


def plant(counts: Counter, moment: str, at: int, strike) -> None:
    """Count calls of a moment's function, and strike before call number `at`."""
    where, path = MOMENTS[moment].split(":")
    owner = importlib.import_module(where)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    real = getattr(owner, name)

    calls = itertools.count(1)

    def replaced(*args, **kwargs):
        counts[moment] += 1
        if next(calls) == at:
            strike(*args)
        return real(*args, **kwargs)

    setattr(owner, name, replaced)


def child(order: dict) -> int:
    """A tool with its faults; returns its exit code."""
    script = str(TOOLS / f"{order.get('tool', 'train')}.py")
    sys.path.insert(0, str(TOOLS))
    sys.argv = [script, *order["arguments"]]
    counts: Counter = Counter()
    code = 1
    try:
        for moment, at, kind, *values in order["faults"]:
            plant(counts, moment, at, FAULTS[kind](moment, *values))
        if order["count"]:
            for moment in MOMENTS:
                plant(counts, moment, -1, None)
        if order.get("limit"):
            limit(order["limit"])()
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    if order["count"]:
        Path(order["count"]).write_text(json.dumps(counts))
    return code


def start(order: dict) -> int:
    """The child's process id."""
    pid = os.fork()
    if pid:
        return pid
    for number, name in ((1, order["output"]), (2, order.get("errors", order["output"]))):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    os.chdir(order.get("cwd", ROOT))
    if "environment" in order:
        os.environ.clear()
        os.environ.update(order["environment"])
    code = child(order)
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()  # as the end of a program does: Paddle and multiprocessing clean up there
    os._exit(code)


def main() -> None:
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    import paddle_adaptseg.training.run  # noqa: F401 (what every child would import anyway)

    for line in sys.stdin:
        pid = start(json.loads(line))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True)


if __name__ == "__main__":
    main()

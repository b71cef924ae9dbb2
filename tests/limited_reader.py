"""Reads weights files whose paths come in line by line, each in a process with little time and memory.

Answers each with a line of JSON: what was said, the seconds it took, and how the process ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from paddle_adaptseg.core.errors import UserError
from paddle_adaptseg.weights.reader import read_weights

SECONDS, MEMORY = 5, 2**30


def limit(path: Path) -> None:
    """At most so much processor time, and memory beyond what is used already and what the file has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    size = path.stat().st_size if path.is_file() else 0
    resource.setrlimit(resource.RLIMIT_AS, (used + size + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(60)  # of what waits without working, however busy the machine is


def attempt(path: Path) -> str:
    try:
        return f"read {len(read_weights(path).arrays)} arrays"
    except UserError as error:
        return str(error)
    except BaseException as error:
        return f"not an error for users: {type(error).__name__}: {str(error)[:200]}"


def main() -> None:
    for line in sys.stdin:
        path = Path(line.rstrip("\n"))
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            limit(path)
            start = time.process_time()
            said = attempt(path)
            os.write(send, json.dumps({"said": said[:4000], "seconds": time.process_time() - start}).encode())
            os._exit(0)
        os.close(send)
        with os.fdopen(receive, "rb") as answer:
            text = answer.read()
        status = os.waitpid(child, 0)[1]
        print(json.dumps({**(json.loads(text) if text else {"said": ""}), "status": status}), flush=True)


if __name__ == "__main__":
    print("ready", flush=True)
    main()

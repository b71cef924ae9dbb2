"""What a command costs before it does anything, in processor time, which other programs change little."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest


def seconds(*command: str) -> float:
    """Processor time of a Python, less that of one that does nothing; the best of three."""

    def used(arguments: tuple[str, ...]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(used(command) for _ in range(3)) - min(used(("-c", "pass")) for _ in range(3))


@pytest.mark.parametrize("command", [("-m", "paddle_adaptseg", "--help"), ("-c", "import paddle_adaptseg")])
def test_help_and_import_take_a_tenth_of_a_second(command):
    assert seconds(*command) < 0.1  # 0.03 measured

"""The accelerator stays within its memory: operands against forbidden pages, several threads, many programs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_adaptseg.cpu import accelerate, library
from paddle_adaptseg.cpu.arena import arena
from paddle_adaptseg.models.deeplabv2 import DeepLabV2ResNet

TESTS = Path(__file__).resolve().parent
pytestmark = pytest.mark.skipif(library.library() is None, reason="this Paddle ships no oneDNN of version 3")


def run(script: str, *numbers: int, **environment: str):
    command = [sys.executable, str(TESTS / script), *map(str, numbers)]
    given = {**os.environ, "PYTHONPATH": str(TESTS.parent), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=given, timeout=7200)
    assert done.stdout.endswith("all done\n"), (done.returncode, done.stdout[-500:], done.stderr[-2000:])


def test_no_operation_touches_what_lies_beside_its_operands():
    run("guarded.py", 0, 6)


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["ALL", "AVX2", "SSE41"])
def test_no_operation_touches_what_lies_beside_its_operands_over_many_geometries(instructions):
    run("guarded.py", 1, 400, ONEDNN_MAX_CPU_ISA=instructions)


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["ALL", "AVX2"])
def test_many_programs_beside_an_accelerated_network_leave_the_heap_whole(instructions):
    checks = {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165", "ONEDNN_MAX_CPU_ISA": instructions}
    for name in ("libc_malloc_debug.so.0", "libc_malloc_debug.so"):
        found = next(Path("/usr/lib").rglob(name), None)
        if found is not None:  # since glibc 2.34 the checks lie in a library of their own
            checks["LD_PRELOAD"] = str(found)
            break
    run("many_programs.py", 100, **checks)


@pytest.mark.parametrize("training", [False, True], ids=["predicting", "training"])
def test_threads_may_use_one_network_at_once(training):
    network = DeepLabV2ResNet(5, (1, 1, 1, 1))
    network.eval()
    images = [paddle.randn([1, 3, 65, 97]) for _ in range(3)]
    with paddle.no_grad():
        expected = [network.logits(x)["main"].numpy() for x in images]
    wrong: list[float] = []

    def work(index: int) -> None:
        for _ in range(4):
            with accelerate(network):
                logits = network.logits(images[index])["main"]
                if training:
                    (logits**2).mean().backward()
            off = np.abs(logits.numpy() - expected[index]).max() / np.abs(expected[index]).max()
            if not off < 1e-4:
                wrong.append(off)

    work(0)  # what this thread made is used by the others
    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert type(network.backbone.conv1) is paddle.nn.Conv2D


def test_pages_are_given_back_at_the_end():
    space, network = arena(), paddle.nn.Sequential(paddle.nn.Conv2D(3, 32, 3), paddle.nn.ReLU())
    if space is None or not Path("/proc/self/smaps").is_file():
        pytest.skip("this system gives no arena or does not tell about it")
    with accelerate(network), paddle.no_grad():
        network(paddle.randn([4, 3, 512, 512]))
        during = resident(space)
    assert during > 100e6 > 10e6 > resident(space)


def resident(space) -> int:
    """Bytes of the arena that are in memory."""
    address, found = space.bytes.ctypes.data, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and ":" not in first:
            begin, end = (int(part, 16) for part in first.split("-"))
            found = begin <= address < end
        elif found and first == "Rss:":
            return 1024 * int(line.split()[1])
    raise AssertionError("the arena is not mapped")

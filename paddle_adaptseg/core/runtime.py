"""The machine: CPU threads, device, seeds, rank. Nothing here imports Paddle until it is asked to.

Measured on CPU: Paddle sets OMP_NUM_THREADS=1 when the variable is absent (1.5x slower on two cores), and its bundled
MKL takes a slow path on AMD processors unless MKL_DEBUG_CPU_TYPE=5 (2.3x). Both must stand before Paddle is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from paddle_adaptseg.core.errors import ConfigError, UserError


def set_cpu_threads() -> None:
    """Choose thread variables for this machine; what the user has set stays."""
    if "paddle" in sys.modules:
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(cpu_count()))
    if "AuthenticAMD" in _cpuinfo():
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next tensor: fresh pages cost more than most operations on them.

    By default it returns every large block to the system and asks for it again, all pages zeroed. It is for a process
    whose business is a run of ours on a CPU. Nothing happens on a GPU, where the user has set MALLOC_ variables, or
    where the C library is not glibc.
    """
    import paddle

    if not paddle.get_device().startswith("cpu"):
        return
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    c_library = ctypes.CDLL(None)
    c_library.mallopt(_M_MMAP_MAX, 0)
    c_library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def program(name: str) -> str:
    """How to call a program of this Python's environment from here."""
    beside = Path(sys.executable).parent / name
    if Path(shutil.which(name) or "").parent == beside.parent or not beside.exists():
        return name
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)


def child_environment(**more: str) -> dict[str, str]:
    """The environment of a process of ours, which imports this very package wherever it starts."""
    above = str(Path(__file__).resolve().parents[2])
    found = os.pathsep.join(filter(None, [above, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": found, **more}


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def import_paddle() -> None:
    """Import Paddle without its two start-up notes (the thread count, which is deliberate, and a missing ccache)."""
    if "paddle" in sys.modules:
        return
    import zlib  # noqa: F401 (Paddle 2.6 brings a zlib that breaks every PNG when it is loaded before Python's)

    caught = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(caught):
        warnings.filterwarnings("ignore", message="No ccache")
        import paddle  # noqa: F401
    warnings.filterwarnings("ignore", message="When training, we now always track")  # given once per run by batch norm
    kept = [line for line in caught.getvalue().splitlines() if "OMP_NUM_THREADS" not in line]
    if kept:
        print("\n".join(kept), file=sys.stderr)


def set_device(name: str) -> str:
    """Select 'auto', 'cpu', 'gpu' or 'gpu:N' and return what was selected."""
    import paddle

    if name == "auto":
        name = "gpu" if _gpus() else "cpu"
    if name.split(":")[0] not in ("cpu", "gpu"):
        raise ConfigError(f"run.device must be auto, cpu, gpu or gpu:N, not '{name}'")
    if name.startswith("gpu") and not _gpus():
        raise ConfigError(f"run.device is '{name}', but this Paddle sees no GPU; use run.device=cpu")
    paddle.set_device(name)
    return name


ACCELERATE = "PADDLE_ADAPTSEG_ACCELERATE"  # an environment variable that goes before the configuration
_accelerate = ["auto"]


def set_accelerate(choice: str) -> None:
    """Choose whether oneDNN computes what it can on a CPU: auto, on or off."""
    asked = os.environ.get(ACCELERATE, "auto")
    if asked not in ("auto", "on", "off"):
        raise ConfigError(f"{ACCELERATE} must be auto, on or off, not '{asked}'")
    _accelerate[0] = choice


def accelerates() -> bool:
    """What was chosen, or what the environment says instead."""
    return os.environ.get(ACCELERATE, _accelerate[0]) != "off"


def has_device(name: str) -> bool:
    """Whether this machine has the device: 'gpu:1' needs two GPUs; 'auto' and 'cpu' are everywhere."""
    kind, _, number = name.partition(":")
    return kind != "gpu" or int(number if number.isdecimal() else 0) < _gpus()


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return [named[n] if n < len(named) and named[n] else str(n) for n in range(_gpus())]


def _gpus() -> int:
    import paddle

    return paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0


def autocast_kinds() -> list[str]:
    """The values of run.precision that this GPU has. With any other Paddle's auto_cast warns and stays in 32 bits."""
    import paddle

    major, _ = paddle.device.cuda.get_device_capability()
    return ["fp32"] + ["fp16"] * (major >= 7) + ["bf16"] * (major >= 8)


def check_autocast(key: str, kind: str) -> None:
    """Refuse what this GPU does not have; `key` is where it was asked for."""
    if kind not in autocast_kinds():
        raise ConfigError(f"{key}={kind}: this GPU has no {kind}; use {' or '.join(autocast_kinds())}")


def set_cudnn(deterministic: bool, autotune: Optional[bool] = None) -> None:
    """Choose cuDNN kernels: those that repeat themselves, or the fastest of all as timed once for each size of image.

    Paddle refuses both at once. Without a word on either it times them, unless the user has set Paddle's variables. On
    a CPU nothing is chosen: every run repeats itself anyway.
    """
    import paddle

    flags = {CUDNN_FLAGS[0]: deterministic, CUDNN_FLAGS[1]: not deterministic if autotune is None else autotune}
    the_users = not deterministic and autotune is None and any(name in os.environ for name in flags)
    if paddle.device.is_compiled_with_cuda() and not the_users:
        paddle.set_flags(flags)


CUDNN_FLAGS = ("FLAGS_cudnn_deterministic", "FLAGS_cudnn_exhaustive_search")


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Make this step's randomness (dropout) a function of (seed, step, rank): resuming needs nothing that was saved."""
    import paddle

    paddle.seed((seed * 1_000_003 + rank * 15_485_863 + step) % (2**31))


PROFILES: list[Any] = []  # the one that is being taken (training/profile.py)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Inside, time belongs to a stage of a step where a profile is being taken (`run.profile`); also a decorator."""
    with PROFILES[0].timed(name) if PROFILES else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def fresh_names() -> Iterator[None]:
    """A scope in which Paddle counts parameter names from zero: optimiser state is stored under such names."""
    import paddle

    with paddle.utils.unique_name.guard():
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries print (from C++ too) off the console, unless they fail."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as log:
        try:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            yield
        except UserError:
            raise  # it says all that a user needs
        except BaseException:
            log.seek(0)
            os.write(kept[1], log.read()[-4000:])
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)


def environment() -> str:
    """One line on what this runs on, for logs and reports."""
    import numpy
    import paddle

    threads = os.environ.get("OMP_NUM_THREADS", "?")
    return (
        f"Paddle {paddle.__version__}, numpy {numpy.__version__}, Python {platform.python_version()}, "
        f"{paddle.get_device()}, {_cpu_name()} ({cpu_count()} cores, {threads} threads)"
    )


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else platform.processor()


def _cpu_name() -> str:
    for line in _cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()

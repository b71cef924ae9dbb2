"""Whether trainings here are right: equal to the originals' figures, to themselves, and to several processes'."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import paddle

from paddle_adaptseg.config.loading import SHIPPED, load_config
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core.runtime import autocast_kinds, child_environment
from paddle_adaptseg.data.toy import ToySpec, write_toy_pair
from paddle_adaptseg.lab.doctor.checks import FAILED, OK, PACKAGE, SKIPPED, Finding, Given, judge
from paddle_adaptseg.lab.doctor.figures import load_figures, replay
from paddle_adaptseg.lab.launch import quoted
from paddle_adaptseg.training.checkpoint import load_state, state_path
from paddle_adaptseg.training.run import fit

STEPS = 4
LOSS, CHANGE = 1e-3, 2e-2  # float32 against the originals' float64
TF32 = 20.0  # times as much with products of 10 bits
CLOSE = 1e-4  # of one process and two, relative
NEAR = 0.05  # of 32 and 16 bits


def config_of(given: Given, name: str, *more: str) -> Config:
    """A training of seconds on a tiny toy pair."""
    return load_config(SHIPPED / "toy/adaptsegnet_multi.yml", overrides(given, name, *more))


def overrides(given: Given, name: str, *more: str) -> list[str]:
    root = given.folder / "toy"
    write_toy_pair(root, ToySpec(source=6, target=6, validation=1, height=48, width=96))
    roots = {"source": "GTA5", "target": "Cityscapes", "validation": "Cityscapes"}
    return [
        *(quoted(f"data.{domain}.root", root / part) for domain, part in roots.items()),
        *(f"data.{domain}.size=[96, 48]" for domain in roots),
        "data.batch_size=2", "data.workers=0", "model.width=8", "method.ramp.start=0", "run.deterministic=true",
        "schedule.horizon=8", f"schedule.stop={STEPS}", "run.log_every=1", "run.eval_every=0", "run.save_every=2",
        f"run.device={given.device}", quoted("run.output", given.folder / name), *more,
    ]  # fmt: skip


def arrays_of(given: Given, name: str, step: int = STEPS) -> Mapping[str, np.ndarray]:
    """The state of a run: weights and optimisers."""
    return load_state(state_path(given.folder / name, step)).arrays


def straight(given: Given) -> Mapping[str, np.ndarray]:
    """The state of an uninterrupted run, which is trained by the first check that needs it."""
    if not state_path(given.folder / "straight", STEPS).exists():
        fit(config_of(given, "straight"))
    return arrays_of(given, "straight")


def different(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> list[str]:
    """Names of tensors that are not equal to the last bit."""
    return [name for name in one if not np.array_equal(one[name], other[name])]


def distance(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    """l2 norm of the difference of two states over that of the first."""
    first, second = (
        np.concatenate([arrays[name].astype(np.float64).ravel() for name in one]) for arrays in (one, other)
    )
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


def deterministic(given: Given) -> Finding:
    """Two runs of one configuration."""
    fit(config_of(given, "again"))
    odd = different(straight(given), arrays_of(given, "again"))
    fault = f"two runs of one seed differ in {len(odd)} tensors ({', '.join(odd[:2])}) with run.deterministic=true"
    return judge(not odd, f"two runs of {STEPS} steps compared", fault, different=len(odd))


def resumed(given: Given) -> Finding:
    """A run that is broken off and resumed, beside a straight one."""
    fit(config_of(given, "resumed", f"schedule.stop={STEPS // 2}"))
    fit(config_of(given, "resumed"), resume="latest")
    odd = different(straight(given), arrays_of(given, "resumed"))
    fault = f"it differs from a straight run in {len(odd)} tensors ({', '.join(odd[:2])})"
    return judge(not odd, f"a run resumed at step {STEPS // 2} compared", fault, different=len(odd))


def precision(given: Given) -> Finding:
    """Steps in 16 bits beside those in 32."""
    if not given.on_gpu:
        return Finding(SKIPPED, "Paddle has no mixed precision on a CPU")
    supported = {kind: kind in autocast_kinds() for kind in ("bf16", "fp16")}
    apart = {}
    for kind in (kind for kind, has in supported.items() if has):
        fit(config_of(given, kind, f"run.precision={kind}", "run.deterministic=false"))
        apart[kind] = distance(straight(given), arrays_of(given, kind))
    text = ", ".join(f"{kind}: weights within {value:.1e} of fp32's" for kind, value in apart.items())
    text += "".join(f"; this GPU has no {kind}" for kind, has in supported.items() if not has)
    return judge(all(value <= NEAR for value in apart.values()), text, f"more than {NEAR}", **apart)


@contextlib.contextmanager
def tensor_float_32(allowed: bool) -> Iterator[None]:
    """Let matrix products and convolutions of GPUs since Ampere round their factors to 10 bits (Paddle's default)."""
    core = paddle.base.core
    before = core.get_cublas_switch(), core.get_cudnn_switch()
    core.set_cublas_switch(allowed)
    core.set_cudnn_switch(allowed)
    try:
        yield
    finally:
        core.set_cublas_switch(before[0])
        core.set_cudnn_switch(before[1])


def parity(given: Given) -> Finding:
    """The originals' losses and changes; on a GPU also with TF32."""
    if not given.on_gpu:
        return compare_figures(1.0, "")
    with tensor_float_32(False):
        plain = compare_figures(1.0, "TF32 off: ")
    with tensor_float_32(True):
        rounded = compare_figures(TF32, "TF32 on: ")
    verdict = OK if plain.verdict == rounded.verdict == OK else FAILED
    return Finding(verdict, f"{plain.text}; {rounded.text}", {"off": plain.numbers, "on": rounded.numbers})


def compare_figures(looser: float, title: str) -> Finding:
    """Every family's case; what is out of its limits is named."""
    found = {name: replay(case) for name, case in load_figures().items()}
    bad = [name for name, (loss, change) in found.items() if not (loss <= looser * LOSS and change <= looser * CHANGE)]
    loss, change = (max(values) for values in zip(*found.values()))
    text = f"{title}losses of {len(found)} families within {loss:.1e} of the originals', changes within {change:.1e}"
    return judge(not bad, text, f"{', '.join(bad)}: more than {looser * LOSS:g} and {looser * CHANGE:g}", **found)


def two_processes(given: Given) -> Finding:
    """A step of two processes with one image each, beside one of one process with two."""
    gpus = paddle.device.cuda.device_count() if given.on_gpu else 0
    if gpus == 1:
        return Finding(SKIPPED, "one GPU")
    fit(config_of(given, "alone", "model.norm=group"))
    command = [sys.executable, "-m", "paddle.distributed.launch", "--log_dir", str(given.folder / "launcher")]
    command += ["--devices", "0,1"] if gpus else ["--nproc_per_node", "2"]
    command += ["--backend", "gloo"] if paddle.device.is_compiled_with_cuda() and not gpus else []
    environment = child_environment()
    if not environment.get("CUDA_VISIBLE_DEVICES"):
        environment.pop("CUDA_VISIBLE_DEVICES", None)  # Paddle's launcher takes an empty list for a list of devices
    more = overrides(given, "together", "model.norm=group", "data.batch_size=1")
    more = ["run.device=gpu" if text == f"run.device={given.device}" and gpus else text for text in more]
    command += [str(PACKAGE / "__main__.py"), "train", "--config", "toy/adaptsegnet_multi", "-o", *more]
    limit = max(30.0, given.seconds_left() + 30)
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", env=environment, timeout=limit
    )
    if done.returncode:
        return Finding(FAILED, f"two processes ended with code {done.returncode}: {last_line(done, given.folder)}")
    apart = distance(arrays_of(given, "alone"), arrays_of(given, "together"))
    text = f"weights and optimisers within {apart:.1e} of one process after {STEPS} steps"
    return judge(apart <= CLOSE, text, f"more than {CLOSE:g}", apart=apart)


def last_line(done: subprocess.CompletedProcess, folder: Path) -> str:
    """What a failed process said last."""
    logs = sorted(folder.glob("launcher/workerlog.*"))
    text = done.stdout + done.stderr + "".join(log.read_text(encoding="utf-8", errors="replace") for log in logs)
    errors = [line for line in text.splitlines() if "error" in line.lower()]
    return (errors or text.splitlines() or ["nothing"])[-1][:200]

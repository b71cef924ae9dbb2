"""The machine, its disk, its shared memory, and whether curves can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import paddle

from paddle_adaptseg.config.loading import SHIPPED, load_config
from paddle_adaptseg.core import runtime
from paddle_adaptseg.data import loader
from paddle_adaptseg.data.sampling import batch_bytes
from paddle_adaptseg.lab.doctor.checks import FAILED, OK, Finding, Given, judge
from paddle_adaptseg.training.log import RunLog

MB, GB = 10**6, 10**9
WRITTEN = 64 * MB
SLOWEST, FEWEST = 20.0, 2 * GB  # MB a second; bytes that two checkpoints of ResNet-101 with their optimisers take


def describe(given: Given) -> Finding:
    """Processor, memory, Paddle, GPUs and their driver."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{runtime.environment()}; {memory / GB:.0f} GB of memory"
    numbers = {"paddle": paddle.__version__, "memory": memory, "cores": runtime.cpu_count(), "device": given.device}
    if given.on_gpu:
        gpus = graphics_cards()
        numbers.update(gpus=gpus, cuda=paddle.version.cuda(), cudnn=paddle.version.cudnn())
        text += f"; CUDA {numbers['cuda']}, cuDNN {numbers['cudnn']}; {'; '.join(gpus)}"
        text += f"; cuDNN flags {paddle.get_flags(list(runtime.CUDNN_FLAGS))}"
    return Finding(OK, text, numbers)


def graphics_cards() -> list[str]:
    """Name, memory and driver of each GPU, as the driver says."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    if shutil.which(command[0]):
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=20)
        if done.returncode == 0:
            return done.stdout.strip().splitlines()
    return [paddle.device.cuda.get_device_name(n) for n in range(paddle.device.cuda.device_count())]


def disk(given: Given) -> Finding:
    """How fast a checkpoint reaches the disk, and how much room there is."""
    path, data = given.folder / "written", os.urandom(MB) * (WRITTEN // MB)
    began = time.perf_counter()
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    speed = WRITTEN / MB / (time.perf_counter() - began)
    path.unlink()
    free = shutil.disk_usage(given.folder).free
    text = f"{speed:.0f} MB/s written in '{given.folder.parent}', {free / GB:.0f} GB free"
    fault = f"checkpoints need {SLOWEST:.0f} MB/s and {FEWEST / GB:.0f} GB; write them elsewhere (run.output)"
    return judge(speed >= SLOWEST and free >= FEWEST, text, fault, megabytes_per_second=speed, free=free)


def shared_memory(given: Given) -> Finding:
    """Whether /dev/shm holds the batches that loader workers prepare."""
    data = load_config(SHIPPED / "gta5_cityscapes/adaptsegnet_multi.yml").data
    domains = [*data.all_sources().values(), data.target]
    size = batch_bytes([data.augment.crop or domain.size for domain in domains], data.batch_size)
    if not loader.SHARED.is_dir():
        return Finding(OK, f"there is no {loader.SHARED}: batches go through pipes")
    free = shutil.disk_usage(loader.SHARED).free
    text = f"{free / MB:.0f} MB free in {loader.SHARED}, {data.workers} workers"
    fault = (
        f"batches of {size / MB:.1f} MB do not fit and go through pipes, which is slower: start the container with a "
        "larger --shm-size, delete what lies there, or use data.workers=0"
    )
    return judge(loader.shared_memory_suffices(data.workers, size), text, fault, free=free, batch=size)


def visualdl(given: Given) -> Finding:
    """Whether VisualDL's records reach the disk."""
    log = RunLog(given.folder / "curves")
    for step in range(1, 4):
        log.scalars(step, {"loss/seg_main": 1.0 / step})
    log.flush()
    log.close()
    records = sum(path.stat().st_size for path in (given.folder / "curves" / "vdl").iterdir())
    if not records:
        return Finding(FAILED, "VisualDL wrote nothing")
    return Finding(OK, f"{records} bytes of records written", {"bytes": records})

"""Evaluation through Paddle Inference: the network's coarse logits as a program, run by oneDNN on a CPU.

The program ends before the last resize, which Paddle 3.3's oneDNN cannot run and upsample.py does faster.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Callable

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_adaptseg import runtime
from paddle_adaptseg.deploy.contract import Contract
from paddle_adaptseg.deploy.export import program_files
from paddle_adaptseg.deploy.program import save_program
from paddle_adaptseg.deploy.runners import paddle_program
from paddle_adaptseg.engine.inference import Backend, Forward, Inference, eager, fuse
from paddle_adaptseg.errors import ConfigError
from paddle_adaptseg.models.segmenter import Segmenter


class LogitsProgram(nn.Layer):
    """A normalised image [1, 3, H, W] of one size to fused logits [1, C, h, w]."""

    def __init__(self, network: Segmenter, options: Inference, size: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.levels, self.size = network, options.levels, size

    def spec(self) -> paddle.static.InputSpec:
        """What is fed."""
        return paddle.static.InputSpec([1, 3, *self.size], "float32", "image")

    def forward(self, image: Tensor) -> Tensor:
        return fuse(self.network.logits(image), self.levels)


def onednn(model: Segmenter, options: Inference) -> Forward:
    """A program for each size of image, made when it is first needed and kept in memory."""
    if not paddle.get_device().startswith("cpu"):
        raise ConfigError("--backend onednn is for CPUs; on a GPU use --backend eager, with --precision fp16 if wanted")
    if options.precision == "fp16":
        raise ConfigError("--precision fp16 runs on GPUs only; on a CPU use bf16")
    programs: dict[tuple[int, int], Callable[[np.ndarray], np.ndarray]] = {}

    def forward(image: Tensor) -> np.ndarray:
        size = (image.shape[2], image.shape[3])
        if size not in programs:
            programs[size] = open_program(model, options, size)
        return programs[size](np.ascontiguousarray(image.numpy()))[0]

    return forward


def open_program(model: Segmenter, options: Inference, size: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """A network of fixed input size as Paddle Inference runs it."""
    with tempfile.TemporaryDirectory() as scratch, runtime.quiet():
        save_program(LogitsProgram(model, options, size), str(Path(scratch) / "model"))
        files = program_files(Path(scratch))
        return paddle_program(
            Path(scratch), Contract("paddle", *files, options.precision, list(size), list(size), [], [])
        )


def automatic(model: Segmenter, options: Inference) -> Forward:
    """oneDNN on a CPU, with a note the network itself where no program can be made; on a GPU the network itself."""
    if not paddle.get_device().startswith("cpu"):
        return eager(model, options)
    fast = onednn(model, options)
    used: list[Forward] = []

    def forward(image: Tensor) -> np.ndarray:
        if not used:
            try:
                return fast(image)
            except (RuntimeError, ValueError, TypeError, NotImplementedError, OSError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                print(
                    f"note: Paddle Inference cannot run this network ({reason}); predicting without it", file=sys.stderr
                )
                used.append(eager(model, options))
        return used[0](image)

    return forward


BACKENDS: Mapping[str, Backend] = {"auto": automatic, "onednn": onednn, "eager": eager}

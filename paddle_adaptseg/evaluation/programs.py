"""Networks as programs of Paddle Inference: written from a layer, run by oneDNN on a CPU or by the GPU's kernels.

An evaluation's program ends before the last resize, which Paddle 3.3's oneDNN cannot run and logits.py does faster.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.files import confirm, writing
from paddle_adaptseg.evaluation.predictor import Backend, Forward, InferenceOptions, add_levels, eager
from paddle_adaptseg.models.layers import resize_by_products, with_zeros
from paddle_adaptseg.models.segmenter import Segmenter

Program = Callable[[np.ndarray], np.ndarray]


def save_program(program: nn.Layer, folder: Path, for_onednn: bool = True) -> tuple[str, str]:
    """Write model.pdiparams and model.json (Paddle 3) or model.pdmodel (2.6); returns the program's and weights' names.

    `program.spec()` says what it is fed. ONNX Runtime has no use for what is written `for_onednn`.
    """
    program.eval()
    suited = zeros_beside(program) if for_onednn else contextlib.nullcontext()
    with writing(folder / "model"), resize_by_products(), suited:
        paddle.jit.save(program, str(folder / "model"), input_spec=[program.spec()])
    for written in folder.glob("model.*"):
        confirm(written)  # Paddle writes what fits and says nothing
    return next(name for name in ("model.json", "model.pdmodel") if (folder / name).is_file()), "model.pdiparams"


NARROW = 3  # columns of padding that oneDNN's depthwise kernels take: 6 with AVX-512, 4 with AVX2, 3 with SSE4.1


class WideDepthwise(nn.Conv2D):
    """A depthwise convolution that puts the zeros left and right beside the map first.

    With more padding of its own oneDNN falls back to its general implementation, which takes twice as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        down, across = _padding(self)
        if all(isinstance(n, int) and n > 0 for n in x.shape):  # and not a program of any size
            x, across = with_zeros(x, across, across, 0, 0), 0
        return F.conv2d(x, self.weight, self.bias, self._stride, [down, across], self._dilation, self._groups)


def _padding(conv: nn.Conv2D) -> tuple[int, int]:
    """Zeros above and below, left and right; -1 where they are given otherwise."""
    given = conv._padding
    down, across = given if isinstance(given, (list, tuple)) and len(given) == 2 else (given, given)
    return (down, across) if isinstance(down, int) and isinstance(across, int) else (-1, -1)


@contextlib.contextmanager
def zeros_beside(network: nn.Layer) -> Iterator[None]:
    """Inside, depthwise convolutions with wide padding (DAFormer's dilated ones) are WideDepthwise."""
    before = []
    for layer in network.sublayers():
        if not isinstance(layer, nn.Conv2D) or layer._data_format != "NCHW" or layer._padding_mode != "zeros":
            continue
        if layer._groups == layer._in_channels == layer._out_channels > 1 and _padding(layer)[1] > NARROW:
            before.append((layer, layer.__class__))
            layer.__class__ = WideDepthwise
    try:
        yield
    finally:
        for layer, own in before:
            layer.__class__ = own


def open_program(program: Path, weights: Path, precision: str, fixed_size: bool) -> Program:
    """Run with Paddle Inference: oneDNN on a CPU, on a GPU in `precision`."""
    from paddle import inference as engine

    with runtime.quiet():
        predictor = engine.create_predictor(_settings(program, weights, precision, fixed_size))

    def call(image: np.ndarray) -> np.ndarray:
        predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(image)
        predictor.run()
        return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()

    return call


def _settings(program: Path, weights: Path, precision: str, fixed_size: bool) -> object:
    from paddle import inference as engine

    config = engine.Config(str(program), str(weights))
    config.disable_glog_info()
    device, _, number = paddle.get_device().partition(":")  # the one that was chosen: of the run, or of this process
    if device == "gpu":
        kind = {"fp32": "Float32", "bf16": "Bfloat16", "fp16": "Half"}[precision]
        config.enable_use_gpu(500, int(number), getattr(engine.PrecisionType, kind))
    elif precision == "fp16":
        raise ConfigError(f"'{program.parent}' was exported for fp16, which runs on GPUs only; export bf16 or fp32")
    else:
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(runtime.cpu_count())
        _set_onednn(config, fixed_size, precision)
    return config


def _set_onednn(config: Any, fixed_size: bool, precision: str) -> None:
    """oneDNN for programs of fixed size; Paddle 3.3's cannot run the resize operator that other sizes need."""
    if fixed_size or paddle.__version__.startswith("2."):
        config.enable_mkldnn()
        if precision == "bf16":
            config.enable_mkldnn_bfloat16()
    elif hasattr(config, "disable_mkldnn"):
        config.disable_mkldnn()


class LogitsProgram(nn.Layer):
    """A normalised image [1, 3, H, W] of one size to the sum of its levels' logits [1, C, h, w]."""

    def __init__(self, network: Segmenter, options: InferenceOptions, size: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.levels, self.size = network, options.levels, size

    def spec(self) -> paddle.static.InputSpec:
        """What is fed."""
        return paddle.static.InputSpec([1, 3, *self.size], "float32", "image")

    def forward(self, image: Tensor) -> Tensor:
        return add_levels(self.network.logits(image), self.levels)


def onednn(model: Segmenter, options: InferenceOptions) -> Forward:
    """A program for each size of image, made when it is first needed and kept in memory."""
    if not paddle.get_device().startswith("cpu"):
        raise ConfigError("--backend onednn is for CPUs; on a GPU use --backend eager, with --precision fp16 if wanted")
    if options.precision == "fp16":
        raise ConfigError("--precision fp16 runs on GPUs only; on a CPU use bf16")
    programs: dict[tuple[int, int], Program] = {}

    def forward(image: Tensor) -> np.ndarray:
        size = (image.shape[2], image.shape[3])
        if size not in programs:
            programs[size] = logits_program(model, options, size)
        images = np.ascontiguousarray(image.numpy())  # a program takes one
        return np.concatenate([programs[size](images[n : n + 1]) for n in range(len(images))])

    return forward


def logits_program(model: Segmenter, options: InferenceOptions, size: tuple[int, int]) -> Program:
    """A network of fixed input size as Paddle Inference runs it."""
    with tempfile.TemporaryDirectory() as scratch, runtime.quiet():
        folder = Path(scratch)
        program, weights = save_program(LogitsProgram(model, options, size), folder)
        return open_program(folder / program, folder / weights, options.precision, fixed_size=True)


def automatic(model: Segmenter, options: InferenceOptions) -> Forward:
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

"""Three ways from a picture to its labels: a network with weights, a Paddle program, an ONNX program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional, Union

import numpy as np
import paddle
from PIL import Image

from paddle_adaptseg import runtime
from paddle_adaptseg.config import Config
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.transforms import normalise, resize_label
from paddle_adaptseg.deploy.contract import FILE, Contract, read_contract
from paddle_adaptseg.engine.evaluator import predict_label
from paddle_adaptseg.engine.restore import load_model
from paddle_adaptseg.errors import CheckpointError, ConfigError
from paddle_adaptseg.models.layers import inference
from paddle_adaptseg.models.segmenter import Segmenter

STRIDE = 8  # sizes are rounded to the stride of the networks


def working_size(height: int, width: int, usual: Sequence[int]) -> tuple[int, int]:
    """(height, width) at which to run: the usual size, or as many pixels in the picture's own shape."""
    if abs(width * usual[0] / (height * usual[1]) - 1) < 0.02:
        return usual[0], usual[1]
    scale = (usual[0] * usual[1] / (height * width)) ** 0.5
    return max(STRIDE, round(height * scale / STRIDE) * STRIDE), max(STRIDE, round(width * scale / STRIDE) * STRIDE)


def scaled(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A picture at (height, width), as evaluation resizes it."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.BICUBIC))


class NetworkRunner:
    """A network in eager mode; logits are resized to the picture before the class is chosen, as in evaluation."""

    def __init__(self, model: Segmenter, config: Config, size: Optional[Sequence[int]] = None) -> None:
        self.model, self.config, self.space = model, config, label_space(config)
        self.usual = tuple(size or config.data.validation.size[::-1])  # height, width
        self.title = f"{config.model.name}, {paddle.get_device()}"

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Class indices [H, W] of an RGB picture [H, W, 3]."""
        small = scaled(image, working_size(image.shape[0], image.shape[1], self.usual))
        with inference(self.model):
            batch = normalise(paddle.to_tensor(np.ascontiguousarray(small[None])), self.config.data.pixels)
            return predict_label(self.model, batch, image.shape[:2])


class ProgramRunner:
    """An exported program: it labels pictures at its own size, and labels are then scaled without blending."""

    def __init__(self, folder: Path) -> None:
        self.contract = read_contract(folder)
        self.space = self.contract.space()
        self.call = BACKENDS[self.contract.format](folder, self.contract)
        self.title = f"{self.contract.format} program, {self.contract.precision}"

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Class indices [H, W] of an RGB picture [H, W, 3]."""
        size = self.contract.size or working_size(image.shape[0], image.shape[1], self.contract.recommended)
        found = self.call(np.ascontiguousarray(scaled(image, size)[None]))
        return resize_label(found[0].astype(np.uint8), image.shape[1::-1])


def paddle_program(folder: Path, contract: Contract) -> Callable[[np.ndarray], np.ndarray]:
    """Run with Paddle Inference: oneDNN on a CPU, the contract's precision on a GPU."""
    from paddle import inference as engine

    with runtime.quiet():
        predictor = engine.create_predictor(_settings(folder, contract))

    def call(image: np.ndarray) -> np.ndarray:
        predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(image)
        predictor.run()
        return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()

    return call


def _settings(folder: Path, contract: Contract) -> object:
    from paddle import inference as engine

    config = engine.Config(str(folder / contract.program), str(folder / contract.weights))
    config.disable_glog_info()
    if runtime.set_device("auto").startswith("gpu"):
        precision = {"fp32": "Float32", "bf16": "Bfloat16", "fp16": "Half"}[contract.precision]
        config.enable_use_gpu(500, 0, getattr(engine.PrecisionType, precision))
    elif contract.precision == "fp16":
        raise ConfigError(f"'{folder}' was exported for fp16, which runs on GPUs only; export bf16 or fp32 for a CPU")
    else:
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(runtime.cpu_count())
        set_onednn(config, contract.size is not None, contract.precision)
    return config


def set_onednn(config: Any, fixed: bool, precision: str) -> None:
    """oneDNN for programs of fixed size; Paddle 3.3's cannot run the resize operator that other sizes need."""
    if fixed or paddle.__version__.startswith("2."):
        config.enable_mkldnn()
        if precision == "bf16":
            config.enable_mkldnn_bfloat16()
    elif hasattr(config, "disable_mkldnn"):
        config.disable_mkldnn()


def onnx_program(folder: Path, contract: Contract) -> Callable[[np.ndarray], np.ndarray]:
    """Run with onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        raise CheckpointError('ONNX programs need onnxruntime: pip install -e ".[deploy]"') from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = runtime.cpu_count()
    providers = [p for p in onnxruntime.get_available_providers() if p.startswith(("CUDA", "CPU"))]
    session = onnxruntime.InferenceSession(str(folder / contract.program), options, providers=providers)
    return lambda image: session.run(None, {session.get_inputs()[0].name: image})[0]


BACKENDS: Mapping[str, Callable[[Path, Contract], Callable[[np.ndarray], np.ndarray]]] = {
    "paddle": paddle_program,
    "onnx": onnx_program,
}


Runner = Union[NetworkRunner, ProgramRunner]


def open_runner(origin: str | Path, config: Optional[Config] = None) -> Runner:
    """A runner for a weights file, the folder of a run, or an exported folder."""
    path = Path(origin)
    if (path / FILE).is_file():
        return ProgramRunner(path)
    return NetworkRunner(*load_model(path, config))

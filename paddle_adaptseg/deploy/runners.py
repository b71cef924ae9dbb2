"""What labels images of any size: a network with weights, or an exported program (Paddle Inference, ONNX)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import paddle

from paddle_adaptseg import runtime
from paddle_adaptseg.config import Config
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.transforms import resize_label
from paddle_adaptseg.deploy.contract import FILE, Contract, read_contract
from paddle_adaptseg.errors import CheckpointError, ConfigError
from paddle_adaptseg.evaluation.predictor import Predictor, scaled, working_size
from paddle_adaptseg.evaluation.programs import Program, open_program
from paddle_adaptseg.labels import LabelSpace
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.weights.load import find_weights, load_model


@dataclass(frozen=True)
class Runner:
    """RGB images [H, W, 3] uint8 to class indices [H, W] uint8, what they mean, and a line about it."""

    labels: Callable[[np.ndarray], np.ndarray]
    space: LabelSpace
    title: str


def network_runner(model: Segmenter, config: Config, size: Optional[Sequence[int]] = None) -> Runner:
    """A network, at the size (height, width) that it is evaluated at unless another is given."""
    model.eval()  # once for all, so that several threads may ask at once
    predictor = Predictor(model, config.data.pixels, size=size or config.data.validation.size[::-1])
    return Runner(predictor.labels, label_space(config), f"{config.model.name}, {paddle.get_device()}")


def program_runner(folder: Path) -> Runner:
    """An exported program: it labels images at its own size, and labels are then scaled without blending."""
    contract = read_contract(folder)
    program = FORMATS[contract.format](folder, contract)

    def labels(image: np.ndarray) -> np.ndarray:
        size = contract.size or working_size(image.shape, contract.recommended)
        found = program(np.ascontiguousarray(scaled(image, size)[None]))
        return resize_label(found[0].astype(np.uint8), image.shape[1::-1])

    return Runner(labels, contract.space(), f"{contract.format} program, {contract.precision}")


def paddle_program(folder: Path, contract: Contract) -> Program:
    """Run with Paddle Inference."""
    return open_program(folder / contract.program, folder / contract.weights, contract.precision, bool(contract.size))


def onnx_program(folder: Path, contract: Contract) -> Program:
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


FORMATS: Mapping[str, Callable[[Path, Contract], Program]] = {"paddle": paddle_program, "onnx": onnx_program}


def model_files(origin: str | Path) -> list[Path]:
    """The files that open_runner reads."""
    path = Path(origin).resolve()
    if not (path / FILE).is_file():
        return [find_weights(path)]
    contract = read_contract(path)
    return [path / name for name in (FILE, contract.program, contract.weights) if name]


def open_runner(origin: str | Path, config: Optional[Config] = None, overrides: Sequence[str] = ()) -> Runner:
    """A runner for a weights file, the folder of a run, or an exported folder; `overrides` change its saved config."""
    path = Path(origin)
    if not (path / FILE).is_file():
        return network_runner(*load_model(path, config, overrides))
    if config is not None or overrides:
        raise ConfigError(f"'{path}' is an exported program, whose settings are fixed: leave out --config and -o")
    return program_runner(path)

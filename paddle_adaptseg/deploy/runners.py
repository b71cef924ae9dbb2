"""Networks and exported programs in use: one call from an image to its labels, and `predict` for notebooks."""

from __future__ import annotations

import contextlib
import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional, Union

import numpy as np
import paddle
from PIL import Image

from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import CheckpointError, ConfigError, DataError
from paddle_adaptseg.core.labels import LabelSpace
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.augment import resize_label
from paddle_adaptseg.data.decode import decode_rgb
from paddle_adaptseg.data.files import Ref
from paddle_adaptseg.deploy.contract import FILE, Contract, read_contract
from paddle_adaptseg.evaluation.logits import HostLogits
from paddle_adaptseg.evaluation.options import PLAIN, InferenceOptions, windows
from paddle_adaptseg.evaluation.predictor import Predictor, scaled, working_size
from paddle_adaptseg.evaluation.programs import Program, open_program
from paddle_adaptseg.evaluation.visual import legend_figure, overlay
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.weights.load import find_weights, load_model
from paddle_adaptseg.weights.reader import split_part


@dataclass(frozen=True)
class Runner:
    """RGB images [H, W, 3] uint8 to class indices [H, W] uint8, what they mean, and a line about it."""

    labels: Callable[[np.ndarray], np.ndarray]
    space: LabelSpace
    title: str
    ready: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext  # around many images, to save time


def network_runner(
    model: Segmenter, config: Config, size: Optional[Sequence[int]] = None, options: InferenceOptions = PLAIN,
    full_size: bool = False,
) -> Runner:  # fmt: skip
    """A network, at the size (height, width) that it is evaluated at, at another one, or at the size of each image."""
    model.eval()  # once for all, so that several threads may ask at once
    usual = None if full_size else size or config.data.validation.size[::-1]
    predictor = Predictor(model, config.data.pixels, options.within(config.eval), size=usual)
    return Runner(predictor.labels, label_space(config), f"{config.model.name}, {paddle.get_device()}", predictor.ready)


def program_runner(folder: Path, full_size: bool = False) -> Runner:
    """An exported program: it labels images at its own size, and labels are then scaled without blending.

    A program of one window labels images at the size that its network was evaluated at, with `full_size` as they are.
    """
    contract = read_contract(folder)
    program, title = FORMATS[contract.format](folder, contract), f"{contract.format} program, {contract.precision}"
    if contract.window:
        return Runner(lambda image: stitched_labels(program, contract, image, full_size), contract.space(), title)
    if full_size:
        raise ConfigError(
            f"'{folder}' is a program of whole images, and --full-size needs one of windows: "
            "export it again with -o eval.window=[WIDTH,HEIGHT]"
        )

    def labels(image: np.ndarray) -> np.ndarray:
        size = contract.size or working_size(image.shape, contract.recommended)
        found = program(np.ascontiguousarray(scaled(image, size)[None]))
        return resize_label(found[0].astype(np.uint8), image.shape[1::-1])

    return Runner(labels, contract.space(), title)


def stitched_labels(program: Program, contract: Contract, image: np.ndarray, full_size: bool = False) -> np.ndarray:
    """Labels of an image of any size by a program of one window; what is smaller than a window is continued first."""
    assert contract.window is not None
    small = image if full_size else scaled(image, working_size(image.shape, contract.recommended))
    size = small.shape[:2]
    rest = [max(0, least - own) for least, own in zip(contract.window, size)]
    small = np.pad(small, ((0, rest[0]), (0, rest[1]), (0, 0)), "edge")
    places = windows(small.shape[:2], contract.window[::-1], contract.stride and contract.stride[::-1])
    parts = [(place, program(np.ascontiguousarray(small[place][None]))[0]) for place in places]
    blended = HostLogits.blend(parts, small.shape[:2], contract.align_corners, contract.average)
    whole = [round(n * padded / own) for n, padded, own in zip(image.shape, small.shape, size)]
    return HostLogits([blended], [1.0], contract.align_corners).labels(whole)[: image.shape[0], : image.shape[1]]


def paddle_program(folder: Path, contract: Contract) -> Program:
    """Run with Paddle Inference."""
    return open_program(
        folder / contract.program, folder / contract.weights, contract.precision, bool(contract.size or contract.window)
    )


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
        return [split_part(find_weights(path))[0]]
    contract = read_contract(path)
    return [path / name for name in (FILE, contract.program, contract.weights) if name]


def open_runner(
    origin: str | Path, config: Optional[Config] = None, overrides: Sequence[str] = (),
    options: InferenceOptions = PLAIN, full_size: bool = False,
) -> Runner:  # fmt: skip
    """A runner for a weights file, the folder of a run, or an exported folder; `overrides` change its saved config."""
    path = Path(origin)
    if not (path / FILE).is_file():
        return network_runner(*load_model(path, config, overrides), options=options, full_size=full_size)
    if config is not None or overrides or options != PLAIN:
        raise ConfigError(
            f"'{path}' is an exported program, whose settings are fixed: "
            "leave out --config, -o, --window, --stride, --average and --windows-at-once"
        )
    return program_runner(path, full_size)


KEPT = 2  # models that stay open between calls
_OPEN: OrderedDict[tuple, Runner] = OrderedDict()


@dataclass(frozen=True)
class Prediction:
    """Class indices of an image; a notebook shows it as a figure with a legend, numpy takes it as an array."""

    labels: np.ndarray
    image: np.ndarray
    space: LabelSpace

    def overlay(self) -> np.ndarray:
        """The image with the classes' colours over it, RGB [H, W, 3]."""
        return overlay(self.image, self.labels, self.space)

    def figure(self) -> Image.Image:
        """Image, overlay and a legend of the classes that occur with their shares."""
        return Image.fromarray(legend_figure(self.image, self.labels, self.space))

    def __repr__(self) -> str:
        height, width = self.labels.shape
        classes = [self.space.names[i] for i in np.unique(self.labels) if i < len(self.space)]
        return f"labels of a {width}x{height} image: {', '.join(classes)}"

    def _repr_png_(self) -> bytes:
        """What notebooks show."""
        data = io.BytesIO()
        self.figure().save(data, "PNG")
        return data.getvalue()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.labels if dtype is None else self.labels.astype(dtype)


def predict(image: Union[np.ndarray, Image.Image, str, Path], model: Union[str, Path, Runner]) -> Prediction:
    """Label an image (RGB uint8 [H, W, 3], a Pillow image, or a file) with weights, a run's folder or an export."""
    pixels = _pixels(image)
    runner = _runner(model) if isinstance(model, (str, Path)) else model
    return Prediction(runner.labels(pixels), pixels, runner.space)


def _pixels(image: Union[np.ndarray, Image.Image, str, Path]) -> np.ndarray:
    if isinstance(image, (str, Path)):
        return decode_rgb(Ref(str(Path(image).parent), Path(image).name))
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"predict needs an RGB image, uint8 [height, width, 3], not {found}")
    return image


def _runner(origin: Union[str, Path]) -> Runner:
    """The runner of a path, kept while the files that it reads stay the same."""
    key = (
        Path(origin).resolve(),
        *((path, path.stat().st_mtime_ns, path.stat().st_size) for path in model_files(origin)),
    )
    if key not in _OPEN:
        _OPEN[key] = open_runner(origin)
        while len(_OPEN) > KEPT:
            _OPEN.popitem(last=False)
    _OPEN.move_to_end(key)
    return _OPEN[key]

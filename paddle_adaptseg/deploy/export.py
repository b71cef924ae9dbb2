"""From weights to a folder that runs without this package: program, contract, model card, and proof that it agrees."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_adaptseg.config.schema import Config, Pixels
from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import CheckpointError, ConfigError, DataError
from paddle_adaptseg.core.files import confirm, sha256, write_atomically
from paddle_adaptseg.data import label_space, open_validation
from paddle_adaptseg.data.toy import CAMERA, make_scene
from paddle_adaptseg.deploy.contract import Contract, card, check_choice, write_contract
from paddle_adaptseg.deploy.quantise import calibration_images, quantise
from paddle_adaptseg.deploy.runners import Runner, network_runner, program_runner
from paddle_adaptseg.evaluation.predictor import STRIDE, scaled
from paddle_adaptseg.evaluation.programs import save_program
from paddle_adaptseg.models.layers import resize_like
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.weights.load import find_weights, load_model
from paddle_adaptseg.weights.reader import read_weights, split_part


class LabelProgram(nn.Layer):
    """uint8 [1, H, W, 3] RGB to int32 [1, H, W]; `size` (height, width) is fixed, or None for any size."""

    def __init__(self, network: Segmenter, pixels: Pixels, size: Optional[Sequence[int]]) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.reverse = pixels.order == "bgr"
        self.register_buffer("mean", paddle.to_tensor(pixels.mean, "float32").reshape([1, 3, 1, 1]))
        self.register_buffer("deviation", paddle.to_tensor(pixels.std, "float32").reshape([1, 3, 1, 1]))

    def spec(self) -> paddle.static.InputSpec:
        """What is fed."""
        height, width = self.size or (-1, -1)
        return paddle.static.InputSpec([1, height, width, 3], "uint8", "image")

    def normalised(self, image: Tensor) -> Tensor:
        """Network input [1, 3, H, W]."""
        x = image.astype("float32").transpose([0, 3, 1, 2])  # Paddle 2.6 traces no transpose of uint8
        if self.reverse:
            x = paddle.flip(x, axis=[1])
        return (x - self.mean) / self.deviation

    def forward(self, image: Tensor) -> Tensor:
        x = self.normalised(image)
        logits = self.network.logits(x)["main"]
        return resize_like(logits, x, self.network.align_corners).argmax(axis=1).astype("int32")


class WindowProgram(LabelProgram):
    """One window of an image, uint8 [1, H, W, 3] RGB, to its logits [1, C, h, w]; runners.py puts windows together."""

    def forward(self, image: Tensor) -> Tensor:
        return self.network.logits(self.normalised(image))["main"]


class PlainGroupNorm(nn.Layer):
    """Group norm from elementary operations: paddle2onnx 2.1 turns Paddle 3's own one into NaN, and
    1.3 converts this one wrongly, but Paddle 2.6's own one rightly."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.groups, self.epsilon = norm._num_groups, norm._epsilon

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(1).reshape([0, self.groups, -1])  # 0: as many images as there are
        y = y - y.mean(axis=-1, keepdim=True)
        y = y * paddle.rsqrt((y * y).mean(axis=-1, keepdim=True) + self.epsilon)
        return y.reshape(paddle.shape(x)) * self.weight.reshape([1, -1, 1, 1]) + self.bias.reshape([1, -1, 1, 1])


def plain_norms(layer: nn.Layer) -> None:
    """Replace every group norm below a layer by its elementary form."""
    for name, child in list(layer.named_children()):
        if isinstance(child, nn.GroupNorm):
            setattr(layer, name, PlainGroupNorm(child))
        else:
            plain_norms(child)


IMAGES = 4  # compared after an export
ENOUGH = {"fp32": 0.999, "bf16": 0.97, "fp16": 0.97, "int8": 0.97}  # share of pixels whose label must agree
OPSET = 13


@dataclass(frozen=True)
class Exported:
    """What an export made and whether it agrees with the network; `agreement` is None where it cannot run here."""

    folder: Path
    agreement: Optional[float]
    lines: list[str]

    def good(self, precision: str) -> bool:
        """Whether enough pixels agree."""
        return self.agreement is None or self.agreement >= ENOUGH[precision]


def export_model(
    origin: str | Path, folder: str | Path, form: str = "paddle", size: Optional[Sequence[int]] = None,
    dynamic: bool = False, precision: str = "fp32", config: Optional[Config] = None, overrides: Sequence[str] = (),
) -> Exported:  # fmt: skip
    """Write a program for weights; `size` (height, width) is the validation size unless given, or any if `dynamic`.

    Where the configuration evaluates in windows the program is of one window, and images may have any size. `overrides`
    change the configuration saved in the weights, where no other one is given.
    """
    check_choice(form, precision)
    folder = Path(folder)
    model, config = load_model(origin, config, overrides)
    window = config.eval.window
    size = None if dynamic else list(size or config.data.validation.size[::-1])
    check_size(list(window[::-1]) if window else size, precision, model.fixed_size)
    network = network_runner(model, config, size)
    if form == "onnx" and not paddle.__version__.startswith("2."):
        model = load_model(origin, config)[0]  # the comparison keeps the network as it is trained
        plain_norms(model)
    with tempfile.TemporaryDirectory() as scratch:
        files = WRITERS[form](program_of(model, config, size), Path(scratch), precision)
        told = []
        if precision == "int8":
            name, images = calibration_images(config, size)
            quantise(Path(scratch) / files[0], images)
            told = [f"ranges of activations come from {len(images)} {name}"]
        for name in filter(None, files):
            data = (Path(scratch) / name).read_bytes()
            write_atomically(folder / name, lambda handle, data=data: handle.write(data))
    contract = contract_of(config, model, form, files, precision, size)
    write_contract(folder, contract)
    path = find_weights(origin)
    agreement, check = compare(network, folder, contract, config)
    about = {"weights": path.name, "sha256_of_the_weights": sha256(split_part(path)[0]), **read_weights(path).origin}
    text = card(contract, config, about, [check, *told, f"made with {runtime.environment()}"])
    write_atomically(folder / "README.md", lambda handle: handle.write(text.encode()))
    made = ", ".join(f"{name} ({(folder / name).stat().st_size / 2**20:.1f} MB)" for name in files if name)
    return Exported(folder, agreement, [f"{config.model.name} from {path}", f"{folder}: {made}", *told, check])


def program_of(model: Segmenter, config: Config, size: Optional[Sequence[int]]) -> LabelProgram:
    """What is exported: the labels of an image, or the logits of a window."""
    window = config.eval.window
    if window:
        return WindowProgram(model, config.data.pixels, window[::-1])
    return LabelProgram(model, config.data.pixels, size)


def contract_of(
    config: Config, model: Segmenter, form: str, files: tuple[str, str], precision: str, size: Optional[list[int]]
) -> Contract:
    """What is promised of a program; one of windows takes images of any size."""
    space, usual, sliding = label_space(config), list(config.data.validation.size[::-1]), config.eval
    colours = [list(colour) for colour in space.colours]
    contract = Contract(form, *files, precision, size, usual, list(space.names), colours)
    if sliding.window is None:
        return contract
    stride = list(sliding.stride[::-1]) if sliding.stride else None
    return replace(
        contract, size=None, recommended=size or usual, window=list(sliding.window[::-1]), stride=stride,
        average=sliding.average, align_corners=model.align_corners,
    )  # fmt: skip


def check_size(size: Optional[Sequence[int]], precision: str, fixed: bool = False) -> None:
    """Refuse sizes and precisions that cannot run; `fixed`: the network is a program of one size."""
    if size is not None and (len(size) != 2 or min(size) < 4 * STRIDE):
        raise ConfigError(f"--size must be height,width of at least {4 * STRIDE} each, not {list(size)}")
    if size is None and fixed:
        raise ConfigError("this network is exported for one size (--size H,W): its numbers or windows are made for it")
    if size is None and precision == "bf16":
        raise ConfigError("bf16 needs a fixed size (--size H,W): Paddle 3's oneDNN has no resize to a size known later")


def write_paddle(program: LabelProgram, folder: Path, precision: str) -> tuple[str, str]:
    """Files of a Paddle program; its precision is chosen when it is loaded."""
    with runtime.quiet():
        return save_program(program, folder)


def write_onnx(program: LabelProgram, folder: Path, precision: str) -> tuple[str, str]:
    """One ONNX file."""
    try:
        with runtime.quiet():
            import paddle2onnx
    except ImportError:
        raise CheckpointError('ONNX export needs paddle2onnx: pip install -e ".[deploy]"') from None
    made = folder / "model.onnx"
    with runtime.quiet(), inside(folder):  # it leaves files where it runs
        names = [str(folder / name) for name in save_program(program, folder, for_onednn=False)]
        half = precision == "fp16"
        paddle2onnx.export(*names, str(made), opset_version=OPSET, verbose=False, export_fp16_model=half)
    if not made.is_file():
        raise CheckpointError(f"paddle2onnx {paddle2onnx.__version__} wrote no program for this network")
    confirm(made)
    return made.name, ""


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in another folder and come back."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


WRITERS: Mapping[str, Callable[[LabelProgram, Path, str], tuple[str, str]]] = {
    "paddle": write_paddle,
    "onnx": write_onnx,
}


def compare(network: Runner, folder: Path, contract: Contract, config: Config) -> tuple[Optional[float], str]:
    """Share of pixels that the program and the network label alike, and a line that says so."""
    if contract.format == "paddle" and contract.precision == "fp16" and paddle.get_device() == "cpu":
        return None, "not compared: fp16 Paddle programs run on GPUs only"
    runner, (name, images) = program_runner(folder), sample_images(config)
    size = contract.size or contract.recommended
    same = [runner.labels(image) == network.labels(image) for image in (scaled(i, size) for i in images)]
    share = float(np.mean(same))
    return share, f"{100 * share:.3f} % of pixels get the same label as from the network ({len(images)} {name})"


def sample_images(config: Config) -> tuple[str, list[np.ndarray]]:
    """The first validation images, or generated street scenes where the data set is missing."""
    try:
        files = open_validation(config)
        return f"images of {files.title}", [files.image(i) for i in range(min(IMAGES, len(files)))]
    except DataError:
        width, height = config.data.validation.size
        return "generated scenes", [make_scene(0, i, CAMERA, height, width)[0] for i in range(IMAGES)]

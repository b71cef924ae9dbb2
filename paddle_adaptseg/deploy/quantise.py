"""An ONNX program in int8: weights of convolutions and linear layers in 8 bits, and what they are applied to."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core.errors import CheckpointError, DataError
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.reading import spread
from paddle_adaptseg.data.toy import CAMERA, make_scene
from paddle_adaptseg.evaluation.predictor import scaled, working_size

IMAGES = 8  # that the ranges of activations are taken from
FOLDED = "p2o."  # begins what paddle2onnx names itself: matrices of a resize, not a layer's weights


def calibration_images(config: Config, size: Optional[Sequence[int]]) -> tuple[str, list[np.ndarray]]:
    """What they are, and images of the target that training reads, spread evenly.

    Where the data set is missing they are generated scenes. They have the `size` (height, width) of the program's
    input; the middle of an image is taken for a program of windows.
    """
    domain, window = config.data.target, config.eval.window
    usual = config.data.validation.size[::-1]
    try:
        files = DomainFiles(domain, label_space(config), labelled=False, cache=config.data.cache)
        name, found = "training images of the target", [files.image(i) for i in spread(len(files), IMAGES)]
    except DataError:
        name, found = "generated scenes", [make_scene(0, i, CAMERA, *usual)[0] for i in range(IMAGES)]
    if window:
        return name, [middle(scaled(image, working_size(image.shape, usual)), window[::-1]) for image in found]
    return name, [scaled(image, size or working_size(image.shape, usual)) for image in found]


def middle(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The middle (height, width) of an image, which is continued at its edges where it is smaller."""
    rest = [max(0, wanted - own) for wanted, own in zip(size, image.shape)]
    image = np.pad(image, ((0, rest[0]), (0, rest[1]), (0, 0)), "edge")
    top, left = ((own - wanted) // 2 for own, wanted in zip(image.shape, size))
    return np.ascontiguousarray(image[top : top + size[0], left : left + size[1]])


def quantise(program: Path, images: Sequence[np.ndarray]) -> None:
    """Rewrite an ONNX program (uint8 RGB [1, H, W, 3] in) in int8; everything but its layers stays in fp32.

    Linear layers take the ranges of their inputs from each image, convolutions have fixed ones from `images`. The first
    and the last convolution, which see pixels and make logits, stay in fp32 too: they cost little and say much.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise CheckpointError(f'int8 programs need {error.name or "onnxruntime"}: pip install -e ".[deploy]"') from None

    class Reader(quantization.CalibrationDataReader):
        """Feeds the images one by one."""

        def __init__(self) -> None:
            self.rest = iter(images)

        def get_next(self) -> Optional[dict[str, np.ndarray]]:
            image = next(self.rest, None)
            return None if image is None else {"image": image[None]}

    model, made = onnx.load(str(program)), program.with_suffix(".int8.onnx")
    hold_weights(model)
    onnx.save(model, str(program))
    linear, convolutions = layers_of(model, "MatMul"), layers_of(model, "Conv")[1:-1]
    weights = {"weight_type": quantization.QuantType.QInt8, "per_channel": True}
    fixed = {"activation_type": quantization.QuantType.QUInt8, "quant_format": quantization.QuantFormat.QDQ}
    with without_warnings():
        if linear:  # an empty list would stand for all nodes
            quantization.quantize_dynamic(str(program), str(made), nodes_to_quantize=linear, **weights)
            made.replace(program)
        if convolutions:
            quantization.quantize_static(
                str(program), str(made), Reader(), op_types_to_quantize=["Conv"], nodes_to_quantize=convolutions,
                **weights, **fixed,
            )  # fmt: skip
            made.replace(program)


def hold_weights(model: Any) -> None:
    """Make weights that nodes give, as paddle2onnx 1.3 writes them, weights of the program."""
    used = {node.input[1] for node in model.graph.node if node.op_type in ("MatMul", "Conv")}
    for node in list(model.graph.node):
        if node.op_type == "Constant" and node.output[0] in used and node.attribute[0].name == "value":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            model.graph.node.remove(node)


def layers_of(model: Any, kind: str) -> list[str]:
    """Names of the nodes of a kind whose second input is a layer's weights."""
    weights = {tensor.name for tensor in model.graph.initializer if not tensor.name.startswith(FOLDED)}
    return [node.name for node in model.graph.node if node.op_type == kind and node.input[1] in weights]


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """onnxruntime recommends a step of its own for every program."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

"""From an image to its labels: while training, in evaluations, for images and videos, in notebooks.

    predictor = Predictor(model, pixels, options, backend, size)
    predictor.labels(image)  # an RGB image [H, W, 3] uint8 of any size to its class indices [H, W] uint8
    predictor.labels_and_entropy(image)
    predictor.scaled_logits(image)  # the same image to Logits
    with predictor.ready():
        predictor.logits(images)  # images that were read at the network's input size, one for each scale, to Logits

Logits (evaluation/logits.py) give labels, confidence, entropy and class probabilities at any size. A predictor needs
something that gives coarse logits for a normalised image: a backend makes such a function of a network and its options.
`eager` runs the network as it is; evaluation/programs.py runs it as a program of Paddle Inference. The predictor does
everything else: sizes, normalising, mirroring, windows, the members of an ensemble. On a GPU labels are made there, on
a CPU in numpy's memory.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, Optional, Union

import numpy as np
import paddle
from paddle import Tensor
from PIL import Image

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import ConfigError, suggest
from paddle_adaptseg.cpu import accelerate
from paddle_adaptseg.data.augment import normalise
from paddle_adaptseg.evaluation.logits import HostLogits, Logits, kind_of_logits
from paddle_adaptseg.evaluation.options import MAIN, PLAIN, InferenceOptions, Window, windows
from paddle_adaptseg.models.layers import inference
from paddle_adaptseg.models.segmenter import Ensemble, Network, Segmenter

LARGE = 2**23  # pixels of an image above which even on a GPU the logits of its windows are kept on the host
STRIDE = 8  # input sizes are rounded to the stride of the networks

Forward = Callable[[Tensor], Union[Tensor, np.ndarray]]  # normalised [N, 3, H, W] to logits [N, C, h, w] float32
Picture = Union[np.ndarray, Tensor]  # RGB [H, W, 3] uint8, or normalised [1, 3, H, W]
Backend = Callable[[Segmenter, InferenceOptions], Forward]


def eager(model: Segmenter, options: InferenceOptions) -> Forward:
    """The network as Paddle runs it step by step; on a GPU with automatic mixed precision if asked."""
    mixed = options.precision != "fp32"
    if mixed and paddle.get_device() == "cpu":
        raise ConfigError(f"--precision {options.precision} on a CPU needs --backend onednn (and bf16)")
    if mixed:
        runtime.check_autocast("--precision", options.precision)
    dtype = {"bf16": "bfloat16"}.get(options.precision, "float16")

    def forward(image: Tensor) -> Tensor:
        with paddle.amp.auto_cast(enable=mixed, dtype=dtype):
            return add_levels(model.logits(image), options.levels).astype("float32")

    return forward


def add_levels(logits: Mapping[str, Tensor], levels: Sequence[tuple[str, float]]) -> Tensor:
    """The weighted sum of several levels' logits at the network's resolution."""
    for name, _ in levels:
        if name not in logits:
            raise ConfigError(f"--levels: the network has no level '{name}': {suggest(name, logits)}")
    if levels == MAIN:
        return logits["main"]
    first = logits[levels[0][0]]
    for name, _ in levels:
        if logits[name].shape != first.shape:
            raise ConfigError(f"--levels: '{name}' and '{levels[0][0]}' differ in resolution; they cannot be added")
    return sum(weight * logits[name] for name, weight in levels)


class Predictor:
    """A network, or an ensemble, with the options of prediction. `size`: (height, width) of its usual input."""

    def __init__(
        self, model: Network, pixels: Pixels, options: InferenceOptions = PLAIN, backend: Backend = eager,
        size: Optional[Sequence[int]] = None,
    ) -> None:  # fmt: skip
        members = zip(model.members, model.weights) if isinstance(model, Ensemble) else [(model, 1.0)]
        self.members = [(backend(member, options), weight, member.input_first) for member, weight in members]
        self.model, self.pixels, self.options, self.size = model, pixels, options, size
        self.kind, self.align_corners = kind_of_logits(), _align_corners(model)

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Around logits(): the network in evaluation mode, without gradients; accelerated on a CPU."""
        with inference(self.model), accelerate(self.model):
            yield

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Class indices [H, W] uint8 of an RGB image [H, W, 3] uint8 of any size."""
        return np.asarray(self.scaled_logits(image).labels(image.shape[:2]))

    def labels_and_entropy(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and the normalised entropy [H, W] float32 of every pixel."""
        logits, size = self.scaled_logits(image), image.shape[:2]
        return np.asarray(logits.labels(size)), np.asarray(logits.entropy_map(size))

    def scaled_logits(self, image: np.ndarray) -> Logits:
        """Logits of all views of an RGB image [H, W, 3] uint8 of any size, which is brought to the usual size first."""
        height, width = working_size(image.shape, self.size or image.shape)
        sizes = [(max(1, round(scale * height)), max(1, round(scale * width))) for scale in self.options.scales]
        with self.ready():
            return self.logits([scaled(image, size) for size in sizes])

    def logits(self, images: Sequence[Picture]) -> Logits:
        """Logits of all views of RGB images [H, W, 3] uint8, one image for each scale; only within ready().

        Images that are normalised [1, 3, H, W] are taken as they are.
        """
        views, weights = [], []
        large = self.options.window is not None and max(math.prod(size_of(image)) for image in images) > LARGE
        kind = HostLogits if large else self.kind
        for image in images:
            for mirrored in (False, True) if self.options.flip else (False,):
                for forward, weight, input_first in self.members:
                    views.append(self._view(kind, forward, image, mirrored, input_first))
                    weights.append(weight)
        return kind(views, weights, self.align_corners)

    def _view(self, kind: type[Logits], forward: Forward, image: Picture, mirrored: bool, input_first: bool) -> Any:
        """Logits of the whole image, or the mean of overlapping windows at image size."""
        options, size = self.options, size_of(image)
        places = list(windows(size, options.window or size[::-1], options.stride))
        if mirrored:  # the windows of the mirrored image
            places = [(rows, slice(size[1] - columns.stop, size[1] - columns.start)) for rows, columns in places]
        parts = self._parts(kind, forward, image, places, mirrored)
        if options.window is None and not input_first:
            return next(parts)[1]
        return kind.blend(parts, size, self.align_corners, options.average)

    def _parts(
        self, kind: type[Logits], forward: Forward, image: Picture, places: Sequence[Window], mirrored: bool
    ) -> Iterator[tuple[Window, Any]]:
        """Windows and their logits; only the windows that the network sees at once are normalised."""
        for first in range(0, len(places), self.options.windows_at_once):
            some = places[first : first + self.options.windows_at_once]
            batch = cut(image, some, self.pixels)
            output = forward(batch.flip([3]) if mirrored else batch)
            for index, place in enumerate(some):
                view = kind.view(output[index : index + 1])
                yield place, view[:, :, ::-1] if mirrored else view


def size_of(image: Picture) -> tuple[int, int]:
    """Height and width."""
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else image.shape[2:]
    return height, width


def cut(image: Picture, places: Sequence[Window], pixels: Pixels) -> Tensor:
    """Windows of an image, normalised [N, 3, h, w]."""
    if isinstance(image, np.ndarray):
        return normalise(paddle.to_tensor(np.stack([image[place] for place in places])), pixels)
    return paddle.concat([image[:, :, rows, columns] for rows, columns in places])


def _align_corners(model: Network) -> bool:
    """How a network's logits are resized; an ensemble's members must agree."""
    known = {member.align_corners for member in (model.members if isinstance(model, Ensemble) else [model])}
    if len(known) > 1:
        raise ConfigError("these models do not form an ensemble: some resize their logits with aligned corners")
    return known.pop()


def working_size(shape: Sequence[int], usual: Sequence[int]) -> tuple[int, int]:
    """(height, width) to predict at: the usual size, or as many pixels in the image's own shape."""
    height, width = shape[:2]
    if abs(width * usual[0] / (height * usual[1]) - 1) < 0.02:
        return usual[0], usual[1]
    scale = (usual[0] * usual[1] / (height * width)) ** 0.5
    return max(STRIDE, round(height * scale / STRIDE) * STRIDE), max(STRIDE, round(width * scale / STRIDE) * STRIDE)


def scaled(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """An image at (height, width), resized as evaluation resizes it."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.BICUBIC))

"""An image's coarse logits, and what follows from them at any size: labels, confidence, probabilities, entropy.

There is one resize of logits: bilinear, with aligned corners or not as the network's originals trained and evaluated.
models.layers.resize is that resize as Paddle operators, for networks and DeviceLogits. HostLogits computes the same
with numpy (resizing.py), several times faster on a CPU. The labels of both are equal, but for ties within rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Union

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_adaptseg.evaluation import metrics
from paddle_adaptseg.evaluation.options import Window
from paddle_adaptseg.evaluation.resizing import filled_rows, widened
from paddle_adaptseg.evaluation.stitching import TINY, Stitched, softmax
from paddle_adaptseg.models.layers import resize

BLOCK = 2**19  # floats of all classes at once: small enough to stay in a core's cache
VALUES = 256  # of a uint8

Size = Sequence[int]  # height, width


class Logits(ABC):
    """Logits [C, h, w] float32 of the views of one image; the views' probabilities are averaged with weights."""

    on_host: bool  # results are numpy arrays, and several threads may work at once; else Tensors, from one thread

    def __init__(self, views: Sequence[Any], weights: Sequence[float] = (1.0,), align_corners: bool = True) -> None:
        self.views, self.weights = list(views), [weight / sum(weights) for weight in weights]
        self.align_corners = align_corners

    @abstractmethod
    def labels(self, size: Size) -> Any:
        """The class [H, W] uint8 of every pixel."""

    @abstractmethod
    def labels_and_confidence(self, size: Size) -> tuple[Any, Any]:
        """The class of every pixel, and its probability [H, W] float32."""

    @abstractmethod
    def probabilities(self, size: Size) -> Any:
        """The probability of every class [C, H, W] float32."""

    @abstractmethod
    def entropy_map(self, size: Size) -> Any:
        """The entropy [H, W] float32 of every pixel's probabilities: 0 one class is certain, 1 all are as likely."""

    def entropy(self) -> float:
        """The mean entropy at the first view's own resolution."""
        return float(self.entropy_map(tuple(self.views[0].shape[1:])).mean())

    @staticmethod
    @abstractmethod
    def view(output: Union[Tensor, np.ndarray]) -> Any:
        """What a network gave for one image [1, C, h, w] as a view [C, h, w]."""

    @staticmethod
    @abstractmethod
    def pair_counts(one: Any, other: Any) -> Any:
        """How often each pair of uint8 values of two maps occurs [256, 256] int64."""

    @staticmethod
    @abstractmethod
    def blend(
        parts: Iterable[tuple[Window, Any]], size: Size, align_corners: bool = True, average: str = "logits"
    ) -> Any:
        """The mean at image size of windows that cover it: of their logits, or of their probabilities as logits."""


def on_gpu() -> bool:
    """Whether networks compute on a GPU."""
    return paddle.get_device().startswith("gpu")


def kind_of_logits() -> type[Logits]:
    """Where logits are best kept: on a GPU with the network, on a CPU in numpy's arrays."""
    return DeviceLogits if on_gpu() else HostLogits


def count_pairs(one: Tensor, other: Tensor) -> np.ndarray:
    """How often each pair of uint8 values of two Tensors occurs [256, 256], counted where it is faster."""
    if on_gpu():
        return DeviceLogits.pair_counts(one, other).numpy()
    return HostLogits.pair_counts(one.numpy(), other.numpy())


class HostLogits(Logits):
    """On a CPU, with numpy, by blocks of rows."""

    on_host = True

    def labels(self, size: Size) -> np.ndarray:
        label = np.empty(tuple(size), np.uint8)
        self._by_blocks(size, lambda rows, scores: _argmax(scores, label[rows]), averaged=len(self.views) > 1)
        return label

    def labels_and_confidence(self, size: Size) -> tuple[np.ndarray, np.ndarray]:
        label, confidence = np.empty(tuple(size), np.uint8), np.empty(tuple(size), np.float32)
        averaged = len(self.views) > 1

        def choose(rows: slice, scores: np.ndarray) -> None:
            best = _argmax(scores, label[rows])
            if not averaged:
                scores -= best
                best = 1 / np.exp(scores, out=scores).sum(axis=0)
            confidence[rows] = best

        self._by_blocks(size, choose, averaged)
        return label, confidence

    def probabilities(self, size: Size) -> np.ndarray:
        parts: list[np.ndarray] = []
        self._by_blocks(size, lambda _, p: parts.append(p))
        return np.concatenate(parts, axis=1)

    def entropy_map(self, size: Size) -> np.ndarray:
        parts: list[np.ndarray] = []
        self._by_blocks(size, lambda _, p: parts.append(-(p * np.log(np.maximum(p, TINY))).sum(0) / np.log(len(p))))
        return np.concatenate(parts)

    def _by_blocks(self, size: Size, use: Callable[[slice, np.ndarray], object], averaged: bool = True) -> None:
        """Call `use` with a slice of rows and their scores of all classes [C, R, W]: averaged probabilities, or logits.

        A block is freed before the next one is made, which takes its place in the cache.
        """
        height, width = size
        scaled = [self._scaled(view, size) for view in self.views]
        step = max(1, BLOCK // (self.views[0].shape[0] * width))
        for top in range(0, height, step):
            rows = np.arange(top, min(top + step, height))
            use(slice(top, top + len(rows)), self._scores(scaled, rows, averaged))

    def _scaled(self, view: Union[np.ndarray, Stitched], size: Size) -> Callable[[np.ndarray], np.ndarray]:
        """What gives rows of a view at (height, width)."""
        if isinstance(view, Stitched):
            return view.scaled(size, self.align_corners)
        wide = widened(view, size[1], self.align_corners)
        return lambda rows: filled_rows(wide, rows, size[0], self.align_corners)

    def _scores(
        self, scaled: Sequence[Callable[[np.ndarray], np.ndarray]], rows: np.ndarray, averaged: bool
    ) -> np.ndarray:
        blocks = (view(rows) for view in scaled)
        if not averaged:
            return next(blocks)
        total = softmax(next(blocks), self.weights[0])
        for block, weight in zip(blocks, self.weights[1:]):
            total += softmax(block, weight)
        return total

    @staticmethod
    def view(output: Union[Tensor, np.ndarray]) -> np.ndarray:
        return output.numpy()[0] if isinstance(output, Tensor) else output[0]

    @staticmethod
    def blend(
        parts: Iterable[tuple[Window, Any]], size: Size, align_corners: bool = True, average: str = "logits"
    ) -> Stitched:
        return Stitched(list(parts), size, align_corners, average)

    pair_counts = staticmethod(metrics.pair_counts)


class DeviceLogits(Logits):
    """Where the network computes, with Paddle; on a GPU nothing is copied to the host."""

    on_host = False

    def labels(self, size: Size) -> Tensor:
        scores = (
            self.probabilities(size) if len(self.views) > 1 else self.resized(self.views[0], size, self.align_corners)
        )
        return scores.argmax(axis=0).astype("uint8")

    def labels_and_confidence(self, size: Size) -> tuple[Tensor, Tensor]:
        return self.labels(size), self.probabilities(size).max(axis=0)

    def probabilities(self, size: Size) -> Tensor:
        return sum(
            w * F.softmax(self.resized(v, size, self.align_corners), axis=0) for v, w in zip(self.views, self.weights)
        )

    def entropy_map(self, size: Size) -> Tensor:
        p = self.probabilities(size)
        return -(p * p.clip(min=TINY).log()).sum(axis=0) / float(np.log(len(p)))

    @staticmethod
    def view(output: Union[Tensor, np.ndarray]) -> Tensor:
        return output[0] if isinstance(output, Tensor) else paddle.to_tensor(output[0])

    @staticmethod
    def resized(view: Tensor, size: Size, align_corners: bool = True) -> Tensor:
        return resize(view.unsqueeze(0), size, align_corners)[0]

    @classmethod
    def blend(
        cls, parts: Iterable[tuple[Window, Any]], size: Size, align_corners: bool = True, average: str = "logits"
    ) -> Tensor:
        total, count = None, np.zeros((1, *size), np.float32)
        for (rows, columns), logits in parts:
            total = paddle.zeros([len(logits), *size]) if total is None else total
            part = cls.resized(logits, (rows.stop - rows.start, columns.stop - columns.start), align_corners)
            part = F.softmax(part, axis=0) if average == "softmax" else part
            total[:, rows, columns] = total[:, rows, columns] + part
            count[:, rows, columns] += 1
        mean = total / paddle.to_tensor(count)
        return mean.clip(min=TINY).log() if average == "softmax" else mean

    @staticmethod
    def pair_counts(one: Union[Tensor, np.ndarray], other: Tensor) -> Tensor:
        pairs = paddle.to_tensor(one).astype("int64").flatten() * VALUES + other.astype("int64").flatten()
        return paddle.bincount(pairs, minlength=VALUES**2).reshape([VALUES, VALUES])


def _argmax(scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The largest scores; their indices into `label`. A pass per class is several times faster than numpy's argmax."""
    best = scores[0].copy()
    label[...] = 0
    for index in range(1, len(scores)):
        better = scores[index] > best
        np.copyto(label, np.uint8(index), where=better)
        np.maximum(best, scores[index], out=best)
    return best

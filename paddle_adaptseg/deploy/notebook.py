"""One call for notebooks: a picture in, labels out, shown with a legend."""

from __future__ import annotations

import io
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np
from PIL import Image

from paddle_adaptseg.deploy.media import Picture
from paddle_adaptseg.deploy.runners import Runner, model_files, open_runner
from paddle_adaptseg.errors import DataError
from paddle_adaptseg.labels import LabelSpace
from paddle_adaptseg.visual import legend_figure, overlay

KEPT = 2  # models that stay open between calls
_OPEN: OrderedDict[tuple, Runner] = OrderedDict()


@dataclass(frozen=True)
class Prediction:
    """Class indices of a picture; a notebook shows it as a figure with a legend, numpy takes it as an array."""

    labels: np.ndarray
    image: np.ndarray
    space: LabelSpace

    def overlay(self) -> np.ndarray:
        """The picture with the classes' colours over it, RGB [H, W, 3]."""
        return overlay(self.image, self.labels, self.space)

    def figure(self) -> Image.Image:
        """Picture, overlay and a legend of the classes that occur with their shares."""
        return Image.fromarray(legend_figure(self.image, self.labels, self.space))

    def __repr__(self) -> str:
        height, width = self.labels.shape
        classes = [self.space.names[i] for i in np.unique(self.labels) if i < len(self.space)]
        return f"labels of a {width}x{height} picture: {', '.join(classes)}"

    def _repr_png_(self) -> bytes:
        """What notebooks show."""
        data = io.BytesIO()
        self.figure().save(data, "PNG")
        return data.getvalue()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.labels if dtype is None else self.labels.astype(dtype)


def predict(image: Union[np.ndarray, Image.Image, str, Path], model: Union[str, Path, Runner]) -> Prediction:
    """Label a picture (RGB uint8 [H, W, 3], a Pillow image, or a file) with weights, a run's folder or an export."""
    pixels = _pixels(image)
    runner = _runner(model) if isinstance(model, (str, Path)) else model
    return Prediction(runner.labels(pixels), pixels, runner.space)


def _pixels(image: Union[np.ndarray, Image.Image, str, Path]) -> np.ndarray:
    if isinstance(image, (str, Path)):
        return Picture(Path(image), Path(image).stem).read()
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"predict needs an RGB picture, uint8 [height, width, 3], not {found}")
    return image


def _runner(origin: Union[str, Path]) -> Runner:
    """The runner of a path, kept while the files that it reads stay the same."""
    key = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in model_files(origin))
    if key not in _OPEN:
        _OPEN[key] = open_runner(origin)
        while len(_OPEN) > KEPT:
            _OPEN.popitem(last=False)
    _OPEN.move_to_end(key)
    return _OPEN[key]

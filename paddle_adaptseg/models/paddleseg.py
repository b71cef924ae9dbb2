"""Any network of an installed PaddleSeg (github.com/PaddlePaddle/PaddleSeg, 2.8) as a segmenter, under its own names.

PaddleSeg builds the network; its outputs become logits by level, and the result of its backbone the features.
PaddleSeg is imported when such a network is built, and by nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.config.conversion import check_keys, lookup
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.models.layers import NORMS
from paddle_adaptseg.models.segmenter import ParamGroup, Segmenter, group

INSTALL = 'pip install --no-deps paddleseg==2.8.0 && pip install -e ".[paddleseg]"'
NORM_NAMES = ("batch", "batch_fixed_affine", "frozen")  # policies that keep the layers which the weights were made for
PROBE = (2, 3, 64, 64)  # an image that shows which outputs a network has; two, because some norms have one value each


def components() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """PaddleSeg's networks and backbones by name."""
    try:
        manager = importlib.import_module("paddleseg.cvlibs.manager")
        importlib.import_module("paddleseg.models")
    except ImportError as error:
        raise ConfigError(f"model 'paddleseg' needs PaddleSeg ({error}): {INSTALL}") from None
    return manager.MODELS.components_dict, manager.BACKBONES.components_dict


@contextlib.contextmanager
def _own_names() -> Iterator[None]:
    """A scope for the names of one network's parameters: some backbones have fixed ones, which Paddle accepts once.

    Inside, PaddleSeg makes ordinary batch norms; `run.sync_norm` replaces them by synchronised ones.
    """
    before = os.environ.get(_PLAIN_NORMS)
    os.environ[_PLAIN_NORMS] = "1"
    try:
        with paddle.utils.unique_name.guard(paddle.utils.unique_name.generate("paddleseg") + "_"):
            yield
    finally:
        del os.environ[_PLAIN_NORMS]
        if before is not None:
            os.environ[_PLAIN_NORMS] = before


_PLAIN_NORMS = "PADDLESEG_EXPORT_STAGE"  # a variable of PaddleSeg's


def build_component(tree: Mapping[str, Any], known: Mapping[str, Any], path: str, **given: Any) -> nn.Layer:
    """What a mapping with a `type` names, with the components inside it built first."""
    make = lookup(known, str(tree.get("type")), f"{path}.type")
    values = {key: _nested(value, f"{path}.{key}") for key, value in tree.items() if key != "type"}
    if values.pop("pretrained", None):
        raise ConfigError(
            f"'{path}.pretrained' would be downloaded and unpickled by PaddleSeg: fetch the file, leave this out, and "
            "name it in run.restore_from"
        )
    parameters = inspect.signature(make).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        check_keys(values, [key for key in parameters if key not in given], path)
    try:
        return make(**given, **values)
    except Exception as error:  # whatever PaddleSeg raises at values that it cannot use
        raise ConfigError(f"'{path}': PaddleSeg cannot build {dict(tree)}: {_end(error)}") from error


def _end(error: Exception) -> str:
    """The end of an error's text, in one line."""
    return " ".join(str(error).split())[-300:]


def _nested(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        if "type" in value:
            networks, backbones = components()
            return build_component(value, {**networks, **backbones}, path)
        return {key: _nested(inner, f"{path}.{key}") for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nested(inner, f"{path}[{index}]") for index, inner in enumerate(value)]
    return value


class PaddleSegNetwork(Segmenter):
    """A network of PaddleSeg by its `type`, with that network's own keywords.

    Levels are its outputs with a channel for each class: `main`, `aux`, `aux2` and so on; heads that it has in
    training only are levels in training only. It brings its logits to the image's size itself.
    """

    align_corners = False  # PaddleSeg's, wherever logits are resized beyond the image's size

    def __init__(
        self,
        classes: int,
        type: str,
        backbone: Optional[Mapping[str, Any]] = None,
        head_rate: float = 10.0,
        norm_decay: float = 1.0,
        norm: str = "batch",
        **options: Any,
    ) -> None:
        super().__init__()
        if "num_classes" in options:
            raise ConfigError("'model.num_classes' follows from data.classes: leave it out")
        if options.get("data_format", "NCHW") != "NCHW":
            raise ConfigError(f"'model.data_format' must be NCHW, not {options['data_format']!r}")
        self.head_rate, self.norm_decay = head_rate, norm_decay
        tree = {"type": type, **({} if backbone is None else {"backbone": backbone}), **options}
        with _own_names():
            self.net = build_component(tree, components()[0], "model", num_classes=classes)
        _set_norms(self.net, norm)
        self.levels, self.feature_channels = self._probe(classes, type)

    @staticmethod
    def weights_kind(params: Mapping[str, Any], names: Sequence[str]) -> str:
        """Whose names the tensors of a file have: the whole network's, or those of its backbone alone."""
        whole = "backbone" not in params or any(name.startswith(("net.", "backbone.")) for name in names)
        return "paddleseg" if whole else "paddleseg_backbone"

    def _probe(self, classes: int, type: str) -> tuple[tuple[str, ...], int]:
        """The levels and the channels of the deepest features, from a forward pass that changes nothing."""
        state = paddle.get_rng_state()
        for layer in self.net.sublayers():
            layer.training = not hasattr(layer, "_variance")  # running statistics stay
        with paddle.no_grad():
            image = paddle.zeros(PROBE)
            try:
                outputs, features = self.net(image), self.features(image)
            except Exception as error:  # whatever this Paddle raises at code that was written for another
                raise ConfigError(
                    f"PaddleSeg's '{type}' fails on Paddle {paddle.__version__}: {_end(error)}"
                ) from error
        self.train()
        paddle.set_rng_state(state)
        fits = [isinstance(x, Tensor) and x.shape == [PROBE[0], classes, *PROBE[2:]] for x in outputs]
        if not fits or not fits[0]:
            raise ConfigError(f"model.type '{type}' does not return logits of every pixel first: it cannot be adapted")
        self.outputs = [index for index, fit in enumerate(fits) if fit]
        deepest = features.get("main")
        names = ("main", "aux", *(f"aux{n}" for n in range(2, len(outputs))))
        return names[: len(self.outputs)], 0 if deepest is None else deepest.shape[1]

    def features(self, image: Tensor) -> dict[str, Any]:
        """Every stage of the backbone, the deepest as `main`; and the image, which PaddleSeg's heads are given too."""
        if not hasattr(self.net, "backbone"):
            return {"image": image}
        result = self.net.backbone(image)
        stages = _maps(result)
        named = {f"stage{index + 1}": x for index, x in enumerate(stages[:-1])}
        return {**named, "main": stages[-1], "image": image, "result": result}

    def last_stage(self, features: dict[str, Any]) -> Tensor:
        if "main" not in features:
            raise ConfigError("this network of PaddleSeg has no backbone, so it has no features for this method")
        return features["main"]

    def classify(self, features: dict[str, Any]) -> dict[str, Tensor]:
        with _given(getattr(self.net, "backbone", None), features):
            return self._named(self.net(features["image"]))

    def logits(self, image: Tensor) -> dict[str, Tensor]:
        if "features" in vars(self):  # somebody records them; the plain network is faster, and can be traced
            return self.classify(self.features(image))
        return self._named(self.net(image))

    def _named(self, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        return {level: outputs[n] for level, n in zip(self.levels, self.outputs) if n < len(outputs)}

    def groups(self) -> list[ParamGroup]:
        """The backbone, then all else at `head_rate`; norms of both with `norm_decay` times the weight decay.

        A network without a backbone learns at one rate.
        """
        norms = {id(p) for x in self.net.sublayers() if _is_norm(x) for p in x.parameters(include_sublayers=False)}
        parts: dict[str, list] = {}
        for name, parameter in self.net.named_parameters():
            part = "heads" if hasattr(self.net, "backbone") and not name.startswith("backbone.") else "backbone"
            key = f"{part}_norms" if id(parameter) in norms and self.norm_decay != 1.0 else part
            parts.setdefault(key, []).append((name, parameter))
        return [
            group(key, named, self.head_rate if key.startswith("heads") else 1.0,
                  decay=self.norm_decay if key.endswith("norms") else 1.0)
            for key, named in parts.items()
        ]  # fmt: skip


def _is_norm(layer: nn.Layer) -> bool:
    return "Norm" in type(layer).__name__


def _set_norms(net: nn.Layer, name: str) -> None:
    """Apply a norm policy to the batch norms of a network."""
    policy = lookup({key: NORMS[key] for key in NORM_NAMES}, name, "model.norm")
    for layer in net.sublayers():
        if hasattr(layer, "_variance") and hasattr(layer, "_use_global_stats"):
            if policy.stats == "frozen":
                layer._use_global_stats = True
            for parameter in layer.parameters(include_sublayers=False) if not policy.affine else ():
                parameter.stop_gradient = True


def _maps(result: Any) -> list[Tensor]:
    """The feature maps [N, C, h, w] in what a backbone returns."""
    if isinstance(result, Tensor):
        return [result] if result.ndim == 4 else []
    return [x for part in result for x in _maps(part)] if isinstance(result, (list, tuple)) else []


@contextlib.contextmanager
def _given(backbone: Optional[nn.Layer], features: Mapping[str, Any]) -> Iterator[None]:
    """Inside, a backbone that is asked for the features of their image returns them."""
    if backbone is None:
        yield
        return
    own, plain = vars(backbone).get("forward"), backbone.forward

    def forward(image: Tensor, *more: Any) -> Any:
        return features["result"] if image is features["image"] else plain(image, *more)

    backbone.forward = forward
    try:
        yield
    finally:
        del backbone.forward
        if own is not None:
            backbone.forward = own

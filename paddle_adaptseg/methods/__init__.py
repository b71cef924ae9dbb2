"""Adaptation methods by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from paddle_adaptseg.config.conversion import Table, build, lookup
from paddle_adaptseg.config.schema import Component, Pixels
from paddle_adaptseg.core.errors import ConfigError, suggest
from paddle_adaptseg.methods.base import Clock, Method, Term
from paddle_adaptseg.methods.choices import Choices
from paddle_adaptseg.models.segmenter import Segmenter

METHODS: Table[type[Method]] = Table(
    "paddle_adaptseg.methods",
    {
        "source_only": "source_only:SourceOnly",
        "output_adversarial": "adversarial:OutputAdversarial",
        "target_prior": "prior:TargetPrior",
        "clan": "clan:CLAN",
        "bn_adapt": "source_only:BNAdapt",
        "feature_adversarial": "adversarial:FeatureAdversarial",
        "self_training": "self_training:SelfTraining",
        "source_free": "source_free:SourceFree",
        "distil": "distil:Distil",
    },
)
# Losses that any method can be combined with, each under its own key of `method`.
ADDITIONS: Table[Any] = Table(
    "paddle_adaptseg.methods",
    {
        "masked": "additions:MaskedConsistency",
        "feature_distance": "feature_distance:FeatureDistance",
        "target_labelled": "target_labelled:TargetLabelled",
    },
)

__all__ = ["ADDITIONS", "GIVEN", "METHODS", "Clock", "Method", "Term", "build_method"]


# Keywords that build_method() supplies where a constructor has them; all others come from the configuration.
GIVEN = ("segmenter", "classes", "make_segmenter", "pixels", "seed", "names", "trained")


def build_method(
    component: Component,
    segmenter: Segmenter,
    classes: int,
    make_segmenter: Optional[Callable[..., Segmenter]] = None,
    pixels: Optional[Pixels] = None,
    seed: int = 0,
    names: Sequence[str] = (),
    trained: Optional[Callable[[str], Any]] = None,
) -> Method:
    """The method a configuration names, around `segmenter`.

    `make_segmenter()` builds another network of the same configuration, `make_segmenter(weights)` fills it from a file,
    and `trained(weights)` opens a network as its own file configures it.
    """
    names = names or [str(number) for number in range(classes)]
    given = dict(zip(GIVEN, (segmenter, classes, make_segmenter, pixels or Pixels(), seed, names, trained)))
    own = {k: v for k, v in component.params.items() if k not in ADDITIONS}
    method = _build(METHODS, component.name, own, "method", given)
    if not hasattr(method, "choices"):
        method.choices = Choices(seed)
    for key in ADDITIONS:
        if component.params.get(key) is not None:
            addition = _build(ADDITIONS, key, component.params[key], f"method.{key}", given)
            addition.attach(method)
            method.additions[key] = addition
            unsaved = (f"additions.{key}.{part}" for part in addition.unsaved_parts)
            method.unsaved_parts = (*method.unsaved_parts, *unsaved)
    parts = [name for name, _ in method.named_sublayers()]
    for part in (*method.eval_parts, *method.unsaved_parts):
        if part not in parts:
            raise ConfigError(f"method '{component.name}' has no part '{part}': {suggest(part, parts)}")
    return method


def _build(table: Mapping[str, Any], name: str, params: Mapping[str, Any], kind: str, given: Mapping[str, Any]) -> Any:
    """An entry with what it names of `given`, and its other keywords from a configuration."""
    wanted = inspect.signature(lookup(table, name, kind)).parameters
    return build(table, name, params, kind, **{k: v for k, v in given.items() if k in wanted and v is not None})

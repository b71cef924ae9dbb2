"""Adaptation methods by name."""

from __future__ import annotations

import inspect
from typing import Callable, Optional

from paddle_adaptseg.config import Component, Pixels
from paddle_adaptseg.errors import ConfigError, suggest
from paddle_adaptseg.methods.adversarial import OutputAdversarial
from paddle_adaptseg.methods.base import Clock, Method, SourceOnly, Term
from paddle_adaptseg.methods.baselines import BNAdapt, FeatureAdversarial
from paddle_adaptseg.methods.clan import CLAN
from paddle_adaptseg.methods.prior import TargetPrior
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.registry import build, lookup

METHODS: dict[str, type[Method]] = {
    "source_only": SourceOnly,
    "output_adversarial": OutputAdversarial,
    "target_prior": TargetPrior,
    "clan": CLAN,
    "bn_adapt": BNAdapt,
    "feature_adversarial": FeatureAdversarial,
}

__all__ = ["GIVEN", "METHODS", "Clock", "Method", "Term", "build_method"]


# What constructors may name and are given; their other keywords come from the configuration.
GIVEN = ("segmenter", "classes", "make_segmenter", "pixels", "seed")


def build_method(
    component: Component,
    segmenter: Segmenter,
    classes: int,
    make_segmenter: Optional[Callable[..., Segmenter]] = None,
    pixels: Optional[Pixels] = None,
    seed: int = 0,
) -> Method:
    """The method a configuration names, around `segmenter`.

    `make_segmenter()` builds another network of the same configuration, `make_segmenter(weights)` fills it from a file.
    """
    given = dict(zip(GIVEN, (segmenter, classes, make_segmenter, pixels or Pixels(), seed)))
    wanted = inspect.signature(lookup(METHODS, component.name, "method")).parameters
    taken = {k: v for k, v in given.items() if k in wanted and v is not None}
    method = build(METHODS, component.name, component.params, "method", **taken)
    parts = [name for name, _ in method.named_sublayers()]
    for part in (*method.eval_parts, *method.unsaved_parts):
        if part not in parts:
            raise ConfigError(f"method '{component.name}' has no part '{part}': {suggest(part, parts)}")
    return method

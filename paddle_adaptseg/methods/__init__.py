"""Adaptation methods by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from paddle_adaptseg.config import Component
from paddle_adaptseg.methods.adversarial import OutputAdversarial
from paddle_adaptseg.methods.base import Clock, Method, SourceOnly, Term
from paddle_adaptseg.methods.baselines import BNAdapt, FeatureAdversarial
from paddle_adaptseg.methods.clan import CLAN
from paddle_adaptseg.methods.prior import TargetPrior
from paddle_adaptseg.models.segmenter import Segmenter
from paddle_adaptseg.registry import build, lookup

METHODS: Mapping[str, type[Method]] = {
    "source_only": SourceOnly,
    "output_adversarial": OutputAdversarial,
    "target_prior": TargetPrior,
    "clan": CLAN,
    "bn_adapt": BNAdapt,
    "feature_adversarial": FeatureAdversarial,
}

__all__ = ["METHODS", "Clock", "Method", "Term", "build_method"]


def build_method(component: Component, segmenter: Segmenter, classes: int) -> Method:
    """The method a configuration names, around `segmenter`."""
    given = {"segmenter": segmenter, "classes": classes}
    wanted = inspect.signature(lookup(METHODS, component.name, "method")).parameters
    return build(METHODS, component.name, component.params, "method", **{k: given[k] for k in given if k in wanted})

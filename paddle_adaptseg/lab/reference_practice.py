"""What the keys of practice.md mean, for docs/configuration.md (reference.py)."""

from __future__ import annotations

from collections.abc import Mapping

from paddle_adaptseg.lab.reference_self_training import VALUE_KEYS

DATA: Mapping[str, str] = {
    "data.source": "the labelled source; null where [no source](practice.md#source-free) or several are given",
    "data.sources": "[several sources](practice.md#several-sources) by name, each with the keys of a domain and its "
    "`share`: how often it is drawn relative to the others",
    "data.target_labelled": "target images whose [labels may be used](practice.md#few-target-labels); adds a "
    "supervised batch of them to any method",
    "data.target_labelled.list": "text file that names them, one a line",
    "data.target_labelled.root": "folder that holds them, laid out as `data.target`; null: `data.target.root`",
    "data.target_labelled.count": "so many of them, chosen by `seed`; 0: all",
    "data.target_labelled.share": "or such a share of them",
    "data.target_labelled.seed": "of the choice; a smaller choice is part of a larger one",
}
KEYWORDS: Mapping[str, str] = {
    **{key: VALUE_KEYS[key] for key in ("views", "surest")},
    "teacher_weights": "the adapted teacher: a weights file or a run's folder, which brings its own network",
    "taught_on": "the images on which the student learns from it: `both` domains, or the `target`",
    "temperature": "by which both networks' logits are divided",
    "entropy": "weight of the predictions' mean entropy",
    "diversity": "weight of what keeps the classes' shares in the predictions apart from collapse",
    "balance": "exponent by which classes that are seldom predicted weigh more: `share ^ -balance`; 0: all alike",
    "statistics": "batch norm takes the statistics of the `target`, or keeps those of the `start` weights",
}

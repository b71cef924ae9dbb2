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
    "data.target_labelled.list": "text file that names them, one on each line",
    "data.target_labelled.root": "folder that holds them, laid out as `data.target`; null: `data.target.root`",
    "data.target_labelled.count": "number of images, chosen by `seed`; 0: all",
    "data.target_labelled.share": "share of the images instead of their number",
    "data.target_labelled.seed": "seed of the choice; a smaller choice is part of a larger one",
}
KEYWORDS: Mapping[str, str] = {
    **{key: VALUE_KEYS[key] for key in ("views", "surest")},
    "teacher_weights": "the adapted teacher: a weights file or a run's folder; its network is read from there",
    "taught_on": "the images on which the student learns from it: `both` domains, or the `target`",
    "temperature": "softmax temperature: the logits of both networks are divided by it",
    "entropy": "weight of the mean entropy of the predictions",
    "diversity": "weight of the diversity term, which keeps predictions from collapsing into few classes",
    "balance": "exponent that gives rarely predicted classes a larger weight: `share ^ -balance`; 0: the same "
    "weight for all",
    "statistics": "whether batch norm uses statistics of the `target`, or keeps those of the `start` weights",
}

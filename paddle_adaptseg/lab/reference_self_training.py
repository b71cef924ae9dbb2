"""What the keys of self-training and of what adds to methods mean, for docs/configuration.md (reference.py)."""

from __future__ import annotations

from collections.abc import Mapping

from paddle_adaptseg.methods.additions import IMAGES, MASKS
from paddle_adaptseg.methods.augment import CONVENTIONS, Strong
from paddle_adaptseg.methods.self_training import MIXES, ORIGINS
from paddle_adaptseg.methods.taught import EVALUATED
from paddle_adaptseg.methods.teacher import UPDATES, WEIGHTS, PseudoLabels, Teacher
from paddle_adaptseg.methods.views import VIEWS
from paddle_adaptseg.training.optim import BATCH_RULES


def _one_of(names: Mapping | tuple) -> str:
    return ", ".join(f"`{name}`" for name in names)


RARE_CLASSES: Mapping[str, str] = {
    "data.rare_classes": "draw source images by [a class that they hold](methods.md#rare-class-sampling); `{}`: on",
    "data.rare_classes.temperature": "the lower, the more often the rarest classes are drawn",
    "data.rare_classes.min_pixels": "a label with more pixels of a class than these is one of its files",
    "data.rare_classes.min_crop_ratio": "a crop needs more pixels of its class than this times `min_pixels`",
    "data.rare_classes.tries": "crops that are looked at; the next one is taken as it is",
    "data.augment.mirror_together": "one draw mirrors all images of a batch, or none (VFM-UDA's source-only baseline)",
    "schedule.warmup_alone": "not decayed meanwhile, it grows from the ratio to 1 in the warm-up's last step (VFM-UDA)",
    "schedule.batch_rule": f"{_one_of(BATCH_RULES)}: learning rates as they are, or times the root of a step's images",
    "data.target_margins": "shares of the target's picture (top, bottom, left, right) where labels count nothing",
    "data.rare_classes.largest_share": "below 1: a crop whose largest class has this share of it is cut again too",
}
EVAL: Mapping[str, str] = {
    "eval.window": "width and height of a window that slides over the network's input; null: the whole image at once",
    "eval.stride": "width and height from window to window; null: evenly spread, overlapping by a third or more",
    "eval.average": "of the windows that a pixel lies in: `logits` (DAFormer, HRDA), or `softmax`: of their "
    "probabilities (VFM-UDA)",
}
KEYWORDS: Mapping[str, str] = {
    "dilations": "of the pyramid's branches",
    "teacher": "how the teacher follows the student: [`teacher`](#value-teacher)",
    "pseudo_labels": "what the teacher's labels count: [`pseudo_labels`](#value-pseudo_labels)",
    "augment": "how the student's images are changed: [`augment`](#value-augment); null: not at all",
    "mix": f"on which images the student learns from the target: {_one_of(MIXES)} (the target as it is)",
    "classes_from": f"whose label the pasted classes are drawn from: the {_one_of(ORIGINS)}",
    "source_mean": "the source's loss is the mean over `all` pixels (DAFormer) or over `valid`, labelled ones (DACS)",
    "evaluate": f"the network that is evaluated and deployed: {_one_of(EVALUATED)}",
    "weak": "how the source's images are changed for its own term, and target images that are pasted into, as "
    "[`augment`](#value-augment); null: not at all",
    "ratio": "share of the blocks or tokens that are masked",
    "block": "side of a block in pixels",
    "mask": f"what is masked: {_one_of(MASKS)} (the patches of a vision transformer)",
    "images": f"what is masked: {_one_of(IMAGES)}",
    "things": "classes, by name or number, whose features stay near the fixed network's",
    "weight": "weight of the distance",
    "min_ratio": "share of a cell's pixels that its class must have",
    "restore_from": "weights of the fixed network: a file or a run's folder; empty: the start weights of the student",
}
VALUES: Mapping[str, type] = {"teacher": Teacher, "pseudo_labels": PseudoLabels, "augment": Strong}
VALUE_KEYS: Mapping[str, str] = {
    "decay": "share of the old teacher that stays in every step",
    "ramp": "the decay is at most `1 - 1 / (step + ramp)`; 1: DACS and DAFormer, 2: VFM-UDA, 0: no ramp",
    "update": f"{_one_of(UPDATES)} the step",
    "modes": "`{norms: train, dropout: eval}`: batch statistics or running ones, dropout or none",
    "threshold": "probability from which on a pixel is sure",
    "weight": f"what a pixel counts: the share of sure ones of the {_one_of(WEIGHTS[:2])}, or by `pixel` 1 or 0",
    "margins": "rows, or shares below 1, at the top, bottom, left and right that count for nothing",
    "views": f"what the teacher sees, of which probabilities are averaged: {_one_of(VIEWS)}",
    "surest": "so many views of each image count, those of the least entropy; 0: all",
    "brightness": "another share for the brightness",
    "jitter": "brightness, contrast and saturation vary by up to this share, hue by this share of the colour circle",
    "hue": "another share for the hue",
    "jitter_chance": "how often colours are changed",
    "blur_chance": "how often the image is blurred",
    "sigma": "range of the blur's deviation in pixels",
    "mirror_chance": "how often a mixed image is mirrored",
    "together": "whether one draw decides for all images of a step, as in the originals",
    "convention": f"what brightness, contrast and saturation mean: {_one_of(CONVENTIONS)}",
}

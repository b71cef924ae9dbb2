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
    "data.rare_classes": "[rare-class sampling](methods.md#rare-class-sampling) of source images; `{}`: on with "
    "defaults; null: off",
    "data.rare_classes.temperature": "the lower, the more often the rarest classes are drawn",
    "data.rare_classes.min_pixels": "an image is drawn for a class only if its label has more pixels of it than this",
    "data.rare_classes.min_crop_ratio": "a crop must have more pixels of its class than this times `min_pixels`, "
    "or it is drawn again",
    "data.rare_classes.tries": "maximum number of crops that are checked; the next one is used in any case",
    "data.augment.mirror_together": "one draw mirrors all images of a batch, or none (VFM-UDA's source-only baseline)",
    "schedule.warmup_alone": "no decay during the warm-up: the factor reaches 1 in its last step (VFM-UDA)",
    "schedule.batch_rule": f"{_one_of(BATCH_RULES)}: use learning rates as they are, or multiply them by the "
    "square root of the images in a step",
    "data.target_margins": "shares of the whole target image (top, bottom, left, right) where pseudo-labels have "
    "weight 0",
    "data.rare_classes.largest_share": "below 1: a crop is also drawn again if its largest class has at least this "
    "share",
}
EVAL: Mapping[str, str] = {
    "eval.window": "width and height of a sliding window over the network's input; null: whole images",
    "eval.stride": "horizontal and vertical distance of windows; null: they overlap by a third or more",
    "eval.windows_at_once": "windows that the network sees as one batch; exported programs see one",
    "eval.average": "what is averaged where windows overlap: `logits` (DAFormer, HRDA), or `softmax`, the "
    "probabilities (VFM-UDA)",
}
KEYWORDS: Mapping[str, str] = {
    "dilations": "dilations of the pyramid's branches",
    "teacher": "how the teacher follows the student: [`teacher`](#value-teacher)",
    "pseudo_labels": "weights of the pseudo-labels: [`pseudo_labels`](#value-pseudo_labels)",
    "augment": "how the student's images are changed: [`augment`](#value-augment); null: no changes",
    "mix": f"how target images are mixed with source images: {_one_of(MIXES)} (no mixing)",
    "classes_from": f"draw the pasted classes from the labels of: {_one_of(ORIGINS)}",
    "source_mean": "the source's loss is the mean over `all` pixels (DAFormer) or over `valid`, labelled ones (DACS)",
    "evaluate": f"the network that is evaluated and deployed: {_one_of(EVALUATED)}",
    "weak": "changes of source images in the source loss, and of target images before pasting, as "
    "[`augment`](#value-augment); null: no changes",
    "ratio": "share of the blocks or tokens that are masked",
    "block": "side of a block in pixels",
    "mask": f"what is masked: {_one_of(MASKS)} (the patches of a vision transformer)",
    "images": f"images that are masked: {_one_of(IMAGES)}",
    "things": "classes, by name or number, whose features stay close to those of the fixed network",
    "weight": "weight of this loss",
    "min_ratio": "minimum share of the class in the pixels of a cell",
    "restore_from": "weights of the fixed network: a file or a run's folder; empty: the start weights of the student",
}
VALUES: Mapping[str, type] = {"teacher": Teacher, "pseudo_labels": PseudoLabels, "augment": Strong}
VALUE_KEYS: Mapping[str, str] = {
    "decay": "decay of the moving average: share of the old teacher that is kept in each step",
    "ramp": "the decay is at most `1 - 1 / (step + ramp)`; 1: DACS and DAFormer, 2: VFM-UDA, 0: no ramp",
    "update": f"{_one_of(UPDATES)} the step",
    "modes": "mode of the teacher's layers: `{norms: train, dropout: eval}` uses batch statistics and no dropout",
    "threshold": "probability above which a pixel counts as confident",
    "weight": f"weight of a pixel: the share of confident pixels of the {_one_of(WEIGHTS[:2])}, or 1 or 0 for each "
    "`pixel`",
    "margins": "rows, or shares below 1, at the top, bottom, left and right with weight 0",
    "views": f"views of an image whose probabilities by the teacher are averaged: {_one_of(VIEWS)}",
    "surest": "number of views of each image that are used, those with the lowest entropy; 0: all",
    "brightness": "a different share for the brightness",
    "jitter": "brightness, contrast and saturation change by up to this share, hue by this share of the colour circle",
    "hue": "a different share for the hue",
    "jitter_chance": "probability that colours are changed",
    "blur_chance": "probability that the image is blurred",
    "sigma": "range of the standard deviation of the blur, in pixels",
    "mirror_chance": "probability that a mixed image is mirrored",
    "together": "use one random draw for all images of a step, as in the originals",
    "convention": f"library whose definition of brightness, contrast and saturation is used: {_one_of(CONVENTIONS)}",
}

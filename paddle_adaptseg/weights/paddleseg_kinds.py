"""Weights of PaddleSeg: under PaddleSeg's own names for its networks, and its SegFormer for ours.

Names do not tell which network of PaddleSeg a file is of, so the configured network says it (`weights_kind`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paddle_adaptseg.weights.kind import Arrays, Kind, has
from paddle_adaptseg.weights.transformer_kinds import stages_reversed

_CLASSIFIER = r"^(head|fc|out|classifier)\."  # of ImageNet


def _never(arrays: Arrays) -> bool:
    return False


def _deepest_last(arrays: Arrays) -> dict[str, np.ndarray]:
    """SegFormer's head fuses the deepest stage first; ours the first stage first."""
    fuse = "linear_fuse._conv.weight"
    return {name: stages_reversed(x) if name == fuse else x for name, x in arrays.items()}


PADDLESEG_KINDS: Mapping[str, Kind] = {
    "paddleseg_segformer": Kind(
        "SegFormer of PaddleSeg, for `encode_decode`; its pixels are those of its configuration",
        has("backbone.patch_embed1.proj.weight", "linear_c1.proj.weight", "linear_pred.weight"),
        (
            *((rf"^linear_c{n + 1}\.", f"heads.main.linear_c.{n}.") for n in range(4)),
            (r"^linear_fuse\._conv\.", "heads.main.linear_fuse.0."),
            (r"^linear_fuse\._batch_norm\.", "heads.main.linear_fuse.1."),
            (r"^linear_pred\.", "heads.main.linear_pred."),
            (r"\.dwconv\.dwconv\.", ".dwconv."),
        ),
        _deepest_last,
        model={"name": "encode_decode"},
    ),
    "paddleseg": Kind(
        "a network of PaddleSeg under its own names, for `paddleseg`", _never, ((r"^(?!net\.)", "net."),)
    ),
    "paddleseg_backbone": Kind(
        "a backbone of PaddleSeg under its own names, for `paddleseg`; its classifier is left out",
        _never,
        ((r"^(?!net\.)", "net.backbone."),),
        leave_out=_CLASSIFIER,
        absent=r"^net\.(?!backbone\.)",
    ),
}

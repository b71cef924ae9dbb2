"""How a teacher sees an image, and what becomes of its predictions for several views.

The mean of all views is steadier than one of them (VFM-UDA mirrors). Views in other colours may be wrong for an image;
of those only the surest count, the ones whose predictions have the least entropy (as in Shu et al., Test-Time Prompt
Tuning, NeurIPS 2022): a camera duller than the source is then labelled in livelier colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple, Optional

import paddle
from paddle import Tensor

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core.errors import ConfigError, suggest
from paddle_adaptseg.methods.augment import brightness, from_unit, saturation, to_unit
from paddle_adaptseg.methods.losses import softmax
from paddle_adaptseg.models.segmenter import Segmenter


class View(NamedTuple):
    """What happens to an image, and what to maps of it so that they fit the image again."""

    change: Callable[[Tensor, Pixels], Tensor]
    undo: Callable[[Tensor], Tensor]


def _mirror(x: Tensor) -> Tensor:
    return x.flip(axis=[-1])


def _colours(bright: float, vivid: float) -> View:
    """Brightness and saturation times a factor each."""

    def change(image: Tensor, pixels: Pixels) -> Tensor:
        return from_unit(saturation(brightness(to_unit(image, pixels), bright), vivid), pixels)

    return View(change, lambda x: x)


VIEWS: Mapping[str, View] = {
    "plain": View(lambda x, _: x, lambda x: x),
    "mirror": View(lambda x, _: _mirror(x), _mirror),
    "vivid": _colours(1.25, 2.0),
    "dull": _colours(0.8, 0.5),
}


def check_views(views: Sequence[str], count: int, path: str) -> None:
    """Refuse views that are unknown, none at all, and more of the surest than there are."""
    if not views:
        raise ConfigError(f"{path}.views must name one of {', '.join(VIEWS)}")
    for view in views:
        if view not in VIEWS:
            raise ConfigError(f"{path}.views: unknown '{view}': {suggest(view, VIEWS)}")
    if not 0 <= count <= len(views):
        raise ConfigError(f"{path}.surest must be between 0 (all) and {len(views)} views, not {count}")


def predicted(
    network: Segmenter, image: Tensor, pixels: Pixels, views: Sequence[str], count: int, valid: Optional[Tensor] = None
) -> Tensor:
    """Class probabilities [N, C, H, W], the mean of those of all views or of each image's `count` surest."""
    seen = [VIEWS[name].undo(softmax(network.main(VIEWS[name].change(image, pixels)))) for name in views]
    if 0 < count < len(seen):
        return surest(seen, count, valid)
    return seen[0] if len(seen) == 1 else sum(seen) / len(seen)


def surest(views: Sequence[Tensor], count: int, valid: Optional[Tensor] = None) -> Tensor:
    """The mean of those `count` views [N, C, H, W] of each image with the least entropy over valid pixels [N, H, W]."""
    unsure = paddle.stack([-(p * p.clip(min=1e-9).log()).sum(axis=1) for p in views])
    unsure = (unsure if valid is None else unsure * valid).sum(axis=[2, 3])
    rank = unsure.argsort(axis=0).argsort(axis=0)  # of each view of each image, 0 is the surest
    share = (rank < count).astype(views[0].dtype).reshape([len(views), -1, 1, 1, 1]) / count
    return sum(p * s for p, s in zip(views, share))

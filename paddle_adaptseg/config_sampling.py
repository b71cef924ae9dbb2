"""The settings of rare-class sampling (data/rare_classes.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RareClasses:
    """Source images are drawn by a class that they hold, rare ones more often (DAFormer); docs/methods.md."""

    temperature: float = 0.01  # the lower, the more often the rarest
    min_pixels: int = 3000  # a label with more pixels of a class than these is one of its files
    min_crop_ratio: float = 0.5  # a crop needs more than this times min_pixels, or is cut again
    tries: int = 10  # crops that are looked at; the next is taken as it is
    largest_share: float = 1.0  # below 1: so much of a crop must be of other classes than its largest (VFM-UDA: 0.75)

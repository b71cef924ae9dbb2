"""What data hands to a method. No label of `target_image` is in it, so no method can see one.

`labelled_image` and its label are the target images that data.target_labelled names; they are for the addition of that
name (methods/target_labelled.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle import Tensor

# For each image of a batch the shares of its height and width without padding, from the top left corner; the
# rest is padding. None: nothing is ever padded, in this batch or another.
Areas = Optional[tuple[tuple[float, float], ...]]

# For each image of a batch the rows and columns at its top, bottom, left and right from which nothing is learnt.
Borders = Optional[tuple[tuple[int, int, int, int], ...]]


@dataclass(frozen=True)
class Batch:
    """Normalised images [N, 3, H, W] and source labels [N, H, W] int64 (255: ignore, also where padded)."""

    source_image: Tensor  # it and its label are None for methods without a source (uses_source)
    source_label: Tensor
    target_image: Optional[Tensor]  # None for methods that do not use the target
    files: tuple[str, ...] = ()  # where it came from, for error messages
    source_areas: Areas = None
    target_areas: Areas = None
    target_borders: Borders = None
    positions: tuple[int, ...] = ()  # of its images in the stream of training data, for random choices
    labelled_image: Optional[Tensor] = None
    labelled_label: Optional[Tensor] = None

    def __len__(self) -> int:
        """Images of each domain."""
        images = (self.source_image, self.target_image, self.labelled_image)
        return next(len(image) for image in images if image is not None)

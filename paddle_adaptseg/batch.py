"""What data hands to a method. There is no target label in it, so no method can see one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle import Tensor


@dataclass(frozen=True)
class Batch:
    """Normalised images [N, 3, H, W] and source labels [N, H, W] int64 (255: ignore)."""

    source_image: Tensor
    source_label: Tensor
    target_image: Optional[Tensor]  # None for methods that never look at the target
    files: tuple[str, ...] = ()  # where it came from, for error messages
    positions: tuple[int, ...] = ()  # of its images in the stream of training data, for random choices

"""What self-training tells about its health: vanishing classes, and a teacher that is far from its student."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

from paddle_adaptseg.core import distributed
from paddle_adaptseg.methods.teacher import averaged

MEMORY = 0.99  # of the running shares: about the last hundred batches
SEEN = 1e-4  # share of the source from which on a class is expected in the target


def class_shares(label: Tensor, classes: int) -> Tensor:
    """Share of the pixels of each class [classes] float32."""
    place = label.flatten().clip(max=classes)
    counts = paddle.put_along_axis(paddle.zeros([classes + 1]), place, paddle.ones(place.shape), axis=0, reduce="add")
    return counts[:classes] / place.shape[0]


class Balance(nn.Layer):
    """Running shares of the classes in source labels and in pseudo-labels; part of the state."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.register_buffer("shares", paddle.zeros([2, len(self.names)]))  # of the source, of the pseudo-labels

    def add(self, source: Sequence[Tensor], pseudo: Sequence[Tensor]) -> None:
        """Take up the labels of all parts of a step; those of all processes count."""
        parts = [paddle.concat(list(labels)) for labels in (source, pseudo)]
        found = paddle.stack([class_shares(labels, len(self.names)) for labels in parts])
        if distributed.world() > 1:
            found = (
                (distributed.sum_on_device(found.flatten()) / distributed.world())
                .astype(found.dtype)
                .reshape(found.shape)
            )
        paddle.assign(MEMORY * self.shares + (1 - MEMORY) * found, output=self.shares)

    def readings(self) -> dict[str, Tensor]:
        """For every class that the source shows: its share in the pseudo-labels as a multiple of that in the source."""
        source, pseudo = self.shares.unbind()
        ratio = paddle.where(source > SEEN, pseudo / source.clip(min=SEEN), paddle.ones_like(source))
        return {f"pseudo_balance/{name}": value for name, value in zip(self.names, ratio.unbind())}


def distance(teacher: nn.Layer, student: nn.Layer) -> Tensor:
    """l2 norm of the difference of all parameters over that of the student's."""
    pairs = list(zip(averaged(teacher), averaged(student)))
    apart = paddle.stack([((old - new) ** 2).sum() for old, new in pairs]).sum()
    return (apart / paddle.stack([(new**2).sum() for _, new in pairs]).sum().clip(min=1e-12)).sqrt()

"""Data for training and evaluation from a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from paddle_adaptseg.batch import Batch
from paddle_adaptseg.config import Config
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.sampling import PairStream, eval_samples, train_batches
from paddle_adaptseg.labels import LABEL_SPACES, LabelSpace
from paddle_adaptseg.registry import lookup

__all__ = ["TrainData", "label_space", "open_validation", "eval_samples"]


def label_space(config: Config) -> LabelSpace:
    """The classes that the network predicts."""
    return lookup(LABEL_SPACES, config.data.classes, "label space")


def open_validation(config: Config) -> DomainFiles:
    """The labelled files that evaluation reads."""
    return DomainFiles(config.data.validation, label_space(config), labelled=True)


class TrainData:
    """The training stream of a configuration. `with_target` is false for methods that never look at the target."""

    def __init__(self, config: Config, with_target: bool) -> None:
        self.config, space = config, label_space(config)
        self.source = DomainFiles(config.data.source, space, labelled=True)
        self.target = DomainFiles(config.data.target, space, labelled=False) if with_target else None
        self.stream = PairStream(self.source, self.target, config.data.augment, config.run.seed)

    def batches(self, first_step: int) -> Iterator[Batch]:
        """All batches from a step to the end of the schedule."""
        schedule, data = self.config.schedule, self.config.data
        first, last = first_step * schedule.iter_size, schedule.stop * schedule.iter_size
        return train_batches(self.stream, data.pixels, data.batch_size, first, last, data.workers)

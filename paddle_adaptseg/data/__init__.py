"""Data for training and evaluation from a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from paddle_adaptseg.batch import Batch
from paddle_adaptseg.config import Config
from paddle_adaptseg.data.catalog import own_dataset
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.sampling import PairStream, eval_samples, shared_memory_suffices, train_batches
from paddle_adaptseg.labels import LABEL_SPACES, LabelSpace
from paddle_adaptseg.registry import lookup

__all__ = ["TrainData", "label_space", "protocols", "open_validation", "eval_samples"]


def label_space(config: Config) -> LabelSpace:
    """The classes that the network predicts."""
    name = config.data.classes
    if name.endswith((".yml", ".yaml")):
        return own_dataset(Path(name)).classes
    return lookup(LABEL_SPACES, name, "label space")


def protocols(config: Config) -> dict[str, LabelSpace]:
    """The class sets that evaluation reports, by name; each must be part of what the network predicts."""
    space = label_space(config)
    sets = {name: lookup(LABEL_SPACES, name, "protocol") for name in config.data.protocols}
    for chosen in sets.values():
        space.subset(chosen.names)
    return sets or {config.data.classes: space}


def open_validation(config: Config) -> DomainFiles:
    """The labelled files that evaluation reads."""
    return DomainFiles(config.data.validation, label_space(config), labelled=True, cache=config.data.cache)


class TrainData:
    """The training stream of a configuration. `with_target` is false for methods that never look at the target."""

    def __init__(self, config: Config, with_target: bool) -> None:
        self.config, space = config, label_space(config)
        data = config.data
        self.source = DomainFiles(data.source, space, labelled=True, cache=data.cache)
        self.target = DomainFiles(data.target, space, labelled=False, cache=data.cache) if with_target else None
        self.stream = PairStream(self.source, self.target, config.data.augment, config.run.seed)

    def notes(self) -> list[str]:
        """What a user should know about how the data is read."""
        domains = {"source": self.source, "target": self.target}
        lines = [
            f"{n}: {len(f)} images of {f.title}" + (" (prepared)" if f.cache else "") for n, f in domains.items() if f
        ]
        workers = self.config.data.workers
        if workers and not shared_memory_suffices(workers):
            lines.append(f"/dev/shm is too small for {workers} loader workers; they pass batches through pipes instead")
        return lines

    def batches(self, first_step: int) -> Iterator[Batch]:
        """All batches from a step to the end of the schedule."""
        schedule, data = self.config.schedule, self.config.data
        first, last = first_step * schedule.iter_size, schedule.stop * schedule.iter_size
        return train_batches(self.stream, data.pixels, data.batch_size, first, last, data.workers)

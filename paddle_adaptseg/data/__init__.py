"""Data for training and evaluation from a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import Optional

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.config.schema import Config, Data, Domain, Margins
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.labels import LABEL_SPACES, LabelSpace
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.data.catalog import dataset_spec, own_dataset
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.data.loader import Positions, shared_memory_suffices
from paddle_adaptseg.data.quarantine import Quarantine, Resized
from paddle_adaptseg.data.rare_classes import RareSampler, Total, class_counts
from paddle_adaptseg.data.sampling import PairStream, batch_bytes, train_batches

__all__ = [
    "TrainData",
    "class_set",
    "label_space",
    "named_space",
    "open_domain",
    "open_validation",
    "scored_domain",
]

LEAST = 16  # of an image's sides: no network here reduces its input by more


def named_space(name: str) -> LabelSpace:
    """A label space of the table, or the classes of a user's data set file."""
    if name.endswith((".yml", ".yaml")):
        return own_dataset(Path(name)).classes
    return lookup(LABEL_SPACES, name, "label space")


def label_space(config: Config) -> LabelSpace:
    """The classes that the network predicts."""
    if config.data.classes == "united":
        from paddle_adaptseg.data.sources import united_space

        return united_space(config.data)
    return named_space(config.data.classes)


def class_set(space: LabelSpace, protocol: str) -> list[int]:
    """Indices in `space` of a protocol's classes, all of which must be there; `united` are all of them."""
    if protocol == "united":
        return list(range(len(space)))
    return [space.names.index(name) for name in space.subset(named_space(protocol).names).names]


def open_validation(config: Config) -> DomainFiles:
    """The labelled files that evaluation reads."""
    return open_domain(config, "target")


def scored_domain(config: Config, name: str) -> Domain:
    """What evaluation reads: "target" is the validation domain; "source" the (first) source's own val split where it
    has one, else the images that training reads."""
    if name == "target":
        return config.data.validation
    source = next(iter(config.data.all_sources().values()), None)
    if source is None:
        raise ConfigError("this configuration has no source to evaluate on: give data.source, or evaluate the target")
    chosen = source.list or source.exclude or source.only or source.without
    held_out = source.split == "train" and "val" in dataset_spec(source.dataset).splits and not chosen
    return dataclasses.replace(source, split="val") if held_out else source


def open_domain(config: Config, name: str) -> DomainFiles:
    """The labelled files of a domain, "source" or "target", that evaluation reads.

    None of the target's may have been trained with its label.
    """
    domain = scored_domain(config, name)
    if min(domain.size) < LEAST:
        width, height = domain.size
        raise ConfigError(
            f"data.{'source' if name == 'source' else 'validation'}.size=[{width}, {height}] is too small to evaluate "
            f"at: width and height must be at least {LEAST}"
        )
    files = DomainFiles(domain, label_space(config), labelled=True, cache=config.data.cache)
    if name == "target" and config.data.target_labelled is not None:
        from paddle_adaptseg.data.target_labelled import check_leaks

        check_leaks(config.data, files.items)
    return files


def open_source(data: Data, space: LabelSpace) -> DomainFiles:
    """The labelled source, or several as one."""
    if data.sources:
        from paddle_adaptseg.data.sources import JoinedFiles

        return JoinedFiles(data.sources, space, data.cache)
    if data.source is None:
        raise ConfigError("this method trains on a labelled source: give data.source, or data.sources")
    return DomainFiles(data.source, space, labelled=True, cache=data.cache)


def open_labelled(data: Data, space: LabelSpace) -> Optional[DomainFiles]:
    """The target images whose labels are trained on, if there are any."""
    if data.target_labelled is None:
        return None
    from paddle_adaptseg.data.target_labelled import labelled_domain, labelled_listing

    return DomainFiles(labelled_domain(data), space, True, data.cache, labelled_listing(data))


def check_margins(margins: Margins) -> None:
    """Refuse margins that leave nothing of a picture."""
    top, bottom, left, right = margins
    if min(margins) < 0 or top + bottom >= 1 or left + right >= 1:
        raise ConfigError(
            f"data.target_margins={list(margins)} must be shares of the picture (top, bottom, left, right), "
            "0 or more, that leave some of it: VFM-UDA's are [0.03, 0.25, 0.03, 0.03]"
        )


class TrainData:
    """The training stream of a configuration, or the part of it that one of `world` ranks reads.

    `with_target` and `with_source` are false for methods that do not use one; `total` sums an array over all processes.
    """

    def __init__(
        self, config: Config, with_target: bool, rank: int = 0, world: int = 1, total: Total = lambda x: x,
        with_source: bool = True,
    ) -> None:  # fmt: skip
        self.config, space = config, label_space(config)
        self.rank, self.world = rank, world
        data = config.data
        self.source = open_source(data, space) if with_source else None
        self.labelled = open_labelled(data, space)
        self.target = DomainFiles(data.target, space, labelled=False, cache=data.cache) if with_target else None
        self.rare: Optional[RareSampler] = None
        if data.rare_classes is not None and self.source is not None:
            counts = class_counts(self.source, data.cache, rank, world, total, data.quarantine)
            self.rare = RareSampler(counts, data.rare_classes, config.run.seed)
        check_margins(data.target_margins)
        self.stream = PairStream(
            self.source, self.target, data.augment, config.run.seed, data.quarantine, self.rare, data.target_margins,
            together=data.batch_size * world, labelled=self.labelled,
        )  # fmt: skip
        self.quarantine, self.resized = Quarantine(data.quarantine), Resized()

    def files(self) -> dict[str, DomainFiles]:
        """What is read, by domain."""
        every = {"source": self.source, "target": self.target, "target_labelled": self.labelled}
        return {name: files for name, files in every.items() if files is not None}

    def notes(self) -> list[str]:
        """What a user should know about how the data is read."""
        lines = []
        for name, files in self.files().items():
            scaled = self.config.data.augment.scale != (1.0, 1.0)
            prepared = (
                "" if not files.cache else " (prepared, but not used with random scale)" if scaled else " (prepared)"
            )
            lines.append(f"{name}: {len(files)} images of {files.title}{prepared}")
            lines += files.notes()
            if files.unknown:
                ignored = ", ".join(files.unknown)
                lines.append(f"{name}: labels of classes that the network does not predict are ignored: {ignored}")
        if self.rare is not None:
            lines.append(self.rare.note(label_space(self.config).names))
        workers = self.config.data.workers
        if workers and not shared_memory_suffices(
            workers, batch_bytes(self.stream.sizes(), self.config.data.batch_size)
        ):
            lines.append(f"/dev/shm is too small for {workers} loader workers; they pass batches through pipes instead")
        return lines

    def batches(self, first_step: int) -> Generator[Batch, None, None]:
        """All batches from a step to the end of the schedule."""
        schedule, data = self.config.schedule, self.config.data
        first, last = first_step * schedule.iter_size, schedule.stop * schedule.iter_size
        positions = Positions(data.batch_size, first, last, self.rank, self.world)
        return train_batches(
            self.stream, data.pixels, positions, data.workers, data.timeout, self.quarantine, self.resized
        )

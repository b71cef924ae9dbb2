"""The configuration: frozen dataclasses whose annotations are the schema. loading.py reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from paddle_adaptseg.config.optim import Optim
from paddle_adaptseg.core.errors import ConfigError


@dataclass(frozen=True)
class Component:
    """A model or method: its name in the table, and keywords that its constructor checks."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_plain(cls, value: Any, path: str) -> Component:
        """Read `{name: x, other: ...}`."""
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ConfigError(f"'{path}' must be a mapping with a 'name', not {value!r}")
        return cls(value["name"], {k: v for k, v in value.items() if k != "name"})

    def to_plain(self) -> dict[str, Any]:
        return {"name": self.name, **self.params}


class Roots(tuple):
    """One or more folders, zip archives, or patterns of them; text or a list in YAML."""

    @classmethod
    def from_plain(cls, value: Any, path: str) -> Roots:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, (list, tuple)) or not values or not all(isinstance(v, str) and v for v in values):
            raise ConfigError(f"'{path}' must be a folder or archive, or a list of them, not {value!r}")
        return cls(values)

    def to_plain(self) -> Any:
        return self[0] if len(self) == 1 else list(self)

    def __str__(self) -> str:
        return " + ".join(self)


class Stages(tuple):
    """Stages of a network, by name; in YAML true for all, false for none, or a list."""

    @classmethod
    def from_plain(cls, value: Any, path: str) -> Stages:
        if isinstance(value, bool):
            return EVERY_STAGE if value else cls()
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) and v for v in value):
            raise ConfigError(f"'{path}' must be true, false or a list of stages such as [layer3], not {value!r}")
        return cls(value)

    def to_plain(self) -> Any:
        return list(self) if self and self != EVERY_STAGE else bool(self)


EVERY_STAGE = Stages(["*"])


class Switch(str):
    """auto, on or off. YAML reads the last two as true and false."""

    @classmethod
    def from_plain(cls, value: Any, path: str) -> Switch:
        text = {True: "on", False: "off"}[value] if isinstance(value, bool) else value
        if text not in ("auto", "on", "off"):
            raise ConfigError(f"'{path}' must be auto, on or off, not {value!r}")
        return cls(text)

    def to_plain(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Domain:
    """Where images come from, and the size at which the network sees them."""

    dataset: str  # a row of the data catalog, or a YAML file of the user's
    root: Roots
    split: str
    size: tuple[int, int]  # width, height
    list: str = ""  # a text file that names the images to use
    exclude: str = ""  # a text file that names images to leave out
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # {city: [aachen, ...]}: fields of the pattern
    without: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pixels:
    """How 8-bit RGB becomes network input; part of what the weights were trained with (default: Caffe's BGR)."""

    order: str = "bgr"
    mean: tuple[float, float, float] = (104.00698793, 116.66876762, 122.67891434)  # in the order above
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Augment:
    """Random changes to training images, each a function of (seed, position)."""

    mirror: bool = False
    mirror_together: bool = False  # one draw for all images of a batch (VFM-UDA's source-only baseline)
    scale: tuple[float, float] = (1.0, 1.0)  # of the size; what is larger is cut, what is smaller padded
    crop: Optional[tuple[int, int]] = None  # width, height of a random cut
    jitter: float = 0.0  # brightness, contrast and saturation each vary by up to this share
    blur: float = 0.0  # chance of a Gaussian blur


@dataclass(frozen=True)
class RareClasses:
    """Source images are drawn by a class that they hold, rare ones more often (DAFormer); docs/methods.md."""

    temperature: float = 0.01  # the lower, the more often the rarest
    min_pixels: int = 3000  # a label with more pixels of a class than these is one of its files
    min_crop_ratio: float = 0.5  # a crop needs more than this times min_pixels, or is cut again
    tries: int = 10  # crops that are looked at; the next is taken as it is
    largest_share: float = 1.0  # below 1: so much of a crop must be of other classes than its largest (VFM-UDA: 0.75)


Margins = tuple[float, float, float, float]  # top, bottom, left, right


@dataclass(frozen=True)
class Source(Domain):
    """One of several sources."""

    share: float = 1.0  # how often its images are drawn, relative to the other sources


@dataclass(frozen=True)
class TargetLabelled:
    """Target images whose labels may be used: those of a list or a folder, or so many of data.target by a seed."""

    list: str = ""  # a text file that names them
    root: Optional[Roots] = None  # the folder that holds them, laid out as data.target; None: data.target.root
    count: int = 0  # 0: all of the list or folder
    share: float = 0.0  # or such a share of them
    seed: int = 0  # of the choice; run.seed has no part in it


@dataclass(frozen=True)
class Data:
    target: Domain
    validation: Domain
    source: Optional[Domain] = None  # labelled; needed by all methods but those without a source
    sources: Mapping[str, Source] = field(default_factory=dict)  # several in its place, each under a name
    target_labelled: Optional[TargetLabelled] = None  # adds a supervised target batch to any method
    classes: str = "cityscapes_19"  # what the network predicts: a label space, or a data set's YAML file
    protocols: tuple[str, ...] = ()  # class sets that evaluation reports; empty: all classes
    cache: str = "dataset/cache"  # where tools/prepare.py keeps resized copies; used when they are there
    pixels: Pixels = field(default_factory=Pixels)
    augment: Augment = field(default_factory=Augment)
    rare_classes: Optional[RareClasses] = None  # {}: on, with these values
    target_margins: Margins = (0.0, 0.0, 0.0, 0.0)  # shares of the target's picture where nothing is learnt from it
    batch_size: int = 1
    workers: int = 2
    timeout: float = 300.0  # seconds that loader workers may take for a batch
    quarantine: int = 0  # unusable training items that are replaced and listed; one more stops the run

    def all_sources(self) -> dict[str, Domain]:
        """Every source by the key that gives it: data.source, or each of data.sources."""
        return {"source": self.source} if self.source else {f"sources.{k}": d for k, d in self.sources.items()}


@dataclass(frozen=True)
class Schedule:
    """Learning rate = lr * (1 - step/horizon)^power. The originals set the horizon to 250k but stop at 150k.

    While step < warmup it is lr * step/warmup; with a `warmup_ratio` it is the decayed learning rate times a factor
    that grows linearly from the ratio to 1 (the "linear" warm-up of mmcv). With `warmup_alone` it is not decayed
    meanwhile, and grows from the ratio to 1 in the last step of the warm-up (VFM-UDA).
    """

    horizon: int = 250_000
    stop: int = 150_000
    power: float = 0.9
    warmup: int = 0
    warmup_ratio: float = 0.0
    warmup_alone: bool = False
    batch_rule: str = "fixed"  # or sqrt: learning rates are multiplied by the square root of a step's images
    iter_size: int = 1


AVERAGES = ("logits", "softmax")


@dataclass(frozen=True)
class Eval:
    """How the network sees an image wherever it is evaluated, predicts or is exported: whole, or in windows."""

    window: Optional[tuple[int, int]] = None  # width, height in network input pixels; None: the whole image
    stride: Optional[tuple[int, int]] = None  # width, height from window to window; None: they overlap by a third
    average: str = "logits"  # of the windows that a pixel lies in, or softmax: of their probabilities
    windows_at_once: int = 1  # that the network sees as one batch


@dataclass(frozen=True)
class Run:
    """Where the run writes, how often, and what it starts from."""

    output: str = "checkpoint/run"
    seed: int = 0
    device: str = "auto"
    log_every: int = 10
    eval_every: int = 5000
    save_every: int = 5000
    keep: int = 3
    restore_from: str = ""
    restore_partial: bool = False
    restore_labelled: bool = False
    max_hours: float = 0.0  # end this session with a checkpoint after so long; 0: no limit
    on_nonfinite: str = "stop"  # or skip: undo the step and continue, up to max_nonfinite times
    max_nonfinite: int = 10
    accelerate: Switch = Switch("auto")  # on a CPU, blocks and losses are computed by oneDNN
    deterministic: bool = False  # also choose deterministic cuDNN kernels
    cudnn_autotune: Optional[bool] = None  # time cuDNN's kernels and take the fastest; None: unless deterministic
    timeout: float = 600.0  # seconds that one of several processes waits for the others (docs/scaling.md)
    sync_norm: bool = False  # batch statistics over the images of all processes (GPUs only)
    precision: str = "fp32"  # or bf16, fp16: mixed precision
    loss_scale: float = 65536.0  # of fp16's losses at the start; from then on it follows the gradients
    recompute: Stages = Stages()  # whose blocks keep only their input and run forward twice: less memory, more time
    baseline: str = ""  # folder of a source-only run; evaluations then report the difference from it
    profile: int = 0  # steps of which a timeline and a table of stages are written


@dataclass(frozen=True)
class Config:
    model: Component
    method: Component
    data: Data
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    run: Run = field(default_factory=Run)
    eval: Eval = field(default_factory=Eval)
    plugins: tuple[str, ...] = ()  # the user's modules, or .py files, that register methods, networks, data sets

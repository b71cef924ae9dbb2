"""The one abstraction: a method turns a batch into named loss terms and says which parameters belong to which player.

The trainer runs one backward pass per yielded dict, then steps every player; it does not know discriminators,
teachers or levels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_adaptseg.config.schema import Pixels
from paddle_adaptseg.core.errors import ConfigError, suggest
from paddle_adaptseg.data.batch import Areas, Batch
from paddle_adaptseg.methods.losses import covered, cross_entropy, entropy_map, labelled
from paddle_adaptseg.methods.padding import joined
from paddle_adaptseg.models.segmenter import ParamGroup, Segmenter


class Term(NamedTuple):
    """A loss as it is logged, and the weight with which it is summed.

    `pixels`: of how many it is the mean, where batches of one size differ in that; with several processes the
    trainer weighs each one's mean by it, so that all together compute the mean over the common batch.
    """

    loss: Tensor
    weight: float = 1.0
    pixels: Optional[Tensor] = None


Terms = dict[str, Term]


@dataclass(frozen=True)
class Clock:
    """Where training stands. `watch`: this step's numbers are reported, so also compute those that cost extra."""

    step: int
    horizon: int
    watch: bool = False


@dataclass(frozen=True)
class Ramp:
    """A factor over time: 0 before `start`, then growing linearly to 1 within `steps` (0: at once)."""

    start: int = 0
    steps: int = 0

    def __call__(self, step: int) -> float:
        if step < self.start:
            return 0.0
        return 1.0 if self.steps == 0 else min(1.0, (step - self.start + 1) / self.steps)


@dataclass(frozen=True)
class Trained:
    """A trained network of a weights file, and what it expects."""

    network: Segmenter
    pixels: Pixels
    names: tuple[str, ...]


class Method(nn.Layer):
    """Base of all methods: a segmenter trained on labelled source images, each level with its weight.

    A constructor names what it needs of `segmenter`, `classes`, `make_segmenter`, `pixels`, `seed`, `names` and
    `trained`; its other keywords come from the configuration. Everything a method remembers is a sublayer or buffer,
    so `state_dict()` is complete. `observed` holds this step's extra readings for the log: scalars, and class maps
    under names ending in `_prediction`.
    """

    uses_target = True
    uses_source = True
    needs_weights = False  # whether it means nothing without run.restore_from
    eval_parts: Collection[str] = ()  # sublayers that stay in evaluation mode while the others train
    unsaved_parts: Collection[str] = ()  # sublayers that never change and that the constructor fills, say from a file
    choices: Any  # what is drawn at random in a step: choices.Choices, by build_method() unless it has its own
    least_size = 16  # of an image's sides: no network here reduces its input by more

    def __init__(self, segmenter: Segmenter, seg_weights: Optional[Mapping[str, float]]) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.seg_weights = {} if seg_weights is None else self.check_levels(seg_weights, "method.seg_weights")
        self.observed: dict[str, object] = {}
        self.last: dict[str, Tensor] = {}  # what it saw last, for pictures: one image or map of each name
        self.additions = nn.LayerDict()  # what adds terms of its own: methods/additions.py

    def losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        """Yield groups of terms, each complete for one backward pass."""
        raise NotImplementedError

    def players(self) -> dict[str, list[ParamGroup]]:
        """Parameter groups by the player whose optimiser owns them."""
        return {"segmenter": self.segmenter.groups()}

    def loaded(self) -> None:
        """Called once, without gradients, when the start weights are in `segmenter`; not when a run is resumed."""

    def before_step(self, batches: Sequence[Batch], clock: Clock) -> None:
        """Called before a step with all parts of it (one, or schedule.iter_size)."""

    def after_step(self, clock: Clock) -> None:
        """Called without gradients when all players have stepped."""

    def notes(self) -> list[str]:
        """Lines about its networks for the plan and the start of a run."""
        return []

    def parts(self) -> list[Any]:
        """The method and its additions, which have loaded(), before_step() and after_step() too."""
        return [self, *self.additions.values()]

    def all_losses(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        """The method's groups of terms, then those of its additions; a method with a source begins with its terms."""
        groups = self.losses(batch, clock)
        if not self.additions:
            yield from groups
            return
        with recorded(self.segmenter, batch.source_image) as features:
            first = next(groups)
        for addition in self.additions.values():
            first.update(addition.source_terms(features, batch, clock))
        features.clear()
        yield first
        yield from groups
        for addition in self.additions.values():
            yield from addition.losses(batch, clock)

    def train(self, *mode: bool) -> Method:
        """Training mode for all parts but `eval_parts`; called before every step."""
        super().train(*mode)
        for name, layer in self.named_sublayers() if self.eval_parts else ():
            if any(f"{name}.".startswith(f"{part}.") for part in self.eval_parts):
                layer.training = False  # not eval(), which also sets a mode of the whole process
        for addition in self.additions.values():
            addition.set_modes()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """All parameters and buffers but those of `unsaved_parts`."""
        state = super().state_dict(*args, **kwargs)
        for name in [n for n in state for part in self.unsaved_parts if n.startswith(f"{part}.")]:
            del state[name]
        return state

    @property
    def eval_model(self) -> Segmenter:
        """The network that is evaluated and deployed."""
        return self.segmenter

    def check_words(self, **given: tuple[str, Sequence[str]]) -> None:
        """Refuse words that a key does not know."""
        for key, (value, known) in given.items():
            if value not in known:
                raise ConfigError(f"method.{key}: unknown '{value}': {suggest(value, known)}")

    def check_levels(self, weights: Mapping[str, float], path: str) -> dict[str, float]:
        """Refuse weights for levels that the segmenter does not have."""
        if not weights:
            raise ConfigError(f"{path} must name a level: {', '.join(self.segmenter.levels)}")
        for level in weights:
            if level not in self.segmenter.levels:
                raise ConfigError(f"{path}: this model has no level '{level}': {suggest(level, self.segmenter.levels)}")
        return dict(weights)

    def whole_levels(self, weights: Mapping[str, float], path: str) -> dict[str, float]:
        """The same, where a level that covers only a part of the image is of no use."""
        for level in self.segmenter.cropped:
            if level in weights:
                raise ConfigError(f"{path}: this loss needs whole images, but '{level}' covers a crop: leave it out")
        return self.check_levels(weights, path)

    def crop(self, image: Tensor, clock: Clock, name: str) -> dict[str, Any]:
        """What the segmenter is given beside an image in training: a detail crop where it needs one (HRDA).

        `name` is that of the pass, one of choices.PASSES: each draws a crop of its own.
        """
        if not self.segmenter.cropped:
            return {}
        return {"box": self.choices.box(self.segmenter, image.shape[2:], clock, name)}

    def seg_terms(self, logits: Mapping[str, Tensor], batch: Batch, clock: Clock) -> Terms:
        """Cross entropy of every weighted level on the source."""
        self.observe_source(logits["main"], clock)
        terms = {}
        for level, weight in self.seg_weights.items():
            label = covered(logits, level, batch.source_label)
            terms[f"seg_{level}"] = Term(cross_entropy(logits[level], label), weight, labelled(label))
        return terms

    def observe_source(self, logits: Tensor, clock: Clock) -> None:
        """On watched steps: what the network predicts on the source batch."""
        if clock.watch:
            self.observed["source_prediction"] = logits.detach().argmax(axis=1)

    def observe_target(self, logits: Tensor, clock: Clock, areas: Areas = None) -> None:
        """On watched steps: the network's confidence on the target, and the shares of the classes among the pixels."""
        if not clock.watch:
            return
        with paddle.no_grad():
            logits = joined(logits, areas)
            share = F.one_hot(logits.argmax(axis=1), logits.shape[1]).mean(axis=[0, 1, 2])
            self.observed["target_entropy"] = entropy_map(logits).mean()
            self.observed["target_classes"] = (share > 0.001).astype("float32").sum()
            self.observed["target_largest_share"] = share.max()


@contextlib.contextmanager
def recorded(segmenter: Segmenter, image: Tensor) -> Iterator[list]:
    """Inside, the features that the segmenter computes of this very image are kept in a list."""
    seen: list = []
    plain, own = segmenter.features, vars(segmenter).get("features")

    def features(given: Tensor, *more: Any, **named: Any) -> Any:
        found = plain(given, *more, **named)
        if given is image:
            seen.append(found)
        return found

    segmenter.features = features  # type: ignore[method-assign, assignment]
    try:
        yield seen
    finally:
        del segmenter.features
        if own is not None:
            segmenter.features = own  # type: ignore[method-assign]

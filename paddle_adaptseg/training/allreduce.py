"""What several processes must share so that a step of all equals one step on their common batch.

Gradients are held until a step's last backward pass and then averaged once, so that discriminators, frozen or not, and
parts of a step need nothing of their own. A mean over labelled pixels is weighed by each process's share of them first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

from paddle_adaptseg.config.loading import parse_config
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core import distributed
from paddle_adaptseg.core.distributed import all_reduce, time_limit, world
from paddle_adaptseg.core.errors import ConfigError, DataError
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.methods.base import Method, Terms
from paddle_adaptseg.training.guards import NotFinite
from paddle_adaptseg.training.optim import Player


def weigh(terms: Terms) -> None:
    """Scale means over counted pixels, so that their mean over the processes is the mean over all pixels."""
    if distributed.world() == 1:
        return
    pixels = {
        name: term.pixels.astype("float64").reshape([]) for name, term in terms.items() if term.pixels is not None
    }
    counted = dict(zip(pixels, paddle.stack(list(pixels.values())).tolist())) if pixels else {}
    sums = distributed.all_reduce(list(counted.values()))
    for (name, mine), all_pixels in zip(counted.items(), sums):
        factor = distributed.world() * mine / all_pixels if all_pixels else 1.0
        terms[name] = terms[name]._replace(loss=terms[name].loss * factor)


def check_same_files(domains: Mapping[str, DomainFiles]) -> None:
    """Refuse to train when the processes found different files, as on a machine with other data below its root."""
    mine = {name: (len(files), files.digest()) for name, files in domains.items()}
    said = [json.loads(text) for text in distributed.gather_texts(json.dumps(mine))]
    for name in mine:
        for rank, other in enumerate(said):
            if other[name] != said[0][name]:
                counts = f"{said[0][name][0]} images in process 0, {other[name][0]} in process {rank}"
                raise DataError(
                    f"the {name} differs between the processes ({counts}; names and order are compared): "
                    f"put the same files below data.{name}.root on every machine"
                )


def common_losses(check: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The losses of the common batch; where one process finds them not finite, all do."""
    if distributed.world() == 1:
        return check()
    fault, losses = "", {}
    try:
        losses = check()
    except NotFinite as error:
        fault = str(error)
    if distributed.all_reduce([bool(fault)])[0]:
        said = distributed.gather_texts(fault)
        raise NotFinite(next(text for text in said if text))
    return dict(zip(losses, (distributed.all_reduce(list(losses.values())) / distributed.world()).tolist()))


def average_gradients(players: Mapping[str, Player], method: Method) -> None:
    """Average all gradients and running statistics; every player's is on its way while the next one's is packed."""
    if distributed.world() == 1:
        return
    gradients = {name: player.gradients() for name, player in players.items()}
    names = [name for found in gradients.values() for name, _ in found]
    distributed.check_equal("the parameters that have a gradient", {name: np.zeros(1) for name in names})
    under_way = [average([g for _, g in found]) for found in gradients.values()]
    under_way.append(average([t for norm in batch_norms(method) for t in (norm._mean, norm._variance)]))
    for finish in under_way:
        finish()


def reduced(players: Mapping[str, Player]) -> int:
    """Bytes of gradients that a process brings to a step's reductions."""
    return sum(4 * int(p.size) for player in players.values() for g in player.groups for p in g.parameters)


def batch_norms(layer: nn.Layer) -> list[nn.Layer]:
    """The layers below that normalise with batch statistics."""
    norms = [sub for sub in layer.sublayers() if isinstance(sub, (nn.BatchNorm2D, nn.SyncBatchNorm))]
    return [norm for norm in norms if not norm._use_global_stats]


def synchronise_norms(layer: nn.Layer) -> int:
    """Let batch statistics be those of all processes' images; returns how many layers there are."""
    wanted = batch_norms(layer)
    for parent in layer.sublayers(include_self=True):
        for name, child in parent.named_children():
            if any(child is norm for norm in wanted):
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
    return len(wanted)


def check_sync_norm(config: Config, gpu: bool) -> None:
    """Refuse what Paddle cannot do."""
    if config.run.sync_norm and not gpu:
        raise ConfigError(
            "run.sync_norm=true needs GPUs (Paddle's SyncBatchNorm has no CPU form): leave it out, or choose "
            "model.norm=frozen"
        )


def common_batch(config: Config) -> int:
    """Images of each domain in a step of all processes."""
    return config.data.batch_size * config.schedule.iter_size * distributed.world()


def describe_global_batch(config: Config) -> str:
    """What several processes mean for batch, rate and steps, in one line."""
    data, schedule = config.data, config.schedule
    parts = f" x {schedule.iter_size} parts" if schedule.iter_size > 1 else ""
    return (
        f"{distributed.world()} processes x {data.batch_size} image{'s'[: data.batch_size > 1]}{parts} = global batch "
        f"{common_batch(config)}; rates unchanged ({config.optim['segmenter'].lr:g}); steps are not divided: "
        f"{schedule.stop} steps see {distributed.world()} times the images that one process sees"
    )


def describe_process_change(record: Mapping[str, Any], step: int, config: Config) -> str:
    """What another number of processes than a checkpoint's changes for the run that goes on; empty: nothing."""
    before, now, batch = int(record.get("processes", 1)), distributed.world(), common_batch(config)
    if before == now:
        return ""
    old = parse_config(str(record["config"]), "configuration inside the checkpoint")
    images = old.data.batch_size * old.schedule.iter_size * before
    text = f"continuing with {now} process{'es'[: 2 * (now > 1)]} instead of {before}: "
    if images == batch:
        return text + f"the global batch stays {batch}, and the data goes on where it was"
    return text + (
        f"the global batch is now {batch} instead of {images}; rates and steps stay as they are; the data goes on at "
        f"position {step * batch} of its stream instead of {step * images}"
    )


BUCKET = 2**23  # numbers that one reduction carries (32 MB): few messages, and the next is packed while one travels


def average(tensors: Sequence) -> Callable[[], None]:
    """Begin to average tensors in place, fused into buckets; call the result to wait until it is done."""
    if world() == 1 or not tensors:
        return lambda: None
    pending = []
    for part in _buckets(tensors):
        flat = paddle.concat([t.detach().reshape([-1]) for t in part]) / world()
        with time_limit():
            pending.append((part, flat, dist.all_reduce(flat, sync_op=False)))

    def finish() -> None:
        for part, flat, task in pending:
            with time_limit():
                task.wait()
            for tensor, mean in zip(part, flat.split([int(t.size) for t in part])):
                tensor.set_value(mean.reshape(tensor.shape).astype(tensor.dtype))

    return finish


def broadcast_tensors(tensors: Sequence) -> None:
    """Give all processes the first one's tensors."""
    if world() > 1:
        all_reduce([])
        with time_limit():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def _buckets(tensors: Sequence) -> Iterator[list]:
    """Tensors of one type, in order, up to BUCKET numbers together."""
    part: list = []
    for tensor in tensors:
        if part and (sum(int(t.size) for t in part) + int(tensor.size) > BUCKET or tensor.dtype != part[0].dtype):
            yield part
            part = []
        part.append(tensor)
    yield part

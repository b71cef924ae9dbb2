"""What several processes must share so that a step of all equals one step on their common batch.

Gradients are held until a step's last backward pass and then averaged once, so that discriminators, frozen or not, and
parts of a step need nothing of their own. A mean over labelled pixels is weighed by each process's share of them first.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

from paddle_adaptseg.config.loading import parse_config
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.core import distributed
from paddle_adaptseg.core.distributed import all_reduce, time_limit, world
from paddle_adaptseg.core.errors import ConfigError, DataError, TrainingError
from paddle_adaptseg.data.dataset import DomainFiles
from paddle_adaptseg.methods.base import Method, Terms
from paddle_adaptseg.training.guards import Measured, NotFinite, check_finite, mean_losses, read
from paddle_adaptseg.training.optim import Player, common_batch


@paddle.no_grad()
def weigh(terms: Terms) -> None:
    """Scale means over counted pixels, so that their mean over the processes is the mean over all pixels."""
    counted = {name: term.pixels for name, term in terms.items() if term.pixels is not None}
    if distributed.world() == 1 or not counted:
        return
    mine = paddle.stack([pixels.reshape([]).astype("float64") for pixels in counted.values()])
    every = distributed.sum_on_device(mine)
    factors = paddle.where(every > 0, distributed.world() * mine / every, paddle.ones_like(mine))
    for name, factor in zip(counted, factors.unbind()):
        with paddle.enable_grad():
            loss = terms[name].loss * factor.astype(terms[name].loss.dtype)
        terms[name] = terms[name]._replace(loss=loss)


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


def agree(measured: Measured, votes: Sequence[float], gradients: bool) -> tuple[dict[str, float], list[float]]:
    """Losses of the common batch, and sums of the votes: the one time in a step that processes wait for an answer.

    Where one process finds losses, or if asked gradients, that are not finite, all do.
    """
    finite = paddle.isfinite(measured.numbers[len(measured.losses) :]).all().astype("float32").reshape([1])
    mine = paddle.concat([finite, measured.numbers[: len(measured.losses)]])
    which = float(zlib.crc32("\n".join(measured.gradients).encode()))
    sums = distributed.all_reduce([which, *votes], mine)
    if sums[0] != world() * which:
        raise TrainingError(f"step {measured.step}: the parameters that have a gradient differ between the processes")
    all_finite, values = sums[1 + len(votes)], sums[2 + len(votes) :] / world()
    if not np.isfinite(values).all() or gradients and all_finite < world():
        raise NotFinite(_first_fault(measured, gradients))
    return mean_losses(measured, values), sums[1 : 1 + len(votes)].tolist()


def _first_fault(measured: Measured, gradients: bool) -> str:
    """What the first process that is not finite says of it."""
    fault = ""
    try:
        check_finite(measured, read([measured])[0], gradients)
    except NotFinite as error:
        fault = str(error)
    said = [text for text in distributed.gather_texts(fault) if text]
    return said[0] if said else f"step {measured.step}: the sum of the losses of all processes is not finite"


def average_gradients(players: Mapping[str, Player], method: Method) -> None:
    """Average all gradients, in buckets that Paddle fuses, and running statistics. Nothing waits for the host."""
    from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients_with_group

    with time_limit():
        fused_allreduce_gradients_with_group([p for player in players.values() for p in player.parameters()], None)
    average([t for norm in batch_norms(method) for t in (norm._mean, norm._variance)])


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


def average(tensors: Sequence) -> None:
    """Average tensors of one type in place, in one message."""
    if world() == 1 or not tensors:
        return
    flat = paddle.concat([t.detach().reshape([-1]) for t in tensors]) / world()
    with time_limit():
        dist.all_reduce(flat)
    for tensor, mean in zip(tensors, flat.split([int(t.size) for t in tensors])):
        tensor.set_value(mean.reshape(tensor.shape))


def broadcast_tensors(tensors: Sequence) -> None:
    """Give all processes the first one's tensors."""
    if world() > 1:
        all_reduce([])
        with time_limit():
            for tensor in tensors:
                dist.broadcast(tensor, 0)

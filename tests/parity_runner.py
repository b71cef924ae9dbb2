"""Runs a parity trajectory through the real training step. The only thing that depends on a method is its config.

Figures lie in tests/parity, or in $PARITY_DIR, with the rules that make their inputs beside them; a README explains
them. What cannot be replayed fails by its name: nothing in the folder is passed over.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import paddle
from parity_self_training import kind_of as self_training

from paddle_adaptseg.config.optim import SGD, Adam, LegacySGD, Optim
from paddle_adaptseg.config.schema import Component, Config, Data, Domain, Schedule
from paddle_adaptseg.core import runtime
from paddle_adaptseg.data.batch import Batch
from paddle_adaptseg.methods import build_method
from paddle_adaptseg.methods.base import Clock
from paddle_adaptseg.models import build_model
from paddle_adaptseg.training.optim import build_players
from paddle_adaptseg.training.step import TrainState, train_step
from paddle_adaptseg.weights.names import rename

SHIPPED = Path(__file__).parent / "parity"
FIGURES = Path(os.environ.get("PARITY_DIR") or SHIPPED)
LOSS_RTOL, LOSS_ATOL = 1e-3, 1e-6  # float32 against float64; the originals in float32 are within 4e-4
CHANGE_RTOL, CHANGE_FLOOR = 1e-2, 1e-5  # of the l2 norm of a tensor's change; smaller changes are not compared


# Kind of a file of figures: what its top level holds.
KINDS = {"trajectory": {"case", "config", "steps", "change"}, "forward": {"salt", "input", "networks"}}


def load_rules(folder: Path = FIGURES):
    """The module that makes inputs, from beside the figures; the shipped one where there is none."""
    found = [folder / "rules.py", *sorted(folder.glob("rules*.py")), SHIPPED / "rules.py"]
    path = next(path for path in found if path.exists())
    spec = importlib.util.spec_from_file_location("parity_rules", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kind_of(path: Path) -> str:
    """The kind of a file of figures; one that nothing here replays is an error."""
    held = set(json.loads(path.read_text()))
    for kind, keys in KINDS.items():
        if held == keys:
            return kind
    raise AssertionError(f"{path.name}: figures of no kind that is replayed here (they hold {', '.join(sorted(held))})")


def files_of(kind: str, folder: Path = FIGURES) -> list[Path]:
    """Every file of figures of a kind."""
    return [path for path in all_files(folder) if set(json.loads(path.read_text())) == KINDS[kind]]


def all_files(folder: Path = FIGURES) -> list[Path]:
    """Every file of figures but those of self-training, which parity_self_training.py replays."""
    read = {path: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return [path for path, held in read.items() if set(held) in KINDS.values() or self_training(held) == "unknown"]


def _levels(pair: list[float]) -> dict[str, float]:
    return {"aux": pair[0], "main": pair[1]}


def _adversarial(c: dict, **more) -> dict:
    weights = _levels(c["adv"])
    return {"name": "output_adversarial", "weights": weights, "seg_weights": _seg(c), "gan": c["gan"], **more}


def _seg(c: dict) -> dict[str, float]:
    return {"aux": c["lambda_seg"], "main": 1.0}


def _minent(c: dict) -> tuple[dict, dict]:
    method = {"name": "target_prior", "target_loss": "entropy", "weights": _levels(c["ent"]), "seg_weights": _seg(c)}
    return {"aspp_branches": 4}, method


def _maxsquare(c: dict) -> tuple[dict, dict]:
    method = {
        "name": "target_prior",
        "target_loss": "iw_max_square" if c["iw"] else "max_square",
        "weights": {"main": c["lambda_target"]},
        "seg_weights": _seg(c) if c["multi"] else {"main": 1.0},
        "guidance": c["threshold"] if c["multi"] else None,
    }
    return {"aspp_branches": 2, "norm": "batch_fixed_stem"}, method


def _clan(c: dict) -> tuple[dict, dict]:
    keys = ("preheat", "lambda_adv", "lambda_weight", "lambda_local", "epsilon")
    return {"name": "deeplabv2_resnet_twin", "aspp_branches": 4}, {"name": "clan", **{k: c[k] for k in keys}}


# method of the figures -> (model parameters, method section)
COMPONENTS = {
    "minent": _minent,
    "maxsquare": _maxsquare,
    "clan": _clan,
    "source_only": lambda c: ({"aspp_branches": 2}, {"name": "source_only", "seg_weights": _seg(c)}),
    "adaptseg": lambda c: ({"aspp_branches": 2}, _adversarial(c)),
    "advent": lambda c: ({"aspp_branches": 4}, _adversarial(c, represent="self_information")),
}


def configuration(c: dict) -> Config:
    """Our configuration of a case; a method that is not known here is an error."""
    assert c["method"] in COMPONENTS, f"figures of method '{c['method']}': known here are {', '.join(COMPONENTS)}"
    model, method = COMPONENTS[c["method"]](c)
    norm = {"norm": "frozen"} if c.get("freeze_bn") else {}
    kind = model.pop("name", "deeplabv2_resnet")
    momentum = LegacySGD if c.get("legacy", False) else SGD
    unused = Domain("gta5", "unused", "all", (1, 1))
    return Config(
        Component(kind, {"depths": c["depths"], **model, **norm}),
        Component(method.pop("name"), method),
        Data(unused, unused, unused, batch_size=c["n"]),
        Optim({"segmenter": momentum(c["lr"], c["momentum"], c["wd"]), "discriminators": Adam(c["lr_d"], 0.9, 0.99)}),
        Schedule(c["max_iters"], c["steps"], c["power"], c.get("preheat", 0)),
    )


def run_case(case: dict, config: Config) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """Train from the figures' initial values: readings of every step, and every tensor's change under its old name.

    Everything is computed in Paddle's default precision.
    """
    c, rules = case["config"], load_rules()
    with runtime.fresh_names():
        method = build_method(config.method, build_model(config.model, c["classes"]), c["classes"])
        tensors, before = method.state_dict(), {}
        for name in case["change"]:
            own = our_name(name, config)
            if own in tensors:
                value = rules.values(name, tuple(tensors[own].shape), c["salt"])
                before[name] = value.astype(paddle.get_default_dtype())
                tensors[own].set_value(before[name])
        given = {our_name(n, config) for n in before}
        assert given == set(tensors), f"figures name no value for {sorted(set(tensors) - given)}"
        state = TrainState(method, build_players(method, config))
        readings = []
        for step in range(c["steps"]):
            clock = Clock(step, config.schedule.horizon, watch=True)
            report = train_step(state, clock, config.schedule, iter([_batch(rules, step, c)]))
            observed = {k.split("/")[-1]: v for k, v in report.readings.items()}
            readings.append({**observed, **report.losses})
        return readings, {n: tensors[our_name(n, config)].numpy().astype(np.float64) - v for n, v in before.items()}


def our_name(name: str, config: Config) -> str:
    """Our name of a figures' tensor: G is the segmenter, D1 the discriminator of aux (or the only one), D2 of main."""
    player, tensor = name.split(".", 1)
    if player == "G":
        return "segmenter." + rename(tensor, config.model.name)
    if config.method.name == "clan":
        return "discriminator." + rename(tensor, "discriminator")
    return f"discriminators.{'aux' if player == 'D1' else 'main'}." + rename(tensor, "discriminator")


def _batch(rules, step: int, c: dict) -> Batch:
    source, label, target = rules.batch(step, c["salt"], c["n"], c["source"], c["target"], c["classes"])
    kind = paddle.get_default_dtype()
    return Batch(*(paddle.to_tensor(array) for array in (source.astype(kind), label, target.astype(kind))))

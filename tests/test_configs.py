"""Every experiment file is complete, headed and buildable."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import draw_no_weights
from pages import shallow

from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.core import runtime
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.augment import margin_sizes
from paddle_adaptseg.data.catalog import DATASETS
from paddle_adaptseg.methods import build_method
from paddle_adaptseg.methods.base import Trained
from paddle_adaptseg.models import build_model
from paddle_adaptseg.models.recompute import blocks_of
from paddle_adaptseg.training.memory import CARDS, estimate
from paddle_adaptseg.training.optim import build_players
from paddle_adaptseg.training.run import build_state

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted(p for p in (ROOT / "configs").rglob("*.yml") if "_base_" not in p.parts)
BUILT: set[str] = set()  # what has been built of them: networks, methods and optimisers


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_an_experiment_loads_builds_and_tells_what_to_expect(path, monkeypatch):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert all(any(f"# {word}" in line for line in header) for word in ("Paper:", "Command:", "Expected:", "Hardware:"))
    command = next(line for line in header if "# Command:" in line)
    assert str(path.relative_to(ROOT)) in command or path.stem == "adaptsegnet_multi"
    config = load_config(path, shallow(str(path)))
    names = label_space(config).names
    for domain in (*config.data.all_sources().values(), config.data.target, config.data.validation):
        assert domain.split in DATASETS[domain.dataset].splits
    assert config.run.output.endswith(str(path.relative_to(ROOT / "configs").with_suffix("")))
    built = repr((config.model, config.method, config.optim, config.data.pixels, names))
    if built in BUILT:
        return  # it differs in its data only
    draw_no_weights(monkeypatch)
    make_segmenter = lambda *weights: build_model(config.model, len(names))  # noqa: E731
    trained = lambda path: Trained(make_segmenter(), config.data.pixels, names)  # noqa: E731
    method = build_method(config.method, make_segmenter(), len(names), make_segmenter, names=names, trained=trained)
    players = build_players(method, config)
    assert set(players) == set(method.players())
    BUILT.add(built)


def test_the_between_city_study_keeps_its_domains_and_its_score_apart():
    data = load_config(ROOT / "configs/cityscapes_between/adversarial_v3plus.yml").data
    source, target = (set(domain.only["city"]) for domain in (data.source, data.target))
    scored = (ROOT / data.validation.list).read_text().split()
    assert len(source) == len(target) == 9 and not source & target
    assert len(scored) == len(set(scored)) == 90 and {name.split("_")[0] for name in scored} == target
    assert data.target.exclude == data.validation.list and data.validation.split == "train"


def test_the_adaptations_of_the_study_start_where_its_pretraining_ends():
    for path in (ROOT / "configs").glob("*/adversarial_v[23]*.yml"):
        config = load_config(path)
        if not config.run.restore_from:
            continue
        folder, which = config.run.restore_from.split("@")
        before = load_config(ROOT / "configs" / Path(folder).relative_to("checkpoint").with_suffix(".yml"))
        assert which == "latest" and before.run.output == folder
        assert (before.model, before.data.classes, before.data.pixels) == (config.model, config.data.classes,
                                                                           config.data.pixels)  # fmt: skip
        assert before.method.name == "source_only"


def test_the_other_papers_hyper_parameters_too():
    def load(name):
        return load_config(ROOT / f"configs/{name}.yml")

    advent = load("gta5_cityscapes/advent")
    assert advent.method.params["weights"] == {"main": 0.001, "aux": 0.0002}
    assert advent.method.params["represent"] == "self_information" and advent.model.params["aspp_branches"] == 4
    assert (advent.schedule.horizon, advent.schedule.stop) == (250_000, 120_000)
    for pair, local in (("gta5", 40.0), ("synthia", 10.0)):
        clan = load(f"{pair}_cityscapes/clan")
        assert clan.method.params["lambda_local"] == local and clan.method.params["epsilon"] == 0.4
        assert clan.schedule.warmup == clan.method.params["preheat"] == 0.05 * clan.schedule.horizon
    multi = load("gta5_cityscapes/iw_maxsquare_multi")
    assert multi.method.params["weights"] == {"main": 0.09} and multi.method.params["guidance"] == 0.95
    assert multi.data.target.size == (1280, 640) and multi.run.restore_from.endswith("pretrain_maxsquare")
    assert load("gta5_cityscapes/maxsquare").method.params["weights"] == {"main": 0.1}
    assert load("synthia_cityscapes/advent").data.protocols == ("synthia_16", "synthia_13")
    assert load("cityscapes_crosscity/maxsquare").data.target.only == {"city": ("Rome",)}


def test_self_trainings_hyper_parameters_too():
    for pair in ("gta5", "synthia"):
        dacs = load_config(ROOT / f"configs/{pair}_cityscapes/dacs.yml")
        assert dacs.method.params["teacher"] == {"decay": 0.99, "ramp": 1, "update": "after"}
        assert dacs.method.params["classes_from"] == "image" and dacs.method.params["source_mean"] == "valid"
        assert (dacs.schedule.stop, dacs.data.batch_size, dacs.data.augment.crop) == (250_000, 2, (512, 512))
        assert dacs.model.params["aspp_branches"] == 2 and not dacs.model.params["aux"]
        later = load_config(ROOT / f"configs/{pair}_cityscapes/dacs_daformer.yml")
        assert later.method.params["pseudo_labels"]["margins"] == [15, 120, 0, 0]
        assert later.method.params["teacher"]["update"] == "before" and later.optim["segmenter"].lr == 6e-5
        assert (later.schedule.stop, later.schedule.warmup, later.schedule.warmup_ratio) == (40_000, 1500, 1e-6)


def test_the_transformers_recipes_are_their_authors():
    """Values read in DAFormer's and MIC's repositories."""
    for pair in ("gta5_cityscapes", "synthia_cityscapes", "cityscapes_acdc", "cityscapes_dark_zurich"):
        config = load_config(ROOT / f"configs/{pair}/daformer.yml")
        method, data, adamw = config.method.params, config.data, config.optim["segmenter"]
        assert (adamw.lr, adamw.beta1, adamw.beta2, adamw.weight_decay) == (6e-5, 0.9, 0.999, 0.01)
        assert config.model.params["head_rate"] == 10.0 and config.model.params["norm_decay"] == 0.0
        schedule = config.schedule
        assert (schedule.horizon, schedule.stop, schedule.power) == (40_000, 40_000, 1.0)
        assert (schedule.warmup, schedule.warmup_ratio) == (1500, 1e-6)
        assert (data.batch_size, data.augment.crop, data.augment.mirror) == (2, (512, 512), True)
        assert (data.rare_classes.temperature, data.rare_classes.min_pixels) == (0.01, 3000)
        assert method["teacher"] == {"decay": 0.999, "ramp": 1, "update": "before"}
        assert method["pseudo_labels"] == {"threshold": 0.968, "weight": "batch", "margins": [15, 120, 0, 0]}
        distance = method["feature_distance"]
        assert (distance["weight"], distance["min_ratio"]) == (0.005, 0.75)
        names = label_space(config).names
        assert [names.index(name) for name in distance["things"]] == [6, 7, 11, 12, 13, 14, 15, 16, 17, 18]
        assert data.target.size == ((960, 540) if pair.startswith("cityscapes_") else (1024, 512))
        assert data.validation.size == data.target.size and config.eval.window is None
    masked = load_config(ROOT / "configs/gta5_cityscapes/mic_daformer.yml").method.params["masked"]
    assert (masked["ratio"], masked["block"], masked["images"]) == (0.7, 32, "target")  # at half resolution


def test_hrdas_hyper_parameters_too():
    for pair, size, margins in (
        ("gta5_cityscapes", (2560, 1440), (30, 240, 30, 30)), ("synthia_cityscapes", (2560, 1520), (30, 240, 30, 30)),
        ("cityscapes_acdc", (2048, 1024), (0, 0, 0, 0)), ("cityscapes_dark_zurich", (2048, 1024), (0, 0, 0, 0)),
    ):  # fmt: skip
        for name in ("hrda", "mic_hrda"):
            config = load_config(ROOT / f"configs/{pair}/{name}.yml")
            assert (
                config.method.params["seg_weights"] == config.method.params["weights"] == {"main": 0.9, "detail": 0.1}
            )
            assert config.model.params["crop"] == [512, 512] and config.model.params["compare"] == "context"
            assert (config.data.augment.crop, config.data.batch_size) == ((1024, 1024), 2)
            assert (config.eval.window, config.eval.stride) == ((1024, 1024), (512, 512))
            assert config.data.rare_classes.min_crop_ratio == 2.0 and config.data.source.size == size
            assert margin_sizes(config.data.target.size, config.data.target_margins) == margins
        masked = config.method.params["masked"]
        assert (masked["block"], masked["ratio"]) == (64, 0.7)
        assert masked["images"] == ("target" if margins[0] else "one_of_each")


def test_papers_hyper_parameters_stand_in_the_configurations():
    def method(name):
        return load_config(ROOT / f"configs/gta5_cityscapes/{name}.yml").method.params

    assert method("adaptsegnet_multi")["weights"] == {"main": 0.001, "aux": 0.0002}
    assert method("adaptsegnet_multi_small_weights")["weights"] == {"main": 0.0005, "aux": 0.00005}
    assert method("adaptsegnet_single")["weights"] == {"main": 0.001}
    assert method("adaptsegnet_single_ls")["weights"] == {"main": 0.01}
    assert method("adaptsegnet_single_ls")["gan"] == "ls"
    config = load_config(ROOT / "configs/gta5_cityscapes/adaptsegnet_multi.yml")
    assert (config.schedule.horizon, config.schedule.stop, config.schedule.power) == (250_000, 150_000, 0.9)
    assert (config.optim["segmenter"].lr, config.optim["discriminators"].lr) == (2.5e-4, 1e-4)
    assert config.data.source.size == (1280, 720) and config.data.target.size == (1024, 512)


@pytest.mark.parametrize("preset", sorted((ROOT / "configs/_base_/memory").glob("*.yml")), ids=lambda p: p.stem)
def test_a_memory_preset_changes_an_experiment_and_builds(preset, tmp_path):
    experiment = ROOT / "configs/gta5_cityscapes/adaptsegnet_multi.yml"
    path = tmp_path / "mine.yml"
    path.write_text(f"base: [{experiment}, {preset}]\n")
    config = load_config(path, ["model.depths=[1,1,1,1]"])
    blocks = blocks_of(build_state(config).method.segmenter)
    assert {"forward" in vars(block) for block in blocks} == {bool(config.run.recompute)}


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS)
def test_the_preset_of_a_gpu_holds_adaptsegnet_at_the_papers_sizes(card, tmp_path):
    path = tmp_path / "mine.yml"
    bases = ("gta5_cityscapes/adaptsegnet_multi.yml", f"_base_/memory/gpu_{card}gb.yml")
    path.write_text(f"base: [{', '.join(str(ROOT / 'configs' / base) for base in bases)}]\n")
    config = load_config(path)
    with runtime.fresh_names():
        assert estimate(build_state(config), config).fits(card * 1e9)

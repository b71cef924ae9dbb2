"""Configurations merge, convert and refuse as documented."""

from __future__ import annotations

import time

import pytest

from paddle_adaptseg.config.loading import differences, dump, load_config, override, parse_config
from paddle_adaptseg.config.optim import SGD, Adam, AdamW, LegacySGD
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.methods import build_method
from paddle_adaptseg.models import build_model

TOY = "configs/toy/adaptsegnet_multi.yml"


@pytest.fixture(autouse=True)
def at_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_bases_merge_left_to_right_then_the_file_then_overrides():
    config = load_config(TOY, ["optim.discriminators.lr=1e-4", "data.workers=3"])
    assert config.method.params["weights"] == {"main": 0.03, "aux": 0.006}
    assert config.method.params["seg_weights"] == {"main": 1.0, "aux": 0.1}
    assert config.optim["discriminators"].lr == 1e-4 and config.data.workers == 3
    assert config.data.source.size == (192, 96)


def test_a_dumped_configuration_is_a_valid_one():
    config = load_config(TOY)
    assert parse_config(dump(config)) == config


def test_another_name_replaces_a_component_whole():
    config = load_config(TOY, ["method.name=source_only", "method.seg_weights.main=1"])
    assert config.method.params == {"seg_weights": {"main": 1}}


def test_differences_name_what_changes_the_result_and_nothing_else():
    config = load_config(TOY)
    free = override(config, "run.output=x", "data.workers=0", "schedule.stop=10", "data.source.root=y")
    assert differences(config, free) == []
    assert differences(config, override(config, "run.seed=5")) == ["run.seed: 0 -> 5"]
    assert differences(config, override(config, "method.gan=ls")) == ["method.gan: vanilla -> ls"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schedule.stopp=5", "unknown key 'schedule.stopp': did you mean 'stop'?"),
        ("shedule.stop=5", "unknown key 'shedule': did you mean 'schedule'?"),
        ("schedule.stop=ten", "'schedule.stop' must be a whole number, not 'ten'"),
        ("schedule.stop=2000", "'schedule.stop' must lie in 0..schedule.horizon, not 2000"),
        ("data.source.size=[1,2,3]", "'data.source.size' must be a list of 2"),
        ("data.batch_size=0", "'data.batch_size' must be more than 0"),
        ("optim.discriminators.lr=nan", "'optim.discriminators.lr' must be a finite number"),
        ("optim.segmenter.name=adamm", "unknown 'optim.segmenter.name' 'adamm': did you mean 'adam'?"),
        ("optim.segmenter={name: adamw, momentum: 1}", "unknown key 'optim.segmenter.momentum'"),
        ("optim.segmenter=3", "'optim.segmenter' must be a mapping"),
        ("optim=3", "'optim' must be a mapping"),
        ("schedule.warmup_ratio=2", "'schedule.warmup_ratio' must lie in 0..1"),
        ("run.seed", "must have the form key.path=value"),
        ("run=5", "'run' must be a mapping"),
        ("method=gan", "'method' must be a mapping with a 'name'"),
        ("data.pixels.order=bgrr", "must be rgb or bgr"),
        ("run.output=[", "not valid YAML"),
        ("data.augment.scale=[1.5,0.5]", "'data.augment.scale' must be [low, high]"),
        ("data.augment.crop=[0,8]", "'data.augment.crop' must be more than 0"),
        ("data.workers=-1", "'data.workers' must be at least 0, not -1"),
    ],
)
def test_a_wrong_override_is_answered_with_path_value_and_fix(text, message):
    with pytest.raises(ConfigError) as error:
        load_config(TOY, [text])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_error_names_the_file_that_set_the_key(tmp_path):
    (tmp_path / "base.yml").write_text("schedule: {horizon: many}\n")
    (tmp_path / "top.yml").write_text(f"base: [base.yml, {load_path(TOY)}]\nrun: {{seed: 1}}\n")
    with pytest.raises(ConfigError, match="unknown key"):
        load_config(tmp_path / "top.yml", ["run.sed=1"])
    (tmp_path / "top.yml").write_text(f"base: [{load_path(TOY)}, base.yml]\n")
    with pytest.raises(ConfigError, match=r"base\.yml: 'schedule.horizon' must be a whole number"):
        load_config(tmp_path / "top.yml")


def test_missing_files_sections_and_loops_are_named(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "absent.yml")
    (tmp_path / "a.yml").write_text("base: b.yml\n")
    (tmp_path / "b.yml").write_text("base: a.yml\n")
    with pytest.raises(ConfigError, match="leads back"):
        load_config(tmp_path / "a.yml")
    (tmp_path / "c.yml").write_text("run: {seed: 1}\n")
    with pytest.raises(ConfigError, match="'model' is missing"):
        load_config(tmp_path / "c.yml")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "weights.pdparams").write_bytes(b"\x80\x04\x95\xff")
    with pytest.raises(ConfigError, match="weights.pdparams' is not a text file"):
        load_config(tmp_path / "weights.pdparams")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.lambda_adv=1"], "unknown key 'method.lambda_adv'"),
        (["method.weights.aus=1"], "this model has no level 'aus': did you mean 'aux'?"),
        (["method.gan=lsgan"], "unknown method.gan 'lsgan': did you mean 'ls'?"),
        (["method.ramp.begin=1"], "unknown key 'method.ramp.begin'"),
        (["method.name=output_adversary"], "unknown method 'output_adversary': did you mean 'output_adversarial'?"),
        (["model.name=smal"], "unknown model 'smal': did you mean 'small'?"),
        (["model.width=wide"], "'model.width' must be a whole number"),
        (["model.norm=bn"], "unknown model.norm 'bn'"),
    ],
)
def test_constructors_are_the_schema_of_components(overrides, message):
    config = load_config(TOY, overrides)
    with pytest.raises(ConfigError) as error:
        build_method(config.method, build_model(config.model, 19), 19)
    assert message in str(error.value)


def test_old_names_of_keys_are_read_and_new_ones_written(tmp_path):
    old = ["optim.critics.lr=0.5", "method.critic_width=7", "method.critic_scale=0.25"]
    config = load_config(TOY, old)
    assert config.optim["discriminators"].lr == 0.5
    assert (config.method.params["discriminator_width"], config.method.params["discriminator_scale"]) == (7, 0.25)
    assert config == load_config(TOY, [text.replace("critic", "discriminator") for text in old])
    assert override(config, *old) == config == parse_config(dump(config).replace("discriminator", "critic"))
    assert "critic" not in dump(config)
    (tmp_path / "own.yml").write_text(f"base: [{load_path(TOY)}]\noptim: {{critics: {{lr: 0.5}}}}\n")
    assert load_config(tmp_path / "own.yml", ["optim.discriminators.beta1=0.5"]).optim["discriminators"].lr == 0.5


def test_an_old_and_a_new_name_together_are_an_error(tmp_path):
    (tmp_path / "own.yml").write_text(
        f"base: [{load_path(TOY)}]\noptim: {{critics: {{lr: 1}}, discriminators: {{lr: 2}}}}"
    )
    with pytest.raises(ConfigError, match="'optim.critics' is the old name of 'optim.discriminators': give only one"):
        load_config(tmp_path / "own.yml")


def test_a_player_names_its_optimiser_and_the_keys_that_this_one_has():
    def optim(*overrides):
        return load_config(TOY, overrides).optim

    assert optim()["segmenter"] == SGD(0.02, 0.9, 5e-4) and optim()["discriminators"] == Adam(1e-3, 0.9, 0.99)
    assert optim("optim.segmenter.legacy_updates=true")["segmenter"] == LegacySGD(0.02, 0.9, 5e-4)
    assert optim("optim.segmenter={name: adamw, lr: 6e-5}")["segmenter"] == AdamW()
    assert optim("optim.other.lr=3")["other"] == Adam(lr=3.0) and optim()["unnamed"] == Adam()
    config = load_config(TOY, ["optim.segmenter={name: legacy_sgd, lr: 1}"])
    assert parse_config(dump(config)) == config
    assert override(config, "optim.segmenter.legacy_updates=false").optim["segmenter"] == SGD(lr=1.0)


def load_path(name):
    from pathlib import Path

    return Path(name).resolve()


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0E-3", "'1e-3'", "+.1e-2"])
def test_a_number_is_the_same_setting_however_it_is_written(text):
    plain, other = load_config(TOY, ["method.weights.main=0.001"]), load_config(TOY, [f"method.weights.main={text}"])
    if text.startswith("'"):  # what is quoted stays text until a constructor converts it
        assert other.method.params["weights"]["main"] == "1e-3"
        assert parse_config(dump(other)) == other
    else:
        assert differences(plain, other) == [] and plain == other
    assert parse_config(dump(plain)) == plain


def laughs(line, last="x: *a9"):
    """Nine generations of aliases, each naming the one before ten times."""
    return "\n".join(["a0: &a0 {k: [1, 2]}", *(line(n) for n in range(1, 10)), last])


def tower(folder, wide):
    """Files whose bases are the file before, `wide` times."""
    for n in range(30):
        bases = [f"{n - 1}.yml"] * wide if n else []
        (folder / f"{n}.yml").write_text(f"base: {bases}\nrun: {{seed: {n}}}\n")
    return f"base: [29.yml, {load_path(TOY)}]\n"


LISTS = laughs(lambda n: f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
MAPS = laughs(lambda n: f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(10))}}}")
MERGES = laughs(lambda n: f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]")
BOMBS = {
    "values": lambda folder: LISTS,
    "maps": lambda folder: MAPS,
    "merges": lambda folder: MERGES,
    "inside model": lambda folder: "model:\n" + "\n".join(f"  {line}" for line in f"name: small\n{MAPS}".splitlines()),
    "a list that contains itself": lambda folder: "run: &a [*a]",
    "a map that contains itself": lambda folder: "model: &a {name: small, width: *a}",
    "a merge with itself": lambda folder: "model: &a\n  <<: *a",
    "a deep nest": lambda folder: "run: " + "[" * 50_000,
    "a deep nest of maps": lambda folder: "run: " + "{a: " * 5_000,
    "depth through aliases": lambda folder: (
        "a0: &a0 []\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 900))
    ),
    "many values": lambda folder: "run: [" + "1," * 400_000 + "]",
    "a long number": lambda folder: "run: {seed: 0x" + "f" * 5_000 + "}",
    "a number in base 60": lambda folder: "run: {seed: 1" + ":1" * 200_000 + "}",
    "a huge text": lambda folder: "x: " + "a" * 50_000_000,
    "a wide tower of bases": lambda folder: tower(folder, 10),
    "a high tower of bases": lambda folder: tower(folder, 1),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_yaml_that_stands_for_more_than_it_says_is_refused_at_once(tmp_path, kind):
    (tmp_path / "bomb.yml").write_text(BOMBS[kind](tmp_path))
    start = time.process_time()
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "bomb.yml")
    assert time.process_time() - start < 1
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


def test_an_override_too_deep_to_be_merged_is_refused():
    with pytest.raises(ConfigError, match="key.path=value"):
        load_config(TOY, [".".join(["a"] * 5_000) + "=1"])


def test_aliases_and_merges_of_a_reasonable_size_are_read(tmp_path):
    (tmp_path / "c.yml").write_text(
        f"base: {load_path(TOY)}\nmethod:\n  weights: &w {{main: 1e-2, aux: 2e-3}}\n  seg_weights: {{<<: *w, aux: 1}}\n"
    )
    params = load_config(tmp_path / "c.yml").method.params
    assert params["weights"] == {"main": 0.01, "aux": 0.002} and params["seg_weights"] == {"main": 0.01, "aux": 1}


def test_a_file_that_is_not_regular_or_too_large_is_not_read(tmp_path):
    from paddle_adaptseg.config.yamltree import read_text

    for path in ("/dev/zero", tmp_path):
        with pytest.raises(ConfigError, match="not a regular file"):
            read_text(load_path(path))

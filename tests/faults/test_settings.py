"""Mutated YAML and overrides: always a clear error of one line, or a valid configuration; never a traceback."""

from __future__ import annotations

import copy
import functools
import os

import yaml
from conftest import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from paddle_adaptseg.config.loading import dump, load_config, override, parse_config, to_plain
from paddle_adaptseg.core.errors import UserError
from paddle_adaptseg.data import label_space
from paddle_adaptseg.data.catalog import dataset_spec
from paddle_adaptseg.evaluation.protocol import class_sets
from paddle_adaptseg.methods import build_method
from paddle_adaptseg.models import build_model

BASE = ROOT / "configs/toy/adaptsegnet_multi.yml"
EXAMPLES = int(os.environ.get("EXAMPLES", "30"))  # `make test-faults` asks for more
QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, max_examples=EXAMPLES)


@functools.lru_cache
def plain() -> dict:
    return to_plain(load_config(BASE, ["model.width=8"]))


def paths(tree, path=()):
    """Every path below a tree of mappings and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


PATHS = sorted(paths(plain()), key=str)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 2000), st.integers(), st.floats(), st.text(max_size=6),
    st.sampled_from(["small", "deeplab", "source_only", "clan", "ls", "nan", "1e-4", "cityscapes_19", "a.yml", ""]),
    st.dates(), st.binary(max_size=3),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def small(config) -> bool:
    """Whether building the networks takes no time; what is no number is refused before anything is built."""
    widths = (config.model.params.get("width", 99), config.method.params.get("discriminator_width", 64))
    return not any(isinstance(width, (int, float)) and width > 64 for width in widths)


def assert_clear_or_valid(load):
    """Load, build what building needs no data for, and dump; only one-line errors may come of it."""
    try:
        config = load()
        assert parse_config(dump(config)) == config
        for source in config.data.all_sources().values():
            dataset_spec(source.dataset)
        class_sets(config)
        if small(config):
            build_method(config.method, build_model(config.model, len(label_space(config))), len(label_space(config)))
    except UserError as error:
        assert str(error) and "\n" not in str(error), repr(str(error))
        return str(error)
    return ""


@QUIET
@given(st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from(["set", "drop", "rename"]), values), max_size=3))
def test_a_mutated_tree_is_a_clear_error_or_a_valid_configuration(mutations):
    tree = copy.deepcopy(plain())
    for path, kind, value in mutations:
        mutate(tree, path, kind, value)
    assert_clear_or_valid(lambda: parse_config(yaml.safe_dump(tree, allow_unicode=True), "mutated"))


def mutate(tree, path, kind, value):
    """Change what a path leads to, where it still leads somewhere."""
    *above, last = path
    for key in above:
        try:
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            return
    if not isinstance(tree, (dict, list)) or (isinstance(tree, list) and last >= len(tree)):
        return
    if kind == "set":
        tree[last] = value
    elif kind == "rename" and isinstance(tree, dict) and last in tree:
        tree[str(last) + "x"] = tree.pop(last)
    elif isinstance(tree, list) or last in tree:
        del tree[last]


@QUIET
@example(("model", "width"), 0)  # what was found and mended
@example(("model", "width"), -3)
@example(("method", "discriminator_width"), -1)
@example(("run", "output"), "\0")
@example(("data", "source", "root"), ["\ud800"])
@given(st.sampled_from(PATHS), values)
def test_a_wrong_override_names_its_path_or_is_valid(path, value):
    key = ".".join(map(str, path))
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True).removesuffix("\n...\n").replace("\n", " ")
    message = assert_clear_or_valid(lambda: load_config(BASE, ["model.width=8", f"{key}={text}"]))
    assert not message or any(part in message for part in (key, str(path[-1]), str(path[0]))), message


@QUIET
@example("\n")
@example("run.output='a\u2028b'")
@given(st.text(max_size=30))
def test_any_text_as_an_override_is_answered(text):
    assert_clear_or_valid(lambda: override(load_config(BASE), text))


@QUIET
@given(st.integers(0, 2000), st.text(min_size=1, max_size=4), st.integers(0, 5))
def test_a_damaged_file_is_answered(place, text, cut):
    whole = dump(load_config(BASE))
    place %= len(whole)
    assert_clear_or_valid(lambda: parse_config(whole[:place] + text + whole[place + cut :], "damaged"))


@QUIET
@given(st.binary(max_size=60))
def test_any_bytes_as_a_file_are_answered(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "config.yml"
    path.write_bytes(data)
    assert_clear_or_valid(lambda: load_config(path))

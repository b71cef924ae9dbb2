"""The examples on docs/extending.md train as plugins from the YAML under them; what a method may need, it has."""

from __future__ import annotations

import re
import shutil

import numpy as np
import paddle
import pytest
from conftest import ROOT, tiny_overrides

from paddle_adaptseg import register
from paddle_adaptseg.config.loading import load_config, override, to_plain
from paddle_adaptseg.config.schema import Config
from paddle_adaptseg.config.yamltree import parse_tree, write_tree
from paddle_adaptseg.core.errors import CheckpointError, ConfigError
from paddle_adaptseg.evaluation.measure import evaluate
from paddle_adaptseg.methods import METHODS
from paddle_adaptseg.methods.base import Method
from paddle_adaptseg.training.checkpoint import load_state, state_path
from paddle_adaptseg.training.plan import plan_run
from paddle_adaptseg.training.run import fit
from paddle_adaptseg.training.start import build_state

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
EXAMPLES = ("A method", "A loss on target predictions", "A network", "A data set")


def example(title: str) -> tuple[str, str]:
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    (code,), (yaml,) = (re.findall(rf"```{kind}\n(.*?)```", section, re.S) for kind in ("python", "yaml"))
    return code, yaml


@pytest.fixture
def shown(toy_root, tmp_path, plugin):
    """The configuration under an example, small, with its code as the plugin that it names: shown(title) -> Config."""

    def build(title: str, *more: str) -> Config:
        code, yaml = example(title)
        assert plugin(code) in yaml
        overrides = tiny_overrides(toy_root, tmp_path / "run")
        if title == "A data set":
            make_drives(toy_root, tmp_path / "dataset/drives")
            overrides = [text for text in overrides if not text.startswith("data.target.")]
        if title == "A network":
            overrides = [text for text in overrides if not text.startswith("model.")]
        base, own = to_plain(load_config(ROOT / "configs/toy/adaptsegnet_single.yml")), parse_tree(yaml, "yaml")
        replaced = {"model", "method"} & set(own)  # a component is replaced whole, the rest merged
        (tmp_path / "base.yml").write_text(write_tree({k: v for k, v in base.items() if k not in replaced}))
        (tmp_path / "mine.yml").write_text(f"base: [base.yml]\n{yaml}")
        return load_config(tmp_path / "mine.yml", [*overrides, "run.keep=9", *more])

    return build


def make_drives(toy, root) -> None:
    """The toy pair's target images in the layout of the example."""
    for image in (toy / "Cityscapes/leftImg8bit/train").rglob("*.png"):
        to = root / "frames/train/monday" / image.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, to)


@pytest.mark.parametrize("title", EXAMPLES)
def test_what_an_example_adds_trains_and_is_evaluated_as_while_training(title, shown, tmp_path):
    code, _ = example(title)
    assert code.count("\n") < 60
    result = fit(shown(title, "schedule.stop=2", "run.eval_every=2"))
    assert 100 * evaluate(tmp_path / "run")[0].miou() == pytest.approx(result.miou)


def arrays(run, step):
    return load_state(state_path(run, step)).arrays


def test_a_mean_teacher_resumes_bit_for_bit_and_is_what_is_evaluated(shown, tmp_path):
    config = shown("A method", "run.save_every=2")
    straight = override(config, f"run.output={tmp_path / 'straight'}")
    fit(straight)
    fit(override(config, "schedule.stop=4"))
    result = fit(config, resume="latest")
    expected, found = arrays(tmp_path / "straight", 6), arrays(tmp_path / "run", 6)
    assert set(expected) == set(found) and all(np.array_equal(expected[k], found[k]) for k in expected)
    name = "segmenter.stem.0.weight"
    teacher, student = (found[f"method/{name.replace('segmenter', part)}"] for part in ("teacher", "segmenter"))
    assert not np.array_equal(teacher, student)
    assert f"optim/segmenter/{name}/moment1_0" in found and not any(k.startswith("optim/segmenter/t") for k in found)
    matrix, _ = evaluate(f"{tmp_path / 'run'}@latest")
    assert 100 * matrix.miou() == pytest.approx(result.miou)


def test_start_weights_fill_the_student_and_then_the_teacher_copies_them(shown, tiny, tmp_path):
    source = tmp_path / "source"
    fit(tiny("toy/source_only", f"run.output={source}", "schedule.stop=2", "run.eval_every=0"))
    start = arrays(source, 2)["method/segmenter.stem.0.weight"]
    config = shown("A method", f"run.restore_from={source}", "schedule.stop=1", "run.eval_every=0")
    assert plan_run(config).problems == []
    fit(config)
    found = arrays(tmp_path / "run", 1)  # the decay of the first step is 0, its learning rate 6e-11
    for part in ("segmenter", "teacher"):
        np.testing.assert_allclose(found[f"method/{part}.stem.0.weight"], start, atol=1e-6)


class Parts(Method):
    """A trained network, a teacher, a network that is not saved, and a second player."""

    eval_parts = ("teacher",)
    unsaved_parts = ("fixed",)

    def __init__(self, segmenter, make_segmenter, pixels, seed, classes, file: str = "") -> None:
        super().__init__(segmenter, {"main": 1.0})
        self.teacher, self.fixed = make_segmenter(), make_segmenter(file)
        for parameter in [*self.teacher.parameters(), *self.fixed.parameters()]:
            parameter.stop_gradient = True
        self.scale = self.create_parameter([1], default_initializer=paddle.nn.initializer.Constant(1.0))
        self.given, self.calls = (pixels, seed, classes), 0

    def loaded(self):
        self.calls += 1

    def players(self):
        from paddle_adaptseg.models.segmenter import group

        return {**super().players(), "temperature": [group("temperature", [("scale", self.scale)])]}

    def losses(self, batch, clock):
        assert self.segmenter.training and not self.teacher.heads["main"].training and self.fixed.training
        logits = self.segmenter(batch.source_image)
        yield self.seg_terms({k: v * self.scale for k, v in logits.items()}, batch, clock)


@pytest.fixture
def parts(tiny, plugin):
    register(METHODS, "parts", Parts)
    return lambda *more: tiny("toy/source_only", "method.name=parts", "run.eval_every=0", *more)


def test_a_method_is_given_what_its_constructor_names(parts):
    state = build_state(parts("run.seed=3"))
    pixels, seed, classes = state.method.given
    assert (pixels.order, seed, classes) == ("rgb", 3, 19)
    again = build_state(parts("run.seed=3")).method
    weights = [n.stem[0].weight.numpy() for n in (state.method.segmenter, state.method.teacher, state.method.fixed)]
    assert not np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[1], weights[2])
    assert np.array_equal(weights[1], again.teacher.stem[0].weight.numpy())


def test_a_further_network_does_not_change_what_is_built_after_it(tiny):
    drawn = []
    for call in (False, True):
        paddle.seed(1)
        if call:
            from paddle_adaptseg.training.start import segmenter_maker

            segmenter_maker(tiny("toy/source_only"), 19)()
        drawn.append(paddle.randn([4]).numpy())
    assert np.array_equal(*drawn)


def test_parts_that_are_not_saved_are_read_again_from_their_file(parts, tiny, tmp_path):
    fit(tiny("toy/source_only", f"run.output={tmp_path / 'source'}", "schedule.stop=1", "run.eval_every=0"))
    config = parts(f"method.file={tmp_path / 'source'}", "schedule.stop=2")
    fit(config)
    saved = arrays(tmp_path / "run", 2)
    assert {k.split(".")[0] for k in saved if k.startswith("method/")} == {
        "method/segmenter", "method/teacher", "method/scale"}  # fmt: skip
    assert fit(override(config, "schedule.stop=4"), resume="latest").step == 4
    file = arrays(tmp_path / "source", 1)["method/segmenter.stem.0.weight"]
    assert np.array_equal(build_state(config).method.fixed.stem[0].weight.numpy(), file)


def test_loaded_is_called_once_at_a_fresh_start_and_never_when_resumed(parts, monkeypatch):
    calls = []
    monkeypatch.setattr(Parts, "loaded", lambda self: calls.append(paddle.is_grad_enabled()))
    fit(parts("schedule.stop=2"))
    assert calls == [False]
    fit(parts("schedule.stop=4"), resume="latest")
    assert calls == [False]


def test_every_player_finds_its_optimiser_and_others_are_refused(parts):
    state = build_state(parts("optim.temperature={name: sgd, lr: 0.5, momentum: 0}"))
    kinds = {name: type(player.optimiser).__name__ for name, player in state.players.items()}
    assert kinds == {"segmenter": "Momentum", "temperature": "Momentum"}
    assert state.players["temperature"].set_learning_rate(0.5) == {"temperature": 0.25}
    assert type(build_state(parts()).players["temperature"].optimiser).__name__ == "Adam"
    with pytest.raises(ConfigError, match="optim.temprature: method 'parts' has no such player: did you mean 'temp"):
        build_state(parts("optim.temprature.lr=1"))


def test_a_part_that_does_not_exist_is_named(parts, monkeypatch):
    monkeypatch.setattr(Parts, "eval_parts", ("teachr",))
    with pytest.raises(ConfigError, match="method 'parts' has no part 'teachr': did you mean 'teacher'"):
        build_state(parts())


REGISTER = "from paddle_adaptseg import register\nfrom paddle_adaptseg.methods import METHODS\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (f"{REGISTER}register(METHODS, 'clan', object)", "plugins: 'mine.py': 'clan' is registered already"),
        (
            "import no_such_module",
            "plugins: cannot import 'mine.py': ModuleNotFoundError: No module named 'no_such_mod",
        ),
        ("def", "plugins: cannot import 'mine.py': SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named(code, message, plugin, tiny):
    with pytest.raises(ConfigError, match=re.escape(message)):
        tiny("toy/source_only", f"plugins=[{plugin(code)}]")
    for name in ("absent.py", "absent_package.module"):
        with pytest.raises(ConfigError, match=f"plugins: .*'{name}'"):
            tiny("toy/source_only", f"plugins=[{name}]")


def test_a_module_in_the_working_folder_is_imported_once(plugin, tiny):
    plugin(f"{REGISTER}register(METHODS, 'mine', METHODS['source_only'])", "mine_of_the_user.py")
    for _ in range(2):
        config = tiny("toy/source_only", "plugins=[mine_of_the_user]")
    assert config.plugins == ("mine_of_the_user",) and "mine" in METHODS


def forget(plugin_file) -> None:
    """As if this were another process, which has not imported the plugin."""
    import sys

    del sys.modules[f"plugin {plugin_file.resolve()}"]


def test_a_weights_file_never_imports_a_module_that_its_user_has_not_named(plugin, tiny, tmp_path):
    code = "import pathlib\npathlib.Path('imported').open('a').write('x')\n"
    config = tiny("toy/source_only", f"plugins=[{plugin(code)}]", "schedule.stop=1", "run.eval_every=0")
    fit(config)
    forget(tmp_path / "mine.py")
    weights, run = tmp_path / "run/weights/step_00000001.pdparams", tmp_path / "run"
    from paddle_adaptseg.evaluation import Request, evaluate_request

    with pytest.raises(CheckpointError, match=r"needs plugins, .*name them: -o plugins=\[mine.py\], or a --config"):
        evaluate(weights)
    with pytest.raises(CheckpointError, match=r"config.yml' needs plugins"):
        evaluate_request(Request((str(run),)))
    assert (tmp_path / "imported").read_text() == "x"
    evaluate(weights, overrides=["plugins=[mine.py]"])
    forget(tmp_path / "mine.py")
    evaluate(weights, load_config(run / "config.yml"))
    assert (tmp_path / "imported").read_text() == "xxx"


@pytest.mark.parametrize("tool", ["predict", "export"])
def test_tools_take_plugins_for_the_configuration_inside_the_weights(
    tool, plugin, tiny, toy_root, tmp_path, monkeypatch
):
    import pages

    fit(tiny("toy/source_only", f"plugins=[{plugin('')}]", "schedule.stop=1", "run.eval_every=0"))
    forget(tmp_path / "mine.py")
    image = next((toy_root / "Cityscapes/leftImg8bit/val").rglob("*.png"))
    arguments = {
        "predict": ["--model", "run", str(image), "--output", "labels"],
        "export": ["--restore-from", "run", "--output", "exported"],
    }[tool]
    with pytest.raises(CheckpointError, match="needs plugins"):
        pages.call(monkeypatch, tool, arguments)
    with pytest.raises(CheckpointError, match="needs plugins"):
        pages.call(monkeypatch, tool, [*arguments, "-o", "data.workers=0"])
    assert pages.call(monkeypatch, tool, [*arguments, "-o", "plugins=[mine.py]"]) == 0

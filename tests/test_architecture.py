"""Who may import whom, read from the source, and the size of rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "paddle_adaptseg"
FILES = sorted(PACKAGE.rglob("*.py"))
# For each folder: what of the package it may import (prefixes), from the lowest floor to the highest.
CORE, CONFIG = {"core"}, {"core", "config"}
MAY_IMPORT = {
    "core": CORE,
    "config": CONFIG,
    "data": CONFIG | {"data"},
    "models": CONFIG | {"models"},
    "methods": CONFIG | {"data.batch", "methods", "models.discriminator", "models.layers", "models.segmenter"},
    "weights": CONFIG | {"data", "models", "weights"},
    # the accelerator knows what it replaces; nothing that it replaces knows it
    "cpu": {
        "core.runtime",
        "cpu",
        "methods.losses",
        *(f"models.{n}" for n in ("deeplabv2", "dinov2", "layers", "mit", "resnet", "transformer")),
    },
    "evaluation": CONFIG | {"cpu", "data", "evaluation", "methods.losses", "models", "weights"},
    "deploy": CONFIG | {"data", "deploy", "evaluation", "models", "weights"},
    "training": CONFIG | {"cpu", "data", "evaluation", "methods", "models", "training", "weights"},
    "lab": CONFIG | {"data", "deploy", "evaluation", "lab", "methods", "models", "training", "weights"},
    "__init__": {"core.runtime"},
    "__main__": {"core"},
}
# Libraries that live in one place each.
ONLY_IN = {
    "visualdl": {"training"},
    "yaml": {"config"},
    "cv2": {"data", "evaluation", "deploy"},
    "PIL": {"data", "deploy", "evaluation", "lab"},
    "pickle": {"weights"},
    "torch": set(),
    "paddle2onnx": {"deploy"},
    "onnxruntime": {"deploy"},
    "argparse": {"lab"},
    "matplotlib": {"evaluation", "lab"},
    "xlsxwriter": {"evaluation"},
}


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def module(path: Path) -> str:
    """A file's name as it is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path) for path in FILES}


def has_code(path: Path) -> bool:
    """Whether there is more in a file than what it says about itself."""
    return len(ast.parse(path.read_text(encoding="utf-8")).body) > 1


def imported(path: Path, at_import: bool = False) -> set[str]:
    """Modules that a file imports; `at_import`: without what only functions and type checkers import."""
    names, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in inside}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(path):
    allowed = MAY_IMPORT[room(path)]
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "paddle_adaptseg":
            fine = any(rest == a or rest.startswith(a + ".") for a in allowed)
            assert fine, f"{path.relative_to(ROOT)} imports {name}"
        elif top in ONLY_IN:
            assert room(path) in ONLY_IN[top], f"{path.relative_to(ROOT)} imports {top}"
        assert top not in ("tools", "tests"), f"{path.relative_to(ROOT)} imports {name}"


def test_the_accelerator_is_asked_for_in_one_line_of_training_and_one_of_evaluation():
    users = {}
    for path in [*FILES, *(ROOT / "tools").glob("*.py")]:
        names = {name for name in imported(path) if name.startswith("paddle_adaptseg.cpu")}
        if names and path.parent.name != "cpu":
            users[path.relative_to(PACKAGE).as_posix()] = names
    door = {"paddle_adaptseg.cpu"}
    assert users == {"training/run.py": door, "evaluation/predictor.py": door}
    assert {n for n in imported(PACKAGE / "methods/losses.py") if n.startswith("paddle_adaptseg.")} == {
        "paddle_adaptseg.core.labels"
    }


def test_networks_are_plain_paddle():
    for path in (PACKAGE / "models").glob("*.py"):
        words = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not words & {"relu_", "add_"}, path
        assert path.name in ("layers.py", "transformer.py") or "not_to_static" not in path.read_text(), path


def test_training_knows_no_method_by_name():
    for path in (PACKAGE / "training").glob("*.py"):
        methods = {n for n in imported(path) if n.startswith("paddle_adaptseg.methods")}
        assert methods <= {"paddle_adaptseg.methods", "paddle_adaptseg.methods.base"}, path


def test_labels_are_chosen_in_one_place_and_inside_exported_programs():
    found = {p.relative_to(PACKAGE).as_posix() for p in FILES if "argmax(" in p.read_text(encoding="utf-8")}
    outside = {name for name in found if not name.startswith(("models/", "methods/"))}
    assert outside == {"evaluation/logits.py", "deploy/export.py"}


def test_the_house_has_at_most_twelve_entries_and_no_file_imports_in_a_circle():
    asked_for_by_python = {"__pycache__", "__main__.py"}
    assert len([p for p in PACKAGE.iterdir() if p.name not in asked_for_by_python]) <= 12
    arrows = {module(path): imported(path, at_import=True) & MODULES for path in FILES}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle: {' -> '.join((*above, name))}"
        if name not in done:
            for below in arrows.get(name, ()):
                visit(below, (*above, name))
            done.add(name)

    for name in arrows:
        visit(name, ())


def test_training_reaches_few_files():
    code = (
        "import sys; from paddle_adaptseg.core import runtime; runtime.import_paddle();"
        "import paddle_adaptseg.training.run;"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('paddle_adaptseg')), sep='\\n')"
    )
    found = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True, stderr=subprocess.DEVNULL)
    files = [Path(line) for line in found.splitlines() if line.startswith(str(PACKAGE))]
    assert 40 < len([path for path in files if has_code(path)]) <= 60


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_and_functions_are_small_and_files_say_what_lives_there(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no module docstring"
    assert text.count("\n") <= 250
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 40, f"{node.name}: {node.end_lineno - node.lineno + 1} lines"


def test_tools_are_thin():
    for path in [*(ROOT / "tools").glob("*.py"), *(PACKAGE / "lab/commands").glob("*.py")]:
        assert path.read_text(encoding="utf-8").count("\n") < 110, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_foreign_bytes_are_never_unpickled_by_paddle(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("paddle", "load"), ("pickle", "load"), ("pickle", "loads")}

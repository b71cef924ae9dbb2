"""Who may import whom, read from the source, and the size of rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "paddle_adaptseg"
FILES = sorted(PACKAGE.rglob("*.py"))
BASICS = {
    "errors",
    "schema",
    "config_sampling",
    "yamltree",
    "registry",
    "config",
    "configfile",
    "labels",
    "batch",
    "files",
    "version",
}

# For each room: what of the package it may import (prefixes; BASICS are open to all but the basics themselves).
MAY_IMPORT = {
    "errors": set(),
    "version": set(),
    "files": {"errors"},
    "lock": {"errors", "files"},
    "batch": set(),
    "schema": {"errors"},
    "yamltree": {"errors", "schema"},
    "registry": {"errors", "runtime", "schema"},
    "config_sampling": set(),
    "config": {"config_sampling", "errors", "registry", "schema"},
    "configfile": {"config", "errors", "registry", "schema", "yamltree"},
    "labels": {"errors"},
    # the accelerator knows what it replaces; nothing that it replaces knows it
    "cpu": {"cpu", "losses", "models.aspp", "models.resnet", "runtime"},
    "losses": {"labels"},
    "runtime": {"errors"},
    "parallel": {"errors", "parallel", "runtime"},
    "checkpoint": {"errors", "files"},
    "logger": {"files"},
    "visual": {"labels"},
    "launch": {"errors", "config", "runtime"},
    "weights": BASICS | {"data", "models", "runtime", "weights"},
    "data": BASICS | {"data"},
    "models": BASICS | {"models"},
    "methods": BASICS | {"methods", "losses", "parallel", "models.layers", "models.discriminator", "models.segmenter"},
    "engine": BASICS | {"cpu", "engine", "data", "models", "methods", "losses", "evaluation", "weights", "checkpoint",
                        "logger", "lock", "parallel", "runtime", "visual"},
    "evaluation": BASICS | {"cpu", "evaluation", "data", "models", "parallel", "runtime", "visual", "weights"},
    "deploy": BASICS | {"deploy", "data", "evaluation", "models", "parallel", "runtime", "visual", "weights"},
    "reference": BASICS | {"data.catalog", "data.decode", "losses", "methods", "models", "reference_self_training"},
    "reference_self_training": {"methods"},
    "notebook": BASICS | {"data", "engine", "evaluation", "visual"},
    "aistudio": {"data", "errors", "registry"},
    "study": {"configfile", "errors", "files", "launch"},
    "sweep": {"configfile", "errors", "files", "launch", "logger", "study", "yamltree"},
    "demo": BASICS | {"data", "engine", "evaluation", "launch", "runtime", "visual"},
    "__init__": {"runtime", "version"},
}  # fmt: skip
# Libraries that live in one place each.
ONLY_IN = {
    "visualdl": {"logger"},
    "yaml": {"yamltree", "configfile"},
    "cv2": {"visual", "data", "evaluation", "deploy"},
    "PIL": {"visual", "data", "evaluation", "demo", "deploy"},
    "pickle": {"weights"},
    "torch": set(),
    "paddle2onnx": {"deploy"},
    "onnxruntime": {"deploy"},
    "argparse": set(),
    "matplotlib": {"study", "sweep", "evaluation"},
    "xlsxwriter": {"evaluation"},
}


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            if node.module == "paddle_adaptseg":
                names |= {f"paddle_adaptseg.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(path):
    allowed = MAY_IMPORT[room(path)]
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "paddle_adaptseg" and rest:
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
    assert users == {"engine/run.py": door, "evaluation/predictor.py": door}
    assert {n for n in imported(PACKAGE / "losses.py") if n.startswith("paddle_adaptseg.")} == {
        "paddle_adaptseg.labels"
    }


def test_networks_are_plain_paddle():
    for path in (PACKAGE / "models").glob("*.py"):
        words = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not words & {"relu_", "add_"}, path
    for name in ("resnet", "vgg", "aspp", "discriminator", "small", "mobilenet", "deeplab", "deeplabv3plus"):
        assert "not_to_static" not in (PACKAGE / f"models/{name}.py").read_text()


def test_methods_know_no_concrete_segmenter_and_the_engine_no_method_by_name():
    for path in (PACKAGE / "methods").glob("*.py"):
        assert not {n for n in imported(path) if n.split(".")[-1] in ("deeplab", "resnet", "vgg", "small")}
    for path in (PACKAGE / "engine").glob("*.py"):
        methods = {n for n in imported(path) if n.startswith("paddle_adaptseg.methods")}
        assert methods <= {"paddle_adaptseg.methods", "paddle_adaptseg.methods.base"}, path


def test_labels_are_chosen_in_one_place_and_inside_exported_programs():
    found = {p.relative_to(PACKAGE).as_posix() for p in FILES if "argmax(" in p.read_text(encoding="utf-8")}
    outside = {name for name in found if not name.startswith(("models/", "methods/", "losses"))}
    assert outside == {"evaluation/logits.py", "deploy/program.py"}


def test_evaluation_and_deploy_never_import_training():
    for folder in ("evaluation", "deploy"):
        for path in (PACKAGE / folder).rglob("*.py"):
            assert not {name for name in imported(path) if name.startswith("paddle_adaptseg.engine")}, path


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
    for path in (ROOT / "tools").glob("*.py"):
        assert path.read_text(encoding="utf-8").count("\n") < 70, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_foreign_bytes_are_never_unpickled_by_paddle(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("paddle", "load"), ("pickle", "load"), ("pickle", "loads")}

"""Every notebook runs from top to bottom on a tiny pair, calls the package and has no logic, and is kept tidy."""

from __future__ import annotations

import ast
import json
import re
import zipfile
from pathlib import Path

import pytest
from conftest import LIMIT, ROOT, tiny_overrides

from paddle_adaptseg.config.conversion import lookup
from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.training.run import fit

nbformat = pytest.importorskip("nbformat", reason="the extra 'test' is not installed")
nbconvert = pytest.importorskip("nbconvert", reason="the extra 'test' is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra 'test' is not installed")

start_new_kernel = pytest.importorskip("jupyter_client.manager").start_new_kernel

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WITH_OUTPUTS = ("1_quick_start", "6_self_training", "7_your_folders")
MAX_BYTES = 1_500_000


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def python_of(cell) -> str:
    """A code cell without what only IPython understands."""
    if cell.source.startswith("%%"):
        return ""
    return "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))


def test_there_are_seven_notebooks_and_each_is_listed():
    page = (ROOT / "notebooks/README.md").read_text(encoding="utf-8")
    assert [path.stem[0] for path in NOTEBOOKS] == list("1234567")
    assert all(path.name in page for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_no_logic_of_its_own(path):
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(python_of(cell))):
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.If)
            assert not isinstance(node, kinds), f"{path.name} {cell.id}: {type(node).__name__}"
        assert not re.search(r"^!", cell.source, re.M), f"{path.name} {cell.id}: a shell's failure would pass unseen"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_text_is_chinese_and_english(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            assert re.search(r"[\u4e00-\u9fff]", cell.source) or cell.source.startswith("## VisualDL"), cell.source
            assert re.search(r"[A-Za-z]{3,} [A-Za-z]{2,}|· [A-Z]", cell.source), cell.source
            for target in re.findall(r"\]\(([^)]+)\)", cell.source):
                assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_valid_small_and_keeps_outputs_only_where_they_help(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert [c.id for c in notebook.cells] == [
        f"{path.stem[2:].replace('_', '-')}-{i:02d}" for i in range(1, len(notebook.cells) + 1)
    ]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    assert path.stat().st_size < (MAX_BYTES if path.stem in WITH_OUTPUTS else 40_000)
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    if path.stem not in WITH_OUTPUTS:
        assert not outputs and all(cell.execution_count is None for cell in code_cells(path))
        return
    assert not [o for o in outputs if o.output_type == "error"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 2
    assert "/tmp" not in json.dumps(outputs) and "/work/" not in json.dumps(outputs), "a path of this machine"
    if path.stem != "7_your_folders":  # which has no target labels
        assert re.search(r"lift over \S+: \+\d", json.dumps(outputs)), "adaptation helped"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_installs_finds_the_project_and_never_trains_over_a_finished_run(path, tmp_path, monkeypatch):
    text = "\n".join(cell.source for cell in code_cells(path))
    assert "%pip install --quiet --disable-pip-version-check -r requirements.txt" in text
    assert "overwrite" not in text and "fresh" not in text
    (cell,) = (cell for cell in code_cells(path) if "os.chdir" in cell.source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match=f"{tmp_path.name}/absent .*is not the project: set ROOT above"):
        exec(python_of(cell), {"ROOT": "absent"})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_install_cell_run_again_stays_in_a_project_of_the_package_s_name(path, tmp_path, monkeypatch):
    project = tmp_path / "paddle_adaptseg"  # as docs/aistudio.md names it: the folder above holds that name, too
    for folder in ("paddle_adaptseg", "notebooks"):
        (project / folder).mkdir(parents=True)
    (project / "paddle_adaptseg/__init__.py").touch()
    (cell,) = (cell for cell in code_cells(path) if "os.chdir" in cell.source)
    monkeypatch.chdir(project / "notebooks")
    for _ in range(2):
        exec(python_of(cell), {"ROOT": ".."})
        assert Path.cwd() == project


def overrides(toy_root, tmp_path) -> list[str]:
    """What makes every training of a notebook tiny; folders are left to the notebook."""
    return [o for o in tiny_overrides(toy_root, tmp_path) if not o.startswith("run.output")]


def quick_start(toy_root, tmp_path):
    return {"RUNS": str(tmp_path), "HALF": 4, "EXTRA": overrides(toy_root, tmp_path)}


def pack(folder: Path, target: Path) -> None:
    """A zip of a folder, below another folder as archives often are."""
    target.parent.mkdir(parents=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, f"some_folder/{path.relative_to(folder)}")


def gta5_cityscapes(toy_root, tmp_path):
    pack(toy_root / "GTA5", tmp_path / "data/data11/game.zip")
    pack(toy_root / "Cityscapes", tmp_path / "data/data2/street.zip")
    (tmp_path / "work").mkdir()
    own = [o for o in overrides(toy_root, tmp_path) if ".root" not in o]
    start = load_config(ROOT / "configs/toy/source_only.yml", tiny_overrides(toy_root, tmp_path / "start"))
    fit(start)
    return {
        "HOME": str(tmp_path), "CONFIG": "configs/toy/adaptsegnet_multi.yml", "FIRST_STOP": 4, "CHECK": 3,
        "HOURS": 1,
        "WEIGHTS": str(tmp_path / "start/best.pdparams"), "QUOTA_GB": 100, "EXTRA": own,
    }  # fmt: skip


def evaluate(toy_root, tmp_path):
    own = overrides(toy_root, tmp_path)
    return {"RUN": str(tmp_path / "adapted"), "BASELINE": str(tmp_path / "source_only"), "EXTRA": own}


def your_own_data(toy_root, tmp_path):
    own = [o for o in overrides(toy_root, tmp_path) if ".root" not in o]
    source, target = str(toy_root / "GTA5"), str(toy_root / "Cityscapes")
    return {"SOURCE": source, "TARGET": target, "OWN": str(tmp_path), "EXTRA": own}


def compare_and_sweep(toy_root, tmp_path):
    own = [*overrides(toy_root, tmp_path), "run.eval_every=6"]
    return {"OUT": str(tmp_path), "METHODS": ["source_only", "advent"], "LAMBDAS": "0.01,0.1", "EXTRA": own}


def self_training(toy_root, tmp_path):
    return {"RUNS": str(tmp_path), "EXTRA": overrides(toy_root, tmp_path)}


def your_folders(toy_root, tmp_path):
    images, labels = (str(toy_root / "GTA5" / part) for part in ("images", "labels"))
    target = str(toy_root / "Cityscapes/leftImg8bit/train")
    return {"SOURCE_IMAGES": images, "SOURCE_LABELS": labels, "TARGET": target, "STEPS": 4, "OUT": str(tmp_path)}


SMALL = {
    "1_quick_start": quick_start,
    "2_gta5_cityscapes": gta5_cityscapes,
    "3_evaluate": evaluate,
    "4_your_own_data": your_own_data,
    "5_compare_and_sweep": compare_and_sweep,
    "6_self_training": self_training,
    "7_your_folders": your_folders,
}


def printed(notebook) -> str:
    """All that was printed or shown as text."""
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    data = [o.get("data", {}) for o in outputs]
    shown = [d.get("text/markdown", d.get("text/plain", "")) for d in data]
    return "\n".join([*(o.get("text", "") for o in outputs), *shown])


def own_folders() -> set[Path]:
    """What lies where results and data go by default; no test may add to it."""
    return {path for name in ("checkpoint", "dataset") for path in (ROOT / name).iterdir()}


# What the last steps of each must have said.
SAID = {
    "1_quick_start": ["steps 4 to 6", "lift over", "get the same label"],
    "2_gta5_cityscapes": ["game.zip", "0 problems", "steps 4 to 6", "===> mIoU", "GB left", "after 1 hours"],
    "3_evaluate": ["===> mIoU", "iterations.csv", "report: "],
    "4_your_own_data": ["0 problems", "===> mIoU", "moving"],
    "5_compare_and_sweep": ["| source_only |", "| 0.1 | 1 |", "visualdl --logdir"],
    "6_self_training": ["lift over", "===> mIoU", "visualdl --logdir"],
    "7_your_folders": ["no labels to score with", "step 4: entropy", "labels of a 96x48 image"],
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One for all notebooks, because Paddle takes seconds to import; each finds it without names of the one before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "ignore")
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    client.stop_channels()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_from_top_to_bottom(path, toy_root, tmp_path, kernel):
    notebook = read(path)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd {tmp_path}"))
    place = next(i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
    known = {n.id for n in ast.walk(ast.parse(notebook.cells[place].source)) if isinstance(n, ast.Name)}
    given = {"ROOT": str(ROOT), **lookup(SMALL, path.stem, "notebook")(toy_root, tmp_path)}
    assert set(given) <= known, "a setting that the notebook does not have"
    settings = "\n".join(f"{name} = {value!r}" for name, value in given.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(settings))
    before = own_folders()
    nbclient.NotebookClient(notebook, km=kernel, timeout=LIMIT).execute()
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    assert "<h1" in page and "Traceback" not in page
    text = printed(notebook)
    assert all(part in text for part in SAID[path.stem]), text
    assert own_folders() == before, "written into the tree"


def test_interrupting_the_kernel_saves_and_user_errors_are_one_line(toy_root, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    endless = ["schedule.horizon=1000000", "schedule.stop=1000000", "run.eval_every=0", "run.save_every=1000000"]
    keys = [*tiny_overrides(toy_root, tmp_path / "run"), *endless]
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    seen: list[str] = []

    def watch(message):
        seen.append(str(message["content"]))
        if "step 5/" in seen[-1] and not any("saving" in text for text in seen):
            manager.interrupt_kernel()

    try:
        load = f"import paddle_adaptseg as p; c = p.load_config('configs/toy/source_only.yml', {keys!r})"
        client.execute_interactive(f"{load}; p.train(c)", output_hook=watch, timeout=LIMIT)
        assert "is saved; continue with" in "".join(seen) and "image/png" in "".join(seen)
        assert len(list((tmp_path / "run/states").iterdir())) == 1
        seen.clear()
        client.execute_interactive("p.show_run('absent')", output_hook=watch, timeout=LIMIT)
        assert "error: 'absent' is no run's folder" in "".join(seen) and "paddle_adaptseg/report" not in "".join(seen)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)

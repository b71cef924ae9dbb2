"""Shared fixtures: the package on the path, Paddle imported quietly, a tiny toy pair made once."""

from __future__ import annotations

import os
import sys
import time
from importlib import metadata
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the suite runs a process per core
# Facts of CPUs are asserted on CPUs, also where there is a GPU; `make test-gpu` runs the tests marked gpu on it.
DEVICE = os.environ.get("TEST_DEVICE", "cpu")
if DEVICE == "cpu" and any(dist.metadata["Name"] == "paddlepaddle-gpu" for dist in metadata.distributions()):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # not elsewhere: Paddle's launcher for CPUs takes it for a list of devices
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "tests")]

from paddle_adaptseg.core import runtime  # noqa: E402

runtime.import_paddle()

import forked  # noqa: E402
import paddle  # noqa: E402
import pytest  # noqa: E402

from paddle_adaptseg.config.loading import load_config  # noqa: E402
from paddle_adaptseg.config.schema import Config  # noqa: E402
from paddle_adaptseg.data.catalog import DATASETS  # noqa: E402
from paddle_adaptseg.data.toy import ToySpec, write_toy_pair  # noqa: E402
from paddle_adaptseg.methods import METHODS  # noqa: E402
from paddle_adaptseg.methods.prior import PRIORS  # noqa: E402
from paddle_adaptseg.models import MODELS  # noqa: E402
from paddle_adaptseg.models.encode_decode import BACKBONES, HEADS  # noqa: E402

LIMIT = forked.LIMIT
TINY = ToySpec(source=6, target=5, validation=3, height=48, width=96)


def pytest_report_header() -> str:
    """The device of all tests, in the header of every run."""
    return f"device: {paddle.get_device()}"


def pytest_sessionfinish() -> None:
    forked.close()


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory) -> Path:
    """A toy pair of a few small scenes."""
    root = tmp_path_factory.mktemp("toy")
    write_toy_pair(root, TINY)
    return root


def draw_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks start from a constant: drawing random weights is most of the time that building a large one takes."""
    made = paddle.nn.initializer
    for kind in (made.Normal, made.TruncatedNormal, made.Uniform, made.KaimingNormal, made.XavierNormal):
        monkeypatch.setattr(kind.__base__, "forward", made.Constant(0.01).forward)


@pytest.fixture
def constant_weights(monkeypatch) -> None:
    """The same for all networks of a test."""
    draw_no_weights(monkeypatch)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a plugin into the working folder, plugin(code) -> its name; what it registers is forgotten afterwards."""
    tables = (METHODS, MODELS, BACKBONES, HEADS, DATASETS, PRIORS)
    before, modules = [dict(table) for table in tables], set(sys.modules)
    monkeypatch.chdir(tmp_path)

    def write(code: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(code, encoding="utf-8")
        return name

    yield write
    for table, entries in zip(tables, before):
        table.clear()
        table.update(entries)
    for name in set(sys.modules) - modules:
        if name.startswith("plugin ") or not hasattr(sys.modules[name], "__path__") and "mine" in name:
            del sys.modules[name]


@pytest.fixture
def tiny(toy_root, tmp_path):
    """Builds small configurations: tiny(method="source_only", ...overrides) -> Config."""

    def build(name: str = "toy/adaptsegnet_multi", *overrides: str) -> Config:
        return load_config(ROOT / f"configs/{name}.yml", [*tiny_overrides(toy_root, tmp_path / "run"), *overrides])

    return build


def tiny_overrides(root: Path, output: Path) -> list[str]:
    """Overrides that make a toy configuration train in a second."""
    return [
        f"data.source.root={root / 'GTA5'}",
        f"data.target.root={root / 'Cityscapes'}",
        f"data.validation.root={root / 'Cityscapes'}",
        *(f"data.{d}.size=[96, 48]" for d in ("source", "target", "validation")),
        "data.batch_size=2",
        "data.workers=0",
        "model.width=8",
        "schedule.horizon=8",
        "schedule.stop=6",
        "run.log_every=1",
        "run.eval_every=3",
        "run.save_every=2",
        f"run.output={output}",
    ]


def wait_until(condition, what="what is waited for", seconds: float = LIMIT) -> None:
    """Wait for an event: until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)

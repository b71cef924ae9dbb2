"""Images have the right colours and shapes; the machine's settings never override the user's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import ConfigError
from paddle_adaptseg.core.labels import CITYSCAPES_19
from paddle_adaptseg.evaluation.visual import colourise, grid, heat, palette_image, panel

ROOT = Path(__file__).resolve().parent.parent


def test_labels_get_the_colours_of_cityscapes_and_ignored_pixels_are_black():
    label = np.array([[0, 18], [13, 255]], np.uint8)
    expected = [[[128, 64, 128], [119, 11, 32]], [[0, 0, 142], [0, 0, 0]]]
    assert colourise(label, CITYSCAPES_19).tolist() == expected
    image = palette_image(label, CITYSCAPES_19)
    assert np.asarray(image).tolist() == label.tolist()
    assert np.asarray(image.convert("RGB")).tolist() == expected


def test_panels_and_grids_put_images_side_by_side():
    image, label = np.full((6, 8, 3), 7, np.uint8), np.zeros((6, 8), np.uint8)
    strip = panel(image, label, np.zeros((12, 16), np.uint8), np.zeros((6, 8)), CITYSCAPES_19)
    assert strip.shape == (12, 16, 3)
    assert (strip[:6, :8] == 7).all() and (strip[:6, 8:] == [128, 64, 128]).all()
    assert (strip[6:, :8] == [128, 64, 128]).all()
    sheet = grid([[image, image], [image, image]], ["one", "two"], scale=10)
    assert sheet.shape[1] == 2 * 84 + 4 and (sheet[-6, 6] == 7).all() and (sheet == 20).any()


def test_entropy_goes_from_dark_to_bright():
    shades = heat(np.array([[0.0, 0.5, 1.0]])).sum(-1)[0]
    assert shades[0] < shades[1] < shades[2]


def settings(code, **env):
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")}
    command = [sys.executable, "-c", f"import os, sys; import paddle_adaptseg as p; {code}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**clean, **env}, check=True)
    return done.stdout.strip()


def test_threads_are_set_before_paddle_and_never_over_the_users():
    show = "print(os.environ['OMP_NUM_THREADS'], 'paddle' in sys.modules)"
    assert settings(show) == f"{runtime.cpu_count()} False"
    assert settings(show, OMP_NUM_THREADS="7") == "7 False"


def test_amd_processors_get_the_fast_path_of_mkl(monkeypatch):
    monkeypatch.delitem(sys.modules, "paddle")
    for user, expected in ((None, "5"), ("1", "1")):
        monkeypatch.delenv("MKL_DEBUG_CPU_TYPE", raising=False)
        if user:
            monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", user)
        monkeypatch.setattr(runtime, "_cpuinfo", lambda: "vendor_id : AuthenticAMD")
        runtime.set_cpu_threads()
        assert os.environ["MKL_DEBUG_CPU_TYPE"] == expected


def test_paddle_is_loaded_without_its_notes_when_a_public_name_is_used():
    code = "p.fit; print('paddle' in sys.modules)"
    clean = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", f"import sys; import paddle_adaptseg as p; {code}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=clean, check=True)
    assert done.stdout.strip() == "True" and done.stderr == ""


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="must be auto, cpu, gpu or gpu:N"):
        runtime.set_device("tpu")
    assert runtime.set_device("cpu") == "cpu"


def test_the_environment_is_one_line():
    line = runtime.environment()
    assert "Paddle" in line and "threads" in line and "\n" not in line


@pytest.fixture
def flags(monkeypatch):
    """What reaches a Paddle that was built for GPUs."""
    import paddle

    found = {}
    monkeypatch.setattr(paddle, "set_flags", found.update)
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    for name in runtime.CUDNN_FLAGS:
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.mark.parametrize(
    ("asked", "deterministic", "autotune"),
    [
        ((False, None), False, True),
        ((True, None), True, False),
        ((False, False), False, False),
        ((False, True), False, True),
        ((True, False), True, False),
    ],
)
def test_cudnn_repeats_itself_or_is_timed_and_never_both(flags, asked, deterministic, autotune):
    runtime.set_cudnn(*asked)
    assert flags == {"FLAGS_cudnn_deterministic": deterministic, "FLAGS_cudnn_exhaustive_search": autotune}


def test_the_users_cudnn_variables_stay_unless_the_configuration_says_something(flags, monkeypatch):
    monkeypatch.setenv("FLAGS_cudnn_deterministic", "1")
    runtime.set_cudnn(False, None)
    assert flags == {}
    runtime.set_cudnn(False, True)
    assert flags["FLAGS_cudnn_deterministic"] is False


def test_a_cpu_build_gets_no_cudnn_flags(flags, monkeypatch):
    import paddle

    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: False)
    runtime.set_cudnn(True, None)
    assert flags == {}


def test_the_switch_reaches_the_configuration():
    from paddle_adaptseg.lab.commands.flags import overrides, train_parser

    parser = train_parser("")
    given = parser.parse_args(["--deterministic", "-o", "run.seed=1"])
    assert overrides(given) == ["run.deterministic=true", "run.seed=1"]
    assert overrides(parser.parse_args([])) == []

"""One step of the full recipe, on images of true size, in the memory of an ordinary computer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from paddle_adaptseg.data.toy import ToySpec, write_toy_pair

LIMIT = 24 * 2**30  # bytes
SECONDS = 3600  # after which it hangs
STEP = """
import resource, sys
from paddle_adaptseg.core import runtime
runtime.import_paddle()
from paddle_adaptseg.config.loading import load_config
from paddle_adaptseg.training.run import fit
assert fit(load_config(sys.argv[1], sys.argv[2:])).step == 1
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_a_step_of_mic_on_hrda_at_true_size_stays_within_24_gib(tmp_path):
    write_toy_pair(tmp_path, ToySpec(source=2, target=2, validation=1, height=1024, width=2048))
    roots = {"source": "GTA5", "target": "Cityscapes", "validation": "Cityscapes"}
    overrides = [
        *(f"data.{domain}.root={tmp_path / folder}" for domain, folder in roots.items()),
        "schedule.stop=1", "run.eval_every=0", "data.workers=0", "run.device=cpu", f"run.output={tmp_path / 'run'}",
    ]  # fmt: skip
    command = [sys.executable, "-c", STEP, str(ROOT / "configs/gta5_cityscapes/mic_hrda_mit_b0.yml"), *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) < LIMIT, done.stdout

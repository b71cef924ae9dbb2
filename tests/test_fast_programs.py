"""What makes predictions fast: oneDNN's kernels, freed memory that is kept, stages of an evaluation that overlap."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from threading import Event

import numpy as np
import paddle
import pytest
from conftest import LIMIT, ROOT
from paddle import nn

from paddle_adaptseg.core import runtime
from paddle_adaptseg.data import open_validation
from paddle_adaptseg.evaluation import measure, programs
from paddle_adaptseg.evaluation.logits import HostLogits
from paddle_adaptseg.evaluation.options import InferenceOptions

WIDE = """
    import numpy as np
    import paddle
    from paddle_adaptseg.core import runtime
    from paddle_adaptseg.evaluation.options import InferenceOptions
    from paddle_adaptseg.evaluation.programs import logits_program
    from paddle_adaptseg.models.daformer import separable
    from paddle_adaptseg.models.layers import NORMS

    class Dilated(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.branch = separable(32, 8, NORMS["batch"], 12)

        def logits(self, x):
            return {"main": self.branch(paddle.concat([x] * 10 + [x[:, :2]], axis=1))}

    network = Dilated()
    network.eval()
    logits_program(network, InferenceOptions(), (40, 40))(np.ones([1, 3, 40, 40], np.float32))
"""


def test_a_depthwise_convolution_with_a_large_dilation_runs_by_onednns_own_kernel():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ONEDNN_VERBOSE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WIDE)], env=environment, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    kernels = [line for line in done.stdout.splitlines() if ",exec,cpu,convolution," in line and "_ic32oc32_" in line]
    assert kernels, "no depthwise convolution was run by oneDNN"
    assert not [line for line in kernels if "gemm" in line or ",ref" in line], kernels


class Depthwise(nn.Layer):
    """Depthwise convolutions of several kinds behind each other."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2D(3, 3, 3, padding=5, dilation=5, groups=3)
        self.uneven = nn.Conv2D(3, 3, (3, 5), stride=2, padding=(0, 6), dilation=(1, 3), groups=3)
        self.four = nn.Conv2D(3, 3, 3, padding=[4, 4, 5, 5], dilation=4, groups=3)
        self.same = nn.Conv2D(3, 3, 3, padding="SAME", groups=3)
        self.mirrored = nn.Conv2D(3, 3, 9, padding=4, padding_mode="reflect", groups=3)

    def logits(self, x):
        return {"main": self.mirrored(self.same(self.four(self.uneven(self.wide(x)))))}


def test_a_program_with_wide_padding_gives_the_networks_logits_and_leaves_the_network_as_it_was():
    paddle.seed(0)
    network, image = Depthwise(), np.random.default_rng(0).normal(size=[1, 3, 30, 34]).astype(np.float32)
    network.eval()
    with programs.zeros_beside(network):
        changed = [name for name, layer in network.named_children() if isinstance(layer, programs.WideDepthwise)]
    assert changed == ["wide", "uneven"]
    found = programs.logits_program(network, InferenceOptions(), (30, 34))(image)
    np.testing.assert_allclose(found, network.logits(paddle.to_tensor(image))["main"].numpy(), atol=1e-4)
    assert {type(layer) for layer in network.children()} == {nn.Conv2D}


@pytest.mark.parametrize("command", ["eval", "predict", "side_by_side", "suggest_labels"])
def test_commands_that_predict_keep_freed_memory(command, monkeypatch, tmp_path):
    import importlib

    class Kept(Exception):
        pass

    def keep():
        raise Kept

    monkeypatch.setattr(runtime, "keep_freed_memory", keep)
    model = {"eval": ["--restore-from"], "predict": ["image.png", "--output", "out", "--model"]}.get(command, [])
    monkeypatch.setattr(sys, "argv", [command, *model, str(tmp_path)])
    with pytest.raises(Kept):
        importlib.import_module(f"paddle_adaptseg.lab.commands.{command}").main()


class OneAfterTheOther(Exception):
    """A stage waited for another one that did not come."""


def expect(event):
    if not event.wait(60):
        raise OneAfterTheOther


def test_images_are_read_ahead_and_scored_while_the_network_computes(tiny, monkeypatch):
    files, computing, scoring, read = open_validation(tiny()), Event(), Event(), Event()
    plain = files.image

    def image(index, size=None):
        if index == 2:
            read.set()
        return plain(index, size)

    class Predictor:
        options, kind, calls = InferenceOptions(), HostLogits, 0

        def logits(self, images):
            self.calls += 1
            if self.calls == 2:  # while the second image is in the network, the third is read and the first is scored
                computing.set()
                expect(read)
                expect(scoring)
            return self.calls

    def score(logits, sample, *_):
        if logits == 1:
            scoring.set()
            expect(computing)
        return logits

    monkeypatch.setattr(files, "image", image)
    monkeypatch.setattr(measure, "score", score)
    found = measure.score_images(Predictor(), files, [0, 1, 2], 19, workers=1)
    assert [(sample.index, scored) for sample, scored in found] == [(0, 1), (1, 2), (2, 3)]

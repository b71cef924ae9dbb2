"""Run by test_cpu_memory.py: what `tools/eval.py --watch` does for every checkpoint, many times.

Usage: many_programs.py COUNT. A new network each time, its program for Paddle Inference, a few images, and a training
step of the accelerated network beside it. With MALLOC_CHECK_=3 the C library ends the process when its heap is broken.
"""

from __future__ import annotations

import sys

from paddle_adaptseg.core import runtime

runtime.import_paddle()

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from paddle_adaptseg.config.schema import Component  # noqa: E402
from paddle_adaptseg.cpu import accelerate  # noqa: E402
from paddle_adaptseg.evaluation.predictor import InferenceOptions  # noqa: E402
from paddle_adaptseg.evaluation.programs import logits_program  # noqa: E402
from paddle_adaptseg.methods.losses import cross_entropy  # noqa: E402
from paddle_adaptseg.models import build_model  # noqa: E402
from paddle_adaptseg.models.layers import inference  # noqa: E402

SIZE = (96, 192)


def learn(network, image) -> None:
    label = paddle.randint(0, 5, [1, *SIZE])
    network.train()
    with accelerate(network):
        sum(cross_entropy(logits, label) for logits in network(image).values()).backward()
    network.clear_gradients()


def main(count: int) -> None:
    for number in range(count):
        paddle.seed(number)
        with runtime.fresh_names():
            network = build_model(Component("small", {}), 5)
        image = paddle.randn([1, 3, *SIZE])
        learn(network, image)
        with inference(network), accelerate(network):
            program = logits_program(network, InferenceOptions(backend="onednn"), SIZE)
            expected = network.logits(image)["main"].numpy()
        for _ in range(5):
            found = program(image.numpy())
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
        print(number, flush=True)
    print("all done")


if __name__ == "__main__":
    main(int(sys.argv[1]))

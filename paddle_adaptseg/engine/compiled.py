"""The segmenter as programs that Paddle compiles (`paddle.jit.to_static`), for training only.

Each size of image has its own programs, made from the Python code when it first comes. They hold no state: parameters,
running statistics and the random numbers of dropout are those of the network, so checkpoints and resuming know nothing
of them. Evaluation, pictures and exports run the network itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Callable

import paddle
from paddle import Tensor, nn

from paddle_adaptseg import runtime
from paddle_adaptseg.errors import TrainingError
from paddle_adaptseg.models.segmenter import Segmenter


def compile_segmenter(segmenter: Segmenter) -> None:
    """Let forward passes that will be differentiated run as compiled programs: one to the features, one for each head.

    Not one for all: of a sum of two heads that are results as well, CLAN's, Paddle 3.3.1 compiles wrong values and
    2.6.2 wrong gradients.
    """
    segmenter.features = _compiled(segmenter, segmenter.features)  # type: ignore[method-assign, assignment]
    for head in segmenter.heads.values():
        head.forward = _compiled(segmenter, head.forward)


def _compiled(segmenter: Segmenter, plain: Callable[..., Any]) -> Callable[..., Any]:
    program = paddle.jit.to_static(plain, full_graph=True)
    known: set[tuple] = set()

    def run(*given: Any) -> Any:
        if not (segmenter.training and paddle.is_grad_enabled() and paddle.in_dynamic_mode()):
            return plain(*given)
        kind = tuple((tuple(x.shape), x.dtype) for x in _tensors(given))
        if kind in known:
            return program(*given)
        known.add(kind)
        return _first(program, given, segmenter)

    return run


def _tensors(given: Any) -> Iterator[Tensor]:
    """All Tensors of arguments that may be lists of them."""
    for one in given:
        if isinstance(one, Tensor):
            yield one
        elif one is not None:
            yield from _tensors(one)


def _first(program: Callable[..., Any], given: tuple, segmenter: Segmenter) -> Any:
    """The first run of a program, in which Paddle makes it and lets go of all gradients that parameters hold."""
    held = [(p, p.grad) for p in segmenter.parameters() if p.grad is not None]
    try:
        with runtime.quiet(), _untranslated(segmenter):
            result = program(*given)
    except Exception as error:  # whatever a compiler may raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise TrainingError(
            f"run.to_static: Paddle {paddle.__version__} cannot compile and run this network ({reason}): leave it out"
        ) from error
    for parameter, gradient in held:
        parameter.grad = gradient
    return result


@contextlib.contextmanager
def _untranslated(network: nn.Layer) -> Iterator[None]:
    """Afterwards every layer has its own forward() again; Paddle leaves there what it has translated for a program."""
    before = [(layer, vars(layer).get("forward")) for layer in network.sublayers(include_self=True)]
    try:
        yield
    finally:
        for layer, forward in before:
            vars(layer).pop("forward", None)
            if forward is not None:
                layer.forward = forward

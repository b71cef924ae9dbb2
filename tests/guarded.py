"""Run by test_cpu_memory.py: every operation of the accelerator on operands that lie against pages nobody may touch.

Usage: guarded.py SEED COUNT. Whatever reads or writes outside its operands ends the process with a signal; the line
before says which operation it was.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import random
import sys

from paddle_adaptseg.core import runtime

runtime.import_paddle()

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from paddle_adaptseg.cpu import interleaved, library, onednn, operations  # noqa: E402

PAGE = mmap.PAGESIZE
ALIGNED = 64  # as Paddle's and the arena's memory is at least
protect = ctypes.CDLL(None, use_errno=True).mprotect
protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
at_end = [True]


def guarded(shape, dtype="float32"):
    """A tensor that ends, or begins, where a forbidden page begins, or ends."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    pages = max(1, -(-size // PAGE))
    space = mmap.mmap(-1, (pages + 2) * PAGE)
    whole = np.frombuffer(space, np.uint8)
    for page in (0, pages + 1):
        assert protect(whole.ctypes.data + page * PAGE, PAGE, 0) == 0
    start = PAGE + ((pages * PAGE - size) // ALIGNED * ALIGNED if at_end[0] else 0)
    array = whole[start : start + size].view(dtype).reshape(shape)
    array[...] = np.random.randn(*shape) if dtype == "float32" else 0
    return paddle.Tensor(value=array, place=paddle.CPUPlace(), zero_copy=True, name="guarded", stop_gradient=True)


def last(shape):
    count, channels, height, width = shape
    return guarded([count, height, width, channels]).transpose([0, 3, 1, 2])


def some_map(shape):
    return random.choice([guarded, last])(list(shape))


def workspace(operation):
    return guarded([library.opened().size(operation._queried("workspace"))], "uint8")


def geometry():
    channels = [1, 2, 3, 5, 7, 8, 12, 15, 16, 17, 19, 24, 31, 32, 33, 48, 64, 65]
    kernel, stride, dilation = (
        random.choice([1, 1, 3, 3, 4, 7]),
        random.choice([1, 1, 2, 3]),
        random.choice([1, 1, 2, 5]),
    )
    padding = random.choice([0, kernel // 2, dilation * (kernel // 2)])
    size = [random.randint(dilation * (kernel - 1) + 1, 45) for _ in range(2)]
    src = (random.randint(1, 3), random.choice(channels), *size)
    return src, (random.choice(channels), src[1], kernel, kernel), (stride,) * 2, (padding,) * 2, (dilation,) * 2


def try_convolution():
    form, bias, slope = geometry(), random.random() < 0.5, random.choice([None, 0.0, 0.2])
    say("convolution", form, bias, slope)
    if not operations.takes(form):
        return
    src, kernel, out = form[0], form[1], operations.output_shape(form)
    more = {"bias": guarded([kernel[0]])} if bias else {}
    operations.convolution("forward", form, bias, slope)(
        {"src": some_map(src), "weights": guarded(kernel), "dst": some_map(out), **more}
    )
    operations.convolution("backward_data", form, False)(
        {"diff_src": some_map(src), "weights": guarded(kernel), "diff_dst": some_map(out)}
    )
    more = {"diff_bias": guarded([kernel[0]])} if bias else {}
    operations.convolution("backward_weights", form, bias)(
        {"src": some_map(src), "diff_weights": guarded(kernel), "diff_dst": some_map(out), **more}
    )


def try_depthwise():
    channels, kernel, dilation = (
        random.choice(n) for n in ([1, 3, 8, 15, 16, 17, 32, 33, 64, 80], [3, 3, 5], [1, 2, 3, 6])
    )
    src = random.randint(1, 3), channels, random.randint(1, 20), random.randint(1, 20)
    stride = (random.choice([1, 2]) if dilation == 1 else 1,) * 2
    form = src, (channels, 1, 1, kernel, kernel), stride, (dilation * (kernel // 2),) * 2, (dilation,) * 2
    bias = random.random() < 0.5
    say("depthwise", form, bias)
    if not interleaved.takes(form):
        return
    out, weights = operations.output_shape(form), guarded(form[1])
    more, moved = ({name: guarded([channels])} if bias else {} for name in ("bias", "diff_bias"))
    interleaved.convolution("forward", form, bias)(
        {"src": some_map(src), "weights": weights, "dst": some_map(out), **more}
    )
    interleaved.convolution("backward_data", form, False)(
        {"diff_src": some_map(src), "weights": weights, "diff_dst": some_map(out)}
    )
    interleaved.convolution("backward_weights", form, bias)(
        {"src": some_map(src), "diff_weights": weights, "diff_dst": some_map(out), **moved}
    )


def try_norm():
    shape, given, relu = geometry()[0], random.random() < 0.5, random.random() < 0.5
    say("norm", shape, given, relu)
    channels, src = [shape[1]], some_map(shape)
    values = {name: guarded(channels) for name in ("mean", "variance", "scale", "shift")}
    values["variance"].abs_()
    operations.moments(shape)(
        {"src": src, "dst": last(shape), "mean": guarded(channels), "variance": guarded(channels)}
    )
    operations.norm(shape, 1e-5, relu)({"src": src, "dst": some_map(shape), **values})
    del values["shift"]
    found = {"diff_src": some_map(shape), "diff_scale": guarded(channels), "diff_shift": guarded(channels)}
    operations.norm_backward(shape, 1e-5, given)({"src": src, "diff_dst": some_map(shape), **values, **found})


def try_pooling():
    shape, kernel = geometry()[0], random.choice([2, 3])
    stride, padding = random.choice([1, 2]), random.choice([0, 1])
    size = [(n + 2 * padding - kernel + (stride - 1) * random.choice([0, 1])) // stride + 1 for n in shape[2:]]
    window = shape, (*shape[:2], *size), kernel, stride, padding
    say("pooling", window)
    try:
        forward, backward = operations.max_pool(window), operations.max_pool_backward(window)
    except library.Refused:
        return
    chosen = workspace(forward)
    forward({"src": some_map(shape), "dst": some_map(window[1]), "workspace": chosen})
    backward({"diff_src": some_map(shape), "diff_dst": some_map(window[1]), "workspace": chosen})


def try_rest():
    shape, relu, slope = geometry()[0], random.random() < 0.5, random.choice([0.0, 0.2])
    say("sums, ReLU, softmax", shape, relu, slope)
    operations.add(shape, relu)({"src": some_map(shape), "other": some_map(shape), "dst": some_map(shape)})
    dst = {"dst": some_map(shape), "diff_dst": some_map(shape), "diff_src": some_map(shape)}
    operations.relu_backward(shape, slope)(dst)
    operations.softmax_of(shape)({"src": guarded(shape), "dst": guarded(shape)})
    pixels = guarded((shape[0], 1, *shape[2:]))
    for kind in ("times", "minus"):
        operations.per_pixel(kind, shape)({"src": guarded(shape), "other": pixels, "dst": guarded(shape)})


def say(*what):
    print(*what, "end" if at_end[0] else "start", flush=True)


def main(seed: int, count: int) -> None:
    faulthandler.enable()
    random.seed(seed)
    np.random.seed(seed)
    library.empty = onednn.empty = guarded  # scratchpads and copies
    interleaved.LEAST = 0
    for _ in range(count):
        for attempt in (try_convolution, try_depthwise, try_convolution, try_norm, try_pooling, try_rest):
            at_end[0] = random.random() < 0.7
            attempt()
    print("all done")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

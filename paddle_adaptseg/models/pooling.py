"""Max pooling that keeps maps channels last on a CPU; elsewhere, and for other maps, it is Paddle's."""

from __future__ import annotations

from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_adaptseg.cpu import on_cpu
from paddle_adaptseg.cpu.onednn import Refused, empty_last, lies_last
from paddle_adaptseg.cpu.operations import Window, max_pool, max_pool_backward
from paddle_adaptseg.models.convolution import whole


class MaxPool2D(nn.MaxPool2D):
    """Max pooling of square windows."""

    def forward(self, x: Tensor) -> Tensor:
        if not on_cpu(x) or not lies_last(x):
            return nn.MaxPool2D.forward(self, x)  # tracing cannot follow super()
        kernel, stride, padding = self.ksize, self.stride or self.ksize, self.padding
        sizes = [n + 2 * padding - kernel + (stride - 1 if self.ceil_mode else 0) for n in x.shape[2:]]
        shape = (*x.shape[:2], *(size // stride + 1 for size in sizes))
        window = tuple(x.shape), shape, kernel, stride, padding
        try:
            max_pool(window)
        except Refused:
            return nn.MaxPool2D.forward(self, x)
        return _MaxPool.apply(x, window)


class _MaxPool(PyLayer):
    @staticmethod
    def forward(ctx, x, window: Window):
        operation, y = max_pool(window), empty_last(window[1])
        ctx.window, ctx.chosen = window, operation.workspace()
        operation({"src": x, "dst": y, "workspace": ctx.chosen})
        return y

    @staticmethod
    def backward(ctx, dy):
        dx = empty_last(ctx.window[0])
        max_pool_backward(ctx.window)({"diff_dst": whole(dy), "diff_src": dx, "workspace": ctx.chosen})
        return dx

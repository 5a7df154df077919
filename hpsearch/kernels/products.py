"""Matrix products with the faster of two libraries on this processor.

Torch on the CPU multiplies float32 matrices with MKL, which uses only half the vector width of
processors that are not from Intel. oneDNN, which torch also contains, uses all of it: on an AMD
EPYC of 2024 it is 2.3 times as fast.

- Large float32 products on such processors use oneDNN's linear operator.
- Stacks of small products are one batch in torch, because a call of oneDNN costs as much as
  multiplying some hundred rows.
- Gradients of weights also use torch, because oneDNN copies transposed factors.
- Everything else uses torch: Intel processors, GPUs, float64, and builds without the operator.

The choice depends only on the machine and the sizes, so a resumed run gives the same bits there.
"""

# T copies, A rows, m, n, k sizes of a product

from __future__ import annotations

import platform
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpsearch.system.hardware import processor


@cache
def onednn_is_faster() -> bool:
    """Whether float32 products use oneDNN on this machine."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return False
    # An unknown processor uses torch's default.
    return platform.machine() == "x86_64" and processor().vendor not in ("GenuineIntel", None)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a bᵀ: ``[m, k]`` and ``[n, k]`` to ``[m, n]``; without gradients."""
    if _through_onednn(a) and min(*a.shape, *b.shape) > 0:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
        return result
    return torch.mm(a, b.t())


def _through_onednn(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and onednn_is_faster()


_MANY_ROWS = 1024
"""Number of rows from which every product of a stack is a call of oneDNN.

On Zen 4 both libraries take the same time at two thousand rows, and at three hundred oneDNN takes
twice as long. On processors whose vector width MKL does not use, oneDNN is faster with many rows.
"""


class _StackedLinear(torch.autograd.Function):
    """See :func:`stacked_linear`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, scale: float, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.scale = scale
        return _stacked(x.expand(len(w), -1, -1), w, scale, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = gradients
        x, w = ctx.saved_tensors
        dx = dw = d_bias = None
        if ctx.needs_input_grad[0]:
            dx = _stacked(upstream, w.transpose(1, 2), ctx.scale)
            dx = dx if len(x) == len(w) else dx.sum(0, keepdim=True)
        if ctx.needs_input_grad[1]:
            columns = x.expand(len(w), -1, -1).transpose(1, 2)
            dw = _batch(upstream.transpose(1, 2), columns, ctx.scale)
        if ctx.needs_input_grad[3]:
            d_bias = upstream.sum(1, keepdim=True)
        return dx, dw, None, d_bias


def _stacked(x: Tensor, w: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    if x.shape[1] < _MANY_ROWS or not _through_onednn(x):
        return _batch(x, w, scale, bias)
    out = x.new_empty(*x.shape[:2], w.shape[1])
    for result, *factors in zip(out, x, w * scale, strict=True):
        result.copy_(product(*factors))
    return out if bias is None else out.add_(bias)


def _batch(x: Tensor, w: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """The stack in one call of torch; inside it, scale and bias cost nothing."""
    added = w.new_empty(1, 1, 1) if bias is None else bias
    beta = 0 if bias is None else 1
    return torch.baddbmm(added, x, w.transpose(1, 2), beta=beta, alpha=scale)


def stacked_linear(x: Tensor, w: Tensor, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
    """scale x_t w_tᵀ + b_t for every t.

    Args:
        x: ``[T, A, k]``, or ``[1, A, k]`` if all t share it.
        w: ``[T, n, k]``.
        scale: a constant.
        bias: ``[T, 1, n]``; ``None`` for no bias.

    Returns:
        ``[T, A, n]``.
    """
    result: Tensor = _StackedLinear.apply(x, w, scale, bias)  # type: ignore[no-untyped-call]
    return result

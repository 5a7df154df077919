"""Matrix products on the fastest library that this processor has; the network's arithmetic is them.

Torch's CPU build multiplies float32 matrices with MKL, which on processors of other vendors than
Intel uses half their vector width. oneDNN, which the same build carries, does not: on an EPYC of
2024 it is 2.3 times as fast. So there float32 products go through oneDNN's linear operator; on
Intel's processors, on GPUs, in float64 and where the operator is missing they are plain ``matmul``.
The choice depends on the machine alone, so a run that is continued there goes on bit for bit.
"""

# T copies, A rows, m, n, k sizes of a product

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@cache
def onednn_is_faster() -> bool:
    """Whether float32 products go through oneDNN on this machine."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return False
    return platform.machine() == "x86_64" and not _intel()


def _intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return True  # unknown: the stock product


def product(a: Tensor, b: Tensor) -> Tensor:
    """a bᵀ: ``[m, k]`` and ``[n, k]`` to ``[m, n]``; without gradients."""
    if (
        a.dtype == torch.float32
        and a.device.type == "cpu"
        and onednn_is_faster()
        and min(*a.shape, *b.shape) > 0
    ):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
        return result
    return torch.mm(a, b.t())


class _StackedLinear(torch.autograd.Function):
    """x_t w_tᵀ for every t; ``x`` may be one for all t."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        out = x.new_empty(w.shape[0], x.shape[1], w.shape[1])
        for t in range(w.shape[0]):
            out[t] = product(x[t if len(x) > 1 else 0], w[t])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (upstream,) = gradients
        x, w = ctx.saved_tensors
        dx = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        dw = torch.empty_like(w) if ctx.needs_input_grad[1] else None
        # Transposed once where x is shared; a product transposes its first factor each time.
        columns = x.transpose(1, 2).contiguous()
        for t in range(w.shape[0]):
            s = t if len(x) > 1 else 0
            if dx is not None:
                dx[s] += product(upstream[t], w[t].t())
            if dw is not None:
                dw[t] = product(columns[s], upstream[t].t()).t()
        return dx, dw


def stacked_linear(x: Tensor, w: Tensor) -> Tensor:
    """T products side by side: ``[T or 1, A, k]`` and ``[T, n, k]`` to ``[T, A, n]``."""
    result: Tensor = _StackedLinear.apply(x, w)  # type: ignore[no-untyped-call]
    return result

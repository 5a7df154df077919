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


_ROWS = 1024
"""Fewer are multiplied as one batch by torch: each call of oneDNN costs as much as a few hundred."""


class _StackedLinear(torch.autograd.Function):
    """x_t w_tᵀ for every t; ``x`` may be one for all t."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return _stacked(x.expand(len(w), -1, -1), w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (upstream,) = gradients
        x, w = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = _stacked(upstream, w.transpose(1, 2))
            dx = dx if len(x) == len(w) else dx.sum(0, keepdim=True)
        if ctx.needs_input_grad[1]:
            # Not by oneDNN, which copies both factors if they are transposed.
            dw = torch.bmm(upstream.transpose(1, 2), x.expand(len(w), -1, -1))
        return dx, dw


def _stacked(x: Tensor, w: Tensor) -> Tensor:
    if x.shape[1] < _ROWS or x.dtype != torch.float32 or x.device.type != "cpu":
        return torch.bmm(x, w.transpose(1, 2))
    parts = [product(*both) for both in zip(x, w, strict=True)]
    return torch.stack(parts) if len(parts) > 1 else parts[0][None]


def stacked_linear(x: Tensor, w: Tensor) -> Tensor:
    """T products side by side: ``[T or 1, A, k]`` and ``[T, n, k]`` to ``[T, A, n]``."""
    result: Tensor = _StackedLinear.apply(x, w)  # type: ignore[no-untyped-call]
    return result

"""Nonlinearities rescaled to unit second moment under a standard normal input.

Eq. 13 keeps the second moments of features at one in a convolution; the rescaling keeps them at one
in the nonlinearity after it. The radial MLPs apply softplus to every pair and neuron. For that
``kernels.c`` makes one pass over memory forward and one backward; torch makes three.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hpsearch.kernels.library import compiled_for

Activation = Callable[[Tensor], Tensor]


def second_moment(function: Activation) -> float:
    """E[f(z)²] for a standard normal z, by the trapezoidal rule on [-12, 12]."""
    z = torch.linspace(-12.0, 12.0, 24_001, dtype=torch.float64)
    density = torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return float(torch.trapezoid(function(z) ** 2 * density, z))


def _rescaled(function: Activation, scale: float, x: Tensor) -> Tensor:
    return function(x) * scale


def rescaled(function: Activation) -> Activation:
    """``function`` multiplied by the constant that gives it unit second moment."""
    return partial(_rescaled, function, second_moment(function) ** -0.5)


@dataclass(frozen=True)
class Softplus:
    """log(1 + exp(βx))/β times a constant.

    Attributes:
        beta: β, the sharpness.
        shifted: whether the value at zero is subtracted.
        scale: the constant.
    """

    beta: float
    shifted: bool
    scale: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """The function of every entry of ``x``."""
        library = compiled_for(x)
        if library is not None:
            result: Tensor = _Compiled.apply(x, self, library)  # type: ignore[no-untyped-call]
            return result
        return self.in_torch(x)

    def in_torch(self, x: Tensor) -> Tensor:
        """The same in torch operations, also for second derivatives and for export."""
        y = functional.softplus(x, beta=self.beta)
        return (y - math.log(2.0) / self.beta if self.shifted else y) * self.scale

    def table(self, count: int) -> SoftplusTable:
        """The arguments of kernels.c for ``count`` numbers."""
        threads = torch.get_num_threads()
        return SoftplusTable(count, threads, self.shifted, self.beta, self.scale)


class SoftplusTable(ctypes.Structure):
    """``Softplus`` in kernels.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("count", "threads", "shifted")),
        *((name, ctypes.c_float) for name in ("beta", "scale")),
    )


def _rescaled_softplus(beta: float, shifted: bool) -> Softplus:
    return Softplus(beta, shifted, second_moment(Softplus(beta, shifted)) ** -0.5)


def softplus(beta: float) -> Softplus:
    """log(1 + exp(βx))/β, rescaled: the activation of scalars in a gated block."""
    return _rescaled_softplus(beta, shifted=False)


def shifted_softplus(beta: float) -> Softplus:
    """softplus(x) - softplus(0), rescaled: zero at zero, so the radial MLP maps zero to zero."""
    return _rescaled_softplus(beta, shifted=True)


def sigmoid() -> Activation:
    """1/(1 + exp(-x)), rescaled: the gate of vectors."""
    return rescaled(torch.sigmoid)


def relu() -> Activation:
    """max(x, 0), rescaled by the square root of 2: in the atom-wise layers of output blocks."""
    return rescaled(torch.relu)


# --- compiled ---


class _Compiled(torch.autograd.Function):
    """Softplus in kernels.c, for float32 on the CPU: one pass forward and one backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Softplus, library: ctypes.CDLL) -> Tensor:
        ctx.activation, ctx.library = activation, library
        x = x.contiguous()
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        table = activation.table(x.numel())
        library.hpsearch_softplus(ctypes.byref(table), x.data_ptr(), y.data_ptr())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        upstream = gradients[0].contiguous()
        dx = torch.empty_like(x)
        table = ctx.activation.table(x.numel())
        addresses = (tensor.data_ptr() for tensor in (x, upstream, dx))
        ctx.library.hpsearch_softplus_slope(ctypes.byref(table), *addresses)
        return dx, None, None

"""Nonlinearities rescaled to unit second moment under a standard normal input.

Eq. 13 keeps second moments at one through a convolution; these keep them through what follows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]


def second_moment(function: Activation) -> float:
    """E[f(z)²] for a standard normal z, by the trapezoidal rule on [-12, 12]."""
    z = torch.linspace(-12.0, 12.0, 24_001, dtype=torch.float64)
    density = torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return float(torch.trapezoid(function(z) ** 2 * density, z))


def _rescaled(function: Activation, scale: float, x: Tensor) -> Tensor:
    return function(x) * scale


def rescaled(function: Activation) -> Activation:
    """``function`` times the constant that gives it unit second moment."""
    return partial(_rescaled, function, second_moment(function) ** -0.5)


def _softplus(beta: float, x: Tensor) -> Tensor:
    return functional.softplus(x, beta=beta)


def _shifted_softplus(beta: float, x: Tensor) -> Tensor:
    return functional.softplus(x, beta=beta) - math.log(2.0) / beta


def softplus(beta: float) -> Activation:
    """log(1 + exp(βx))/β, rescaled: the scalars' activation in a gated block."""
    return rescaled(partial(_softplus, beta))


def shifted_softplus(beta: float) -> Activation:
    """softplus(x) - softplus(0), rescaled: zero at zero, so the radial MLP keeps zeros."""
    return rescaled(partial(_shifted_softplus, beta))


def sigmoid() -> Activation:
    """1/(1 + exp(-x)), rescaled: the vectors' gate."""
    return rescaled(torch.sigmoid)


def relu() -> Activation:
    """max(x, 0), rescaled (by the square root of 2): the output block's atom-wise layers."""
    return rescaled(torch.relu)

"""The functions of the distance: three radial bases and the radial MLP."""

# P pairs, B basis functions, T copies, H hidden neurons

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpsearch.kernels.activations import Softplus, SoftplusTable, shifted_softplus
from hpsearch.kernels.library import compiled_for
from hpsearch.kernels.products import stacked_linear
from hpsearch.nn.atom_wise import AtomWise

SHORTEST_DISTANCE_ANGSTROM = 0.9
"""Lower end of the distances to average over; shorter than every bond of QM9."""

LARGEST_DISTANCE_ANGSTROM = 12.1
"""Upper end of the distances to average over; longer than every distance in QM9 (12.04 Å)."""


_SPARSE = 4
"""If at most one in four functions is not zero, the product skips the zeros."""


class RadialBasis(nn.Module):
    """The radial basis φ: B functions of the distance, exactly zero beyond the maximum.

    - ``cosine``: cos²(π/2 (d - μ_B)/Δ) for |d - μ_B| ≤ Δ (Eq. 2; cos², not cos).
    - ``gaussian``: exp(-(d - μ_B)²/(2Δ²)), SchNet's expansion.
    - ``bessel``: sqrt(2/c) sin(nπd/c)/d, DimeNet's; at d = 0 its limit sqrt(2/c) nπ/c.

    The centres μ_B are equally spaced from 0 to the maximum c, with spacing Δ.

    Args:
        name: ``cosine``, ``gaussian`` or ``bessel``.
        functions: B, at least 2.
        maximum_angstrom: c, in Å.

    Attributes:
        mean_square: E Σ_B φ_B², averaged over the distances in molecules; 3/4 for cos².
        nonzero: the most functions that are not zero at one distance.
    """

    centres: Tensor

    def __init__(self, name: str, functions: int, maximum_angstrom: float) -> None:
        super().__init__()
        self.maximum_angstrom = maximum_angstrom
        self._basis = {"cosine": self._cosine, "gaussian": self._gaussian, "bessel": self._bessel}[
            name
        ]
        centres = torch.linspace(0.0, maximum_angstrom, functions, dtype=torch.float64)
        self.spacing = maximum_angstrom / (functions - 1)
        self.register_buffer("centres", centres.to(torch.get_default_dtype()), persistent=False)
        self.mean_square = self._mean_square(centres)
        self.nonzero = 2 if name == "cosine" else functions

    def _mean_square(self, centres: Tensor) -> float:
        first = min(SHORTEST_DISTANCE_ANGSTROM, self.maximum_angstrom / 2)
        last = min(LARGEST_DISTANCE_ANGSTROM, self.maximum_angstrom)
        distance = torch.linspace(first, last, 4_001, dtype=torch.float64)
        return float(self._basis(distance, centres).square().sum(-1).mean())

    def forward(self, distance: Tensor) -> Tensor:
        """``[P]`` distances in Å to ``[P, B]``."""
        inside = distance <= self.maximum_angstrom
        return self._basis(distance, self.centres) * inside[:, None]

    def _cosine(self, distance: Tensor, centres: Tensor) -> Tensor:
        # Only the two centres around a distance are less than Δ away, and the cosine at the second
        # centre is the sine at the first, so the two functions add up to 1.
        last = len(centres) - 1
        x = ((distance[:, None] - centres[:1]) / self.spacing).clamp(0, last)
        first = x.detach().floor().clamp(max=last - 1)
        near = torch.cos(0.5 * math.pi * (x - first)).square()
        place = first.nan_to_num(0.0).long() + torch.arange(2, device=x.device)
        phi = x.new_zeros(len(x), len(centres))
        return phi.scatter(1, place, torch.cat((near, 1.0 - near), dim=1))

    def _gaussian(self, distance: Tensor, centres: Tensor) -> Tensor:
        x = (distance[:, None] - centres) / self.spacing
        return torch.exp(-0.5 * x.square())

    def _bessel(self, distance: Tensor, centres: Tensor) -> Tensor:
        frequency = torch.arange(1, len(centres) + 1, dtype=distance.dtype, device=distance.device)
        frequency = frequency * (math.pi / self.maximum_angstrom)
        # sin(kd)/d = k sinc(kd/π), finite at d = 0.
        value = frequency * torch.sinc(distance[:, None] * frequency / math.pi)
        return math.sqrt(2.0 / self.maximum_angstrom) * value


class RadialMLP(nn.Module):
    """The radial MLP g(d) up to its last hidden layer, in T copies.

    It has no biases, and its activation maps zero to zero, so g = 0 where all basis functions are
    0. The first layer is divided by sqrt(E Σ_B φ²), not by sqrt(B), since only a few basis
    functions are not zero at one distance (docs/decisions/0010). The last, linear layer belongs to
    the convolution: R_uv(d) = Σ_h W_uvh g_h(d) / sqrt(H).

    If most functions are zero at one distance, ``kernels.c`` skips them in the first layer. Of a
    hundred cosines only two are not zero.

    Args:
        copies: T.
        basis: the radial basis.
        layers: hidden layers, at least one.
        neurons: H, width of a hidden layer.
        beta: sharpness of the softplus.
    """

    def __init__(
        self, copies: int, basis: RadialBasis, layers: int, neurons: int, beta: float
    ) -> None:
        super().__init__()
        self.activation = shifted_softplus(beta)
        self.first = nn.Parameter(torch.randn(copies, neurons, len(basis.centres)))
        self.first_scale = basis.mean_square**-0.5
        self.sparse = _SPARSE * basis.nonzero <= len(basis.centres)
        self.hidden = nn.ModuleList(
            AtomWise(copies, neurons, neurons, bias=False) for _ in range(layers - 1)
        )

    def forward(self, phi: Tensor) -> Tensor:
        """``[P, B]`` to ``[T, P, H]``."""
        g = self._first(phi)
        for layer in self.hidden:
            g = self.activation(layer(g))
        return g

    def _first(self, phi: Tensor) -> Tensor:
        library = compiled_for(self.first)
        if library is None or phi.requires_grad or not self.sparse:
            return self.activation(stacked_linear(phi[None], self.first, self.first_scale))
        arguments = phi, self.first * self.first_scale, self.activation, library
        g: Tensor = _Compiled.apply(*arguments)  # type: ignore[no-untyped-call]
        return g


class _Table(ctypes.Structure):
    """``Radial`` in kernels.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("copies", "pairs", "functions", "hidden")),
        ("softplus", SoftplusTable),
    )


class _Compiled(torch.autograd.Function):
    """The first layer and its activation in kernels.c, for the functions that are not zero.

    The backward pass computes the layer again, which is cheaper than storing it. A weight that is
    not finite affects only the pairs whose functions it multiplies; in a product with all
    functions it would affect every pair.
    """

    @staticmethod
    def forward(
        ctx: Any, phi: Tensor, w: Tensor, activation: Softplus, library: ctypes.CDLL
    ) -> Tensor:
        if (phi.shape[1], phi.dtype, phi.device) != (w.shape[2], w.dtype, w.device):
            raise ValueError(
                f"the radial MLP takes {w.shape[2]} functions in {w.dtype} on {w.device}, got "
                f"{tuple(phi.shape)} in {phi.dtype} on {phi.device}"
            )
        phi, w = phi.contiguous(), w.contiguous()
        band = phi.new_empty(len(phi), 2, dtype=torch.int32)
        ctx.save_for_backward(phi, w, band)
        ctx.activation, ctx.library = activation, library
        g = w.new_empty(len(w), len(phi), w.shape[1])
        _call(library, "radial", activation, (phi, w, band, g))
        return g

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        phi, w, band = ctx.saved_tensors
        dw = torch.empty_like(w)
        operands = phi, w, band, gradients[0].contiguous(), dw
        _call(ctx.library, "radial_weights", ctx.activation, operands)
        return None, dw, None, None


def _call(
    library: ctypes.CDLL, name: str, activation: Softplus, operands: tuple[Tensor, ...]
) -> None:
    """Call a function of the library with contiguous tensors; the first two are φ and w."""
    phi, w = operands[:2]
    table = ctypes.byref(_Table(len(w), *phi.shape, w.shape[1], activation.table(0)))
    scratch = phi.new_empty(library.hpsearch_radial_scratch_bytes(table), dtype=torch.uint8)
    addresses = (tensor.data_ptr() for tensor in (*operands, scratch))
    getattr(library, f"hpsearch_{name}")(table, *addresses)

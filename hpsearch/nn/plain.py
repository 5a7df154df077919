r"""The network in plain torch operations over padded molecules, for export.

`hpsearch.nn.network` is fast because it lists the pairs of neighbours and calls compiled products.
An exported program can do neither: it must have the same operations whatever the molecules are. So
here every atom is paired with every atom of its molecule, padding included. The radial function of
a pair that does not count is set to zero, so the pair contributes exactly nothing. The modules and
weights are those of the network; `hpsearch.nn.convolution` explains the equations.
"""

# M molecules, N atoms of the largest one, a and b atoms of a pair, T targets (or 1 if all share
# it), B basis functions, H hidden neurons of the radial MLP, S scalars, V vectors, u outputs

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hpsearch.nn.atom_wise import AtomWise
from hpsearch.nn.block import ConvolutionBlock
from hpsearch.nn.convolution import Convolution
from hpsearch.nn.network import MultiTargetNetwork
from hpsearch.nn.radial import RadialMLP


class Pairs(NamedTuple):
    """All pairs of atoms of every molecule; b is the neighbour of a.

    Attributes:
        near: ``[M, N, N]`` whether the pair counts: two different atoms that exist, within the
            radial maximum.
        phi: ``[M, N, N, B]`` the radial basis.
        direction: ``[M, 3, N, N]`` û, the unit vector from a to b; 0 for two atoms at one place.
    """

    near: Tensor
    phi: Tensor
    direction: Tensor


class PlainNetwork(nn.Module):
    """A :class:`MultiTargetNetwork` that `torch.export` can export, with the same state dict.

    Its outputs are those of the network up to rounding. It also has second derivatives.

    Args:
        network: the network whose modules it shares; :meth:`of` copies them.
    """

    def __init__(self, network: MultiTargetNetwork) -> None:
        super().__init__()
        self.config = network.config
        self.basis = network.basis
        self.featurization = network.featurization
        self.output_blocks = network.output_blocks
        self._intensive: Tensor | None
        self.register_buffer("_intensive", network._intensive, persistent=False)

    @classmethod
    def of(cls, network: MultiTargetNetwork) -> PlainNetwork:
        """A plain network with a copy of the network's weights."""
        return cls(copy.deepcopy(network))

    def forward(self, elements: Tensor, positions: Tensor, real: Tensor) -> Tensor:
        """Predict normalised targets.

        Args:
            elements: ``[M, N]`` indices of the atoms' elements, int64; anything valid in padding.
            positions: ``[M, N, 3]`` in Å; anything in padding.
            real: ``[M, N]`` whether the atom exists, bool.

        Returns:
            ``[M, T]``: (t̂ - s)/σ for every molecule and target (Eqs 16 and 17). A molecule without
            atoms has 0, or NaN for an intensive target.
        """
        pairs = self._pairs(positions, real)
        scalars = nn.functional.embedding(elements, self.featurization.embedding)[:, None]
        vectors = scalars.new_zeros(*scalars.shape[:2], 3, scalars.shape[2], 0)
        for number, block in enumerate(self.featurization.blocks):
            out = _block(block, scalars, vectors, pairs)
            if number > 0 and self.featurization.residual:
                scalars = (scalars + out[0]) * math.sqrt(0.5)
                vectors = (vectors + out[1]) * math.sqrt(0.5)
            else:
                scalars, vectors = out
        for block in self.output_blocks.blocks:
            scalars, vectors = _block(block, scalars, vectors, pairs)
        x = scalars
        for number, layer in enumerate(self.output_blocks.atom_wise):
            x = _atom_wise(layer, self.output_blocks.activation(x) if number > 0 else x)
        total = torch.where(real[:, None], x[..., 0], 0.0).sum(-1)
        if self._intensive is None:
            return total
        return torch.where(self._intensive, total / real.sum(1, keepdim=True), total)

    def _pairs(self, positions: Tensor, real: Tensor) -> Pairs:
        place = torch.arange(positions.shape[1], device=positions.device)
        exists = real[:, :, None] & real[:, None, :] & (place[:, None] != place)
        offset = positions[:, None, :, :] - positions[:, :, None, :]  # [M, a, b, 3]: from a to b
        # Only the difference is rounded to the weights' type, so atoms may be far from the origin.
        offset = torch.where(exists[..., None], offset, 0.0).to(self.basis.centres.dtype)
        square = offset.square().sum(-1)
        # The root has no derivative at zero, so it is taken of another number there.
        apart = square > 0
        length = torch.where(apart, square, 1.0).sqrt()
        distance = torch.where(apart, length, 0.0)
        near = exists & (distance <= self.basis.maximum_angstrom)
        direction = (offset / length[..., None]).permute(0, 3, 1, 2)
        return Pairs(near, self._basis(distance[..., None]), direction)

    def _basis(self, distance: Tensor) -> Tensor:
        """The formulas of :class:`hpsearch.nn.radial.RadialBasis`, up to the maximum."""
        maximum, centres = self.basis.maximum_angstrom, self.basis.centres
        x = (distance - centres) / self.basis.spacing
        if self.config.radial_basis == "cosine":
            return torch.cos(0.5 * math.pi * x.clamp(-1.0, 1.0)).square()
        if self.config.radial_basis == "gaussian":
            return torch.exp(-0.5 * x.square())
        frequency = torch.arange(1, len(centres) + 1, dtype=x.dtype, device=x.device)
        frequency = frequency * (math.pi / maximum)
        return math.sqrt(2.0 / maximum) * frequency * torch.sinc(distance * frequency / math.pi)


def _block(
    block: nn.Module, scalars: Tensor, vectors: Tensor, pairs: Pairs
) -> tuple[Tensor, Tensor]:
    """A convolution & gated block.

    Scalars are ``[M, T or 1, N, S]`` and vectors ``[M, T or 1, 3, N, V]``; the results have T.
    """
    assert isinstance(block, ConvolutionBlock)
    # Rounding leaves the radial MLP of a pair without basis functions near zero, not at zero.
    g = _radial(block.radial, pairs.phi) * pairs.near[:, None, :, :, None]
    scalars, vectors = _convolution(block.convolution, scalars, vectors, pairs.direction, g)
    gate = block.gate
    gates = gate.gate(scalars[..., gate.offset :])
    return gate.activation.in_torch(scalars[..., : gate.offset]), vectors * gates[:, :, None]


def _radial(mlp: RadialMLP, phi: Tensor) -> Tensor:
    """``[M, N, N, B]`` to g(d) ``[M, T, N, N, H]``."""
    g = mlp.activation.in_torch(_linear(phi[:, None], mlp.first * mlp.first_scale))
    for layer in mlp.hidden:
        g = mlp.activation.in_torch(_atom_wise(layer, g))
    return g


def _convolution(
    of: Convolution, scalars: Tensor, vectors: Tensor, direction: Tensor, g: Tensor
) -> tuple[Tensor, Tensor]:
    """Eq. 3 plus the self-term, in the order of sums of `hpsearch.nn.convolution`."""
    S = scalars * of.from_scalar  # [M, T, b, S]
    V = (vectors * of.from_vector)[:, :, :, None]  # [M, T, 3, 1, b, V]
    u = direction[:, None, ..., None]  # [M, 1, 3, a, b, 1]
    along = (u * V).sum(2)  # û·V: [M, T, a, b, V]

    shape = (*along.shape[:-1], S.shape[-1])
    x = torch.cat((S[:, :, None].expand(shape), along), dim=-1)
    sums = torch.einsum("mtabh,mtabc->mtahc", g, x)
    into_scalars = torch.einsum("mtahc,tuhc->mtau", sums, of.to_scalars)

    z = torch.einsum("mtbv,tvhu->mtbhu", S, of.scalars_to_vectors)
    messages = torch.einsum("mtabh,mtbhu->mtabu", g, z)
    into_vectors = torch.einsum("miab,mtabu->mtiau", direction * math.sqrt(3), messages)
    if of.vectors_to_vectors.numel() > 0:
        paths = (
            (V * math.sqrt(1 / 3)).expand(*u.shape[:1], *V.shape[1:3], *u.shape[3:5], V.shape[-1]),
            torch.linalg.cross(V, u, dim=2) * math.sqrt(1 / 2),
            (u * along[:, :, None] - V / 3) * math.sqrt(3 / 2),
        )
        sums = torch.einsum("mtabh,mtiabc->mtiahc", g, torch.cat(paths, dim=-1))
        into_vectors = into_vectors + torch.einsum(
            "mtiahc,tuhc->mtiau", sums, of.vectors_to_vectors
        )

    scale = of.effective_neighbours.rsqrt()[..., None, None]  # [2, T, 1, 1]
    return (
        _atom_wise(of.self_scalars, scalars) + into_scalars * (scale[0] * of.share[0]),
        _atom_wise(of.self_vectors, vectors) + into_vectors * (scale[1, :, None] * of.share[1]),
    )


def _atom_wise(layer: nn.Module, x: Tensor) -> Tensor:
    """``[M, T or 1, ..., c]`` to ``[M, T, ..., u]``."""
    assert isinstance(layer, AtomWise)
    y = _linear(x, layer.weight * layer.scale)
    return y if layer.bias is None else y + layer.bias


def _linear(x: Tensor, w: Tensor) -> Tensor:
    return torch.einsum("mt...c,tuc->mt...u", x, w)

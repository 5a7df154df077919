r"""The convolution of Eq. 3, normalised by Eq. 13, summed over neighbours before it is weighted.

Eq. 3 for one output feature u of atom a, with the constants of each path written out (real
Clebsch-Gordan coefficients with Σ C² = 1, spherical harmonics with ∫Y² = 1, û from a to b)::

    l_out l_in l_f   Σ_jk C_ijk Y_k F_j n sqrt(m_lin)          m_lin = (Σ_v 1)(Σ_lin 1)
      0    0   0     S
      0    1   1     û·V
      1    0   1     sqrt(3) û S
      1    1   0     sqrt(1/3) V
      1    1   1     sqrt(1/2) V × û
      1    1   2     sqrt(3/2) (û (û·V) - V/3)

Every one has unit second moment per component when S and V have. The radial function is the last,
linear layer of the radial MLP, R_uv(d) = Σ_h W_uvh g_h(d)/sqrt(H). So Eq. 3 is linear in W, and W
can be applied after (or before) the sum over neighbours; nothing of the size edges x u x v exists:

- into scalars, *aggregate first*: A_a[h,c] = Σ_b g_h(d_ab) T_ab[c] with T = [S ; û·V], a small
  product per atom, then out_a[u] = Σ_hc A_a[h,c] W[h,c,u], one tall product over atoms;
- vectors into vectors likewise, T having three components i, which share the weights;
- scalars into vectors, *transform first*: Z_b[h,u] = Σ_v S_b[v] W[v,h,u], then
  M_ba[u] = Σ_h g_h(d_ab) Z_b[h,u], then out_a[i,u] = Σ_b sqrt(3) û_i M_ba[u].

The rule: apply W where the tensor is a scalar, since there it has one component and not three.
"""

# T copies, A atoms, K neighbour slots, P unordered pairs, H hidden neurons of the radial MLP,
# S scalars in, V vectors in, u0 scalars out, u1 vectors out

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hpsearch.nn.atom_wise import AtomWise
from hpsearch.nn.features import Degrees, Features
from hpsearch.nn.neighbourhoods import Neighbourhoods


class _SpreadPairs(torch.autograd.Function):
    """``[P, H]`` values of unordered pairs to ``[A, K, H]`` slots; zero in unused slots."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, pair: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        padded = torch.cat((values, values.new_zeros(1, values.shape[1])))
        return padded[pair]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # A pair has exactly two slots: two gathers, where autograd would scatter.
        (slots,) = ctx.saved_tensors
        flat = gradients[0].flatten(0, 1)
        return flat[slots[0]] + flat[slots[1]], None, None


def _spread_pairs(values: Tensor, pairs: Neighbourhoods) -> Tensor:
    spread: Tensor = _SpreadPairs.apply(values, pairs.pair, pairs.slots)  # type: ignore[no-untyped-call]
    return spread


class Convolution(nn.Module):
    """Eq. 3 plus the self-term, for each of T copies that share nothing.

    Eq. 13 does not count the neighbours: the sum over them is divided by the square root of their
    effective number, which :meth:`calibrate` measures. The pair a = a is replaced by a linear map
    of each degree (docs/decisions/0011); the two terms are added and divided by sqrt(2).

    Args:
        copies: T.
        degrees_in: features of each atom that enter.
        degrees_out: features that leave.
        hidden: H, width of the radial MLP.

    Attributes:
        effective_neighbours: ``[T]`` what the second moment of the neighbours' sum is divided by.
        to_scalars: ``[T, H, S + V, u0]`` weights of the paths (0,0,0) and (0,1,1).
        scalars_to_vectors: ``[T, S, H, u1]`` weights of the path (1,0,1).
        vectors_to_vectors: ``[T, H, 3 V, u1]`` weights of (1,1,0), (1,1,1), (1,1,2), in that order.
    """

    effective_neighbours: Tensor

    def __init__(
        self,
        copies: int,
        degrees_in: Degrees,
        degrees_out: Degrees,
        hidden: int,
    ) -> None:
        super().__init__()
        S, V = degrees_in
        u0, u1 = degrees_out
        self.degrees_out = degrees_out
        self.to_scalars = nn.Parameter(torch.randn(copies, hidden, S + V, u0))
        self.scalars_to_vectors = nn.Parameter(torch.randn(copies, S, hidden, u1))
        self.vectors_to_vectors = nn.Parameter(torch.randn(copies, hidden, 3 * V, u1))
        self.self_scalars = AtomWise(copies, S, u0, bias=False)
        self.self_vectors = AtomWise(copies, V, u1, bias=False)
        self.register_buffer("effective_neighbours", torch.ones(copies))
        common = (hidden * degrees_in.present) ** -0.5
        self.from_scalar = common * max(S, 1) ** -0.5
        self.from_vector = common * max(V, 1) ** -0.5

    def forward(self, features: Features, pairs: Neighbourhoods, radial: Tensor) -> Features:
        """Convolve.

        Args:
            features: ``[T or 1, A, ...]``.
            pairs: the neighbourhoods.
            radial: ``[T, P, H]``, the radial MLP's last hidden layer.

        Returns:
            Features of ``degrees_out``, ``[T, A, ...]``.
        """
        neighbours = self.neighbour_sum(features, pairs, radial)
        scale = self.effective_neighbours.rsqrt()[:, None, None]
        own = self._self_term(features)
        return Features(
            (neighbours.scalars * scale + own.scalars) * math.sqrt(0.5),
            (neighbours.vectors * scale[..., None] + own.vectors) * math.sqrt(0.5),
        )

    @torch.no_grad()
    def calibrate(self, features: Features, pairs: Neighbourhoods, radial: Tensor) -> None:
        """Measure the effective number of neighbours: the second moment of the sum over them.

        Neighbours count fully only as far as their contributions are independent; after a softplus
        they are not, and with a mean number of atoms in its place the features of deep networks
        grow from block to block (docs/decisions/0010). Never below one, so nothing is amplified
        where most atoms have no neighbour.
        """
        total = self.neighbour_sum(features, pairs, radial)
        components = torch.cat((total.scalars.flatten(1), total.vectors.flatten(1)), dim=1)
        self.effective_neighbours.copy_(components.square().mean(1).clamp(min=1.0))

    def neighbour_sum(self, features: Features, pairs: Neighbourhoods, radial: Tensor) -> Features:
        """Eq. 3 itself, normalised by Eq. 13; arguments and result as of the convolution."""
        shared = features.scalars.shape[0] == 1
        inputs = [
            self._inputs(Features(scalars, vectors), pairs)
            for scalars, vectors in zip(features.scalars, features.vectors, strict=True)
        ]
        convolved = [
            self._convolve(inputs[0 if shared else t], pairs, g, *weights)
            for t, (g, *weights) in enumerate(
                zip(
                    radial.unbind(),
                    self.to_scalars.unbind(),
                    self.scalars_to_vectors.unbind(),
                    self.vectors_to_vectors.unbind(),
                    strict=True,
                )
            )
        ]
        return Features(
            torch.stack([scalars for scalars, _ in convolved]),
            torch.stack([vectors for _, vectors in convolved]),
        )

    def _inputs(self, features: Features, pairs: Neighbourhoods) -> tuple[Tensor, Tensor, Tensor]:
        """What does not depend on weights: both T and the scaled scalars.

        Returns:
            ``[A, K, S + V]``, ``[A, K, 3, 3 V]`` and ``[A, S]``.
        """
        scalars = features.scalars * self.from_scalar
        T_scalar = scalars[pairs.neighbour]
        if features.degrees.vectors == 0:
            empty = scalars.new_zeros(*pairs.neighbour.shape, 3, 0)
            return T_scalar, empty, scalars
        V = (features.vectors * self.from_vector)[pairs.neighbour]  # [A, K, 3, V]
        u = pairs.direction[..., None]
        along = (u * V).sum(2)
        T_vector = torch.cat(
            (
                V * math.sqrt(1 / 3),
                torch.linalg.cross(V, u.expand_as(V), dim=2) * math.sqrt(1 / 2),
                (u * along[:, :, None] - V / 3) * math.sqrt(3 / 2),
            ),
            dim=-1,
        )
        return torch.cat((T_scalar, along), dim=-1), T_vector, scalars

    def _convolve(
        self,
        inputs: tuple[Tensor, Tensor, Tensor],
        pairs: Neighbourhoods,
        radial: Tensor,
        to_scalars: Tensor,
        scalars_to_vectors: Tensor,
        vectors_to_vectors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One copy: ``[A, u0]`` scalars and ``[A, 3, u1]`` vectors."""
        T_scalar, T_vector, scalars = inputs
        A, K = pairs.pair.shape
        u1 = self.degrees_out.vectors
        g = _spread_pairs(radial, pairs)  # [A, K, H]
        g_transposed = g.transpose(1, 2)

        out_scalars = torch.bmm(g_transposed, T_scalar).flatten(1) @ to_scalars.flatten(0, 1)
        out_vectors = scalars.new_zeros(A, 3, u1)
        if u1 and scalars.shape[1]:
            Z = (scalars @ scalars_to_vectors.flatten(1)).view(A, -1, u1)
            M = torch.bmm(g, Z).view(A * K, u1)[pairs.reverse]
            out_vectors = torch.bmm(pairs.direction.transpose(1, 2) * math.sqrt(3), M)
        if u1 and T_vector.shape[-1]:
            aggregate = torch.bmm(g_transposed, T_vector.flatten(2)).view(A, g.shape[2], 3, -1)
            aggregate = aggregate.transpose(1, 2).flatten(2).flatten(0, 1)
            product = aggregate @ vectors_to_vectors.flatten(0, 1)
            out_vectors = out_vectors + product.view(A, 3, u1)
        return out_scalars, out_vectors

    def _self_term(self, features: Features) -> Features:
        vectors = features.vectors
        mixed = self.self_vectors(vectors.flatten(1, 2))
        return Features(
            self.self_scalars(features.scalars),
            mixed.view(*mixed.shape[:1], *vectors.shape[1:3], mixed.shape[2]),
        )

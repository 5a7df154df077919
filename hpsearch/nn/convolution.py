r"""The convolution of Eq. 3, normalised by Eq. 13; the order of its sums makes it cheap.

Eq. 3 for one output feature u of atom a, with the constants of every path written out (real
Clebsch-Gordan coefficients with Σ C² = 1, spherical harmonics with ∫Y² = 1, û from a to b)::

    l_out l_in l_f   Σ_jk C_ijk Y_k F_j n sqrt(m_lin)          m_lin = (Σ_v 1)(Σ_lin 1)
      0    0   0     S
      0    1   1     û·V
      1    0   1     sqrt(3) û S
      1    1   0     sqrt(1/3) V
      1    1   1     sqrt(1/2) V × û
      1    1   2     sqrt(3/2) (û (û·V) - V/3)

If S and V have unit second moments, the first three rows have unit second moment per component. The
last three rows are added, and each has a third. The radial function is the last, linear layer of
the radial MLP, R_uv(d) = Σ_h W_uvh g_h(d)/sqrt(H). So Eq. 3 is linear in W, and W can be applied
before or after the sum over neighbours. No array of size edges x u x v is needed:

- into scalars, *aggregate first*: A_a[h,c] = Σ_b g_h(d_ab) X_ab[c] with X = [S ; û·V], a small
  product per atom; then out_a[u] = Σ_hc W[u,h,c] A_a[h,c], one tall product over atoms;
- vectors into vectors in the same way: X_i = [V ; V × û ; û (û·V) - V/3]_i for each component i,
  with the same weights for all three;
- scalars into vectors, *transform first*: Z_b[h,u] = Σ_v W[v,h,u] S_b[v], then
  M_ba[u] = Σ_h g_h(d_ab) Z_b[h,u], then out_a[i,u] = Σ_b sqrt(3) û_i M_ba[u].

The rule: apply W to the scalar quantity, since it has one component and not three.

The backward pass is written by hand. Automatic differentiation would store the A of every copy
(hundreds of megabytes) and would scatter where a gather suffices; here A is computed again. With
G = ∂L/∂out and all sums as above::

    ∂W = Gᵀ A        ∂A = G W        ∂g_ab = X_ab ∂A_aᵀ      ∂X_ab = g_ab ∂A_a

For the transformed path, with ∂M = sqrt(3) û·G from the other end of the pair: ∂g = ∂M Zᵀ,
∂Z = gᵀ ∂M, ∂W = Sᵀ ∂Z, ∂S = ∂Z Wᵀ. These are the equations above with ∂M for X, S for G and ∂S for
out. So weights are stored as ``[T, u, H, c]`` if they act last and as ``[T, v, H, u]`` if they act
first, and both use the same products (`hpsearch.kernels.slots`). Second derivatives are not
implemented.
"""

# T copies, A atoms, K neighbour slots of an atom, P unordered pairs, H hidden neurons of the radial
# MLP, S input scalars, V input vectors, u0 output scalars, u1 output vectors

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpsearch.config.architecture import Degrees
from hpsearch.kernels.neighbourhoods import Neighbourhoods
from hpsearch.kernels.products import stacked_linear
from hpsearch.kernels.slot_inputs import directed, directed_sum, mirrored, slot_inputs
from hpsearch.kernels.slots import slot_products
from hpsearch.nn.atom_wise import AtomWise
from hpsearch.nn.features import Features


class _NeighbourSum(torch.autograd.Function):
    """The sum over neighbours: a loop over the T copies, with a few large products in each."""

    @staticmethod
    def forward(
        ctx: Any,
        neighbourhoods: Neighbourhoods,
        into_scalars: Tensor,
        into_vectors: Tensor,
        scalars: Tensor,
        direction: Tensor,
        radial: Tensor,
        w_s: Tensor,
        w_sv: Tensor,
        w_vv: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.neighbourhoods = neighbourhoods
        T, u0, u1 = w_s.shape[0], w_s.shape[1], w_vv.shape[1]
        A = len(neighbourhoods.pair)
        out_scalars = scalars.new_empty(T, A, u0)
        out_vectors = scalars.new_zeros(T, 3, A, u1)
        for t in range(T):
            n = t if len(scalars) > 1 else 0
            products = slot_products(neighbourhoods, radial[t])
            out_scalars[t] = products.convolve(into_scalars[n : n + 1], w_s[t])[0]
            if w_sv.numel():
                m = products.transform(scalars[n : n + 1], w_sv[t])[0]
                out_vectors[t] = directed_sum(m, neighbourhoods)
            if w_vv.numel():
                out_vectors[t] += products.convolve(into_vectors[n], w_vv[t])
        ctx.save_for_backward(into_scalars, into_vectors, scalars, radial, w_s, w_sv, w_vv)
        return out_scalars, out_vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        G_scalars, G_vectors = gradients
        neighbourhoods = ctx.neighbourhoods
        into_scalars, into_vectors, scalars, radial, w_s, w_sv, w_vv = ctx.saved_tensors
        inputs = into_scalars, into_vectors, scalars, neighbourhoods.direction
        wanted = ctx.needs_input_grad[1:5]
        # Unused slots are read only on the way to the gradient of the positions.
        empty = torch.zeros_like if wanted[3] else torch.empty_like
        d_into_scalars, d_into_vectors = (
            empty(x) if want else None for x, want in zip(inputs[:2], wanted[:2], strict=True)
        )
        d_scalars, d_direction = (
            torch.zeros_like(x) if want else None
            for x, want in zip(inputs[2:], wanted[2:], strict=True)
        )
        d_radial = torch.empty_like(radial)
        dw_s, dw_sv, dw_vv = (torch.empty_like(w) for w in (w_s, w_sv, w_vv))
        for t in range(w_s.shape[0]):
            n = t if len(scalars) > 1 else 0
            fresh = t == n  # the first copy that uses these features
            part = slice(n, n + 1)
            products = slot_products(neighbourhoods, radial[t], d_radial[t])

            x, dx = into_scalars[part], None if d_into_scalars is None else d_into_scalars[part]
            products.pull_back_convolve(x, w_s[t], G_scalars[t : t + 1], dx, dw_s[t], fresh)

            if w_sv.numel():
                if d_direction is not None:
                    m = mirrored(products.transform(scalars[part], w_sv[t])[0], neighbourhoods)
                    d_direction += torch.bmm(m, G_vectors[t].permute(1, 2, 0)) * math.sqrt(3)
                dM = directed(G_vectors[t], neighbourhoods)[None]
                products.pull_back_convolve(dM, w_sv[t], scalars[part], None, dw_sv[t])
                if d_scalars is not None:
                    d_scalars[part] += products.convolve(dM, w_sv[t])

            if w_vv.numel():
                x, dx = into_vectors[n], None if d_into_vectors is None else d_into_vectors[n]
                products.pull_back_convolve(x, w_vv[t], G_vectors[t], dx, dw_vv[t], fresh)
            products.finish()
        return (
            None,
            d_into_scalars,
            d_into_vectors,
            d_scalars,
            d_direction,
            d_radial,
            dw_s,
            dw_sv,
            dw_vv,
        )


class Convolution(nn.Module):
    """Eq. 3 plus the self-term, in T independent copies.

    Eq. 13 does not normalise by the number of neighbours. So the sum over them is divided by the
    square root of their effective number, which :meth:`calibrate` measures. The pair a = a is
    replaced by the self-term, a linear map of each degree (docs/decisions/0011). If a degree has
    both terms, they are added and divided by sqrt(2). A degree without input features has no
    self-term.

    Args:
        copies: T.
        degrees_in: input features of an atom.
        degrees_out: output features of an atom.
        hidden: H, width of the radial MLP.

    Attributes:
        effective_neighbours: ``[2, T]`` divisor of the second moment of the neighbours' sum, for
            scalars and for vectors.
        to_scalars: ``[T, u0, H, S + V]`` weights of the paths (0,0,0) and (0,1,1).
        scalars_to_vectors: ``[T, S, H, u1]`` weights of the path (1,0,1).
        vectors_to_vectors: ``[T, u1, H, 3 V]`` weights of (1,1,0), (1,1,1), (1,1,2), in that order.
    """

    effective_neighbours: Tensor

    def __init__(self, copies: int, degrees_in: Degrees, degrees_out: Degrees, hidden: int) -> None:
        super().__init__()
        S, V = degrees_in
        u0, u1 = degrees_out
        self.to_scalars = nn.Parameter(torch.randn(copies, u0, hidden, S + V))
        # Drawn in the layout of earlier versions, so that a seed still gives the same network.
        drawn = torch.randn(copies, hidden, u1, S).permute(0, 3, 1, 2)
        self.scalars_to_vectors = nn.Parameter(drawn.contiguous())
        self.vectors_to_vectors = nn.Parameter(torch.randn(copies, u1, hidden, 3 * V))
        self.share = tuple(math.sqrt(0.5) if entering else 1.0 for entering in degrees_in)
        self.self_scalars = AtomWise(copies, S, u0, bias=False, gain=self.share[0])
        self.self_vectors = AtomWise(copies, V, u1, bias=False, gain=self.share[1])
        self.register_buffer("effective_neighbours", torch.ones(2, copies))
        common = (hidden * degrees_in.present) ** -0.5
        self.from_scalar = common * max(S, 1) ** -0.5
        self.from_vector = common * max(V, 1) ** -0.5

    def forward(
        self,
        features: Features,
        neighbourhoods: Neighbourhoods,
        radial: Tensor,
        embedding: Tensor | None = None,
    ) -> Features:
        """Convolve.

        Args:
            features: ``[T or 1, A, ...]``; one-hot elements if an embedding is given.
            neighbourhoods: the neighbours of every atom.
            radial: ``[T, P, H]``, the radial MLP's last hidden layer.
            embedding: ``[elements, S]``; if given, its rows are the input features.

        Returns:
            Features of ``degrees_out``, ``[T, A, ...]``.
        """
        neighbours = self.neighbour_sum(features, neighbourhoods, radial, embedding)
        scalar_scale, vector_scale = self.effective_neighbours.rsqrt()
        own = self._self_term(features, embedding)
        return Features(
            torch.addcmul(
                own.scalars, neighbours.scalars, scalar_scale[:, None, None] * self.share[0]
            ),
            torch.addcmul(
                own.vectors, neighbours.vectors, vector_scale[:, None, None, None] * self.share[1]
            ),
        )

    @torch.no_grad()
    def second_moments(
        self,
        features: Features,
        neighbourhoods: Neighbourhoods,
        radial: Tensor,
        embedding: Tensor | None = None,
    ) -> Tensor:
        """``[2, T]`` second moments of the sum over neighbours, for scalars and for vectors.

        A degree without output features has 1. Arguments are those of :meth:`forward`.
        """
        total = self.neighbour_sum(features, neighbourhoods, radial, embedding)
        moments = torch.ones_like(self.effective_neighbours)
        for moment, part in zip(moments, total, strict=True):
            if part.numel():
                moment.copy_(part.flatten(1).square().mean(1))
        return moments

    @torch.no_grad()
    def calibrate(self, second_moments: Tensor) -> None:
        """Use the measured second moments as the effective number of neighbours.

        It equals the number of neighbours only if their contributions are independent. Scalars
        after a softplus are not: they add up, so the effective number is larger. Directions cancel,
        so it is smaller for vectors. With the mean number of neighbours, the scalars of deep
        networks would grow from block to block and the vectors would shrink (docs/decisions/0010).
        The value is at least 0.1, which limits the amplification if most atoms have no neighbour.

        Args:
            second_moments: ``[2, T]``, from :meth:`second_moments`.
        """
        self.effective_neighbours.copy_(second_moments.clamp(min=0.1))

    def neighbour_sum(
        self,
        features: Features,
        neighbourhoods: Neighbourhoods,
        radial: Tensor,
        embedding: Tensor | None = None,
    ) -> Features:
        """Eq. 3 normalised by Eq. 13, without the self-term; arguments as in :meth:`forward`."""
        w_s: Tensor = self.to_scalars
        w_sv: Tensor = self.scalars_to_vectors
        if embedding is not None:
            # W (E x) = (W E) x: with a one-hot x this is a convolution over five elements.
            w_s = stacked_linear(w_s.flatten(0, 2)[None], embedding[None])
            w_s = w_s.view(*self.to_scalars.shape[:3], len(embedding))
            # A loop, because it is faster than a batch of products.
            w_sv = torch.stack([(embedding @ w.flatten(1)).unflatten(1, w.shape[1:]) for w in w_sv])
        scalars = features.scalars * self.from_scalar
        vectors = features.vectors * self.from_vector
        into_scalars, into_vectors = slot_inputs(
            scalars, vectors, neighbourhoods, self.vectors_to_vectors.numel() > 0
        )
        out: tuple[Tensor, Tensor] = _NeighbourSum.apply(  # type: ignore[no-untyped-call]
            neighbourhoods,
            into_scalars,
            into_vectors,
            scalars,
            neighbourhoods.direction,
            radial,
            w_s,
            w_sv,
            self.vectors_to_vectors,
        )
        return Features(*out)

    def _self_term(self, features: Features, embedding: Tensor | None) -> Features:
        scalars, vectors = features
        if embedding is not None:
            scalars = scalars @ embedding
        mixed = self.self_vectors(vectors.flatten(1, 2))
        return Features(
            self.self_scalars(scalars),
            mixed.view(mixed.shape[0], *vectors.shape[1:3], mixed.shape[2]),
        )

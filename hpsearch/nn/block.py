"""The convolution & gated block: Eq. 3 followed by the gated nonlinearity of section 2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpsearch.config.architecture import Degrees
from hpsearch.kernels.activations import sigmoid, softplus
from hpsearch.kernels.neighbourhoods import Neighbourhoods
from hpsearch.nn.convolution import Convolution
from hpsearch.nn.features import Features
from hpsearch.nn.radial import RadialBasis, RadialMLP


class GatedBlock(nn.Module):
    """Scalars through softplus; every vector times the sigmoid of its own gate, a scalar.

    L(F_u^0) = Softplus(F̃_u^0) and L(F_u^1) = Sigmoid(F̃_{u+O}^0) F̃_u^1. The convolution before it
    emits one gate per vector, as extra scalars after the others (offset O).

    Args:
        degrees_out: output features.
        beta: sharpness of the softplus.
    """

    def __init__(self, degrees_out: Degrees, beta: float) -> None:
        super().__init__()
        self.offset = degrees_out.scalars
        self.activation = softplus(beta)
        self.gate = sigmoid()

    def forward(self, features: Features) -> Features:
        """Apply the nonlinearity to features whose last scalars are the gates."""
        widths = [self.offset, features.scalars.shape[-1] - self.offset]
        scalars, gates = torch.split(features.scalars, widths, dim=-1)
        return Features(self.activation(scalars), features.vectors * self.gate(gates)[:, None])


class ConvolutionBlock(nn.Module):
    """A radial MLP, a convolution and a gated block, in T copies.

    Args:
        copies: T, independent blocks.
        degrees_in: input features.
        degrees_out: output features.
        basis: the radial basis; all copies share it, since it has no weights.
        radial_layers: hidden layers of the radial MLP.
        radial_neurons: width of the radial MLP.
        beta: sharpness of the softplus activations.
    """

    def __init__(
        self,
        copies: int,
        degrees_in: Degrees,
        degrees_out: Degrees,
        basis: RadialBasis,
        *,
        radial_layers: int,
        radial_neurons: int,
        beta: float,
    ) -> None:
        super().__init__()
        gated = Degrees(degrees_out.scalars + degrees_out.vectors, degrees_out.vectors)
        self.radial = RadialMLP(copies, basis, radial_layers, radial_neurons, beta)
        self.convolution = Convolution(copies, degrees_in, gated, radial_neurons)
        self.gate = GatedBlock(degrees_out, beta)

    def forward(
        self,
        features: Features,
        neighbourhoods: Neighbourhoods,
        phi: Tensor,
        embedding: Tensor | None = None,
    ) -> Features:
        """``[T or 1, A, ...]`` to ``[T, A, ...]``, with the radial basis ``phi`` ``[P, B]``.

        With an embedding, the input features are one-hot elements; see :class:`Convolution`.
        """
        out: Features = self.gate(
            self.convolution(features, neighbourhoods, self.radial(phi), embedding)
        )
        return out

"""The networks of the experiment, built from the layers of :mod:`hpsearch.nn`."""

# M systems, A sites, S scalars, V vectors, T copies (here always one)

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from hpsearch.config.run import NetworkConfig
from hpsearch.dipoles.systems import Systems
from hpsearch.nn import Degrees, Features, MultiTargetNetwork, Neighbourhoods
from hpsearch.nn.atom_wise import AtomWise
from hpsearch.nn.block import ConvolutionBlock
from hpsearch.nn.convolution import Convolution
from hpsearch.nn.network import OutputBlocks
from hpsearch.nn.radial import RadialBasis

SCALARS_GIVEN = 2
"""Number of input scalars: |p_a| and the constant 1."""


def features_given(systems: Systems, vectors: int) -> Features:
    """The input features of every site: |p_a|, 1 and, with ``vectors`` = 1, p_a itself.

    Returns:
        Features ``[1, A, 2]`` and ``[1, 3, A, vectors]``; a site without a dipole has zeros.
    """
    magnitude = systems.vectors.norm(dim=1)
    scalars = torch.stack((magnitude, torch.ones_like(magnitude)), dim=1)
    rotating = systems.vectors.T[..., None].expand(-1, -1, vectors)
    return Features(scalars[None], rotating[None])


class Estimator(nn.Module, ABC):
    """Estimates p² = |p1 + p2|² of systems, after :meth:`calibrate`."""

    @abstractmethod
    def calibrate(self, systems: Systems) -> None:
        """Normalise a new network on some training systems."""

    @abstractmethod
    def forward(self, systems: Systems) -> Tensor:
        """``[M]`` estimates in (e Å)²."""

    @property
    def weights(self) -> int:
        """Number of trainable weights."""
        return sum(parameter.numel() for parameter in self.parameters())


class ScalarReadout(Estimator):
    """The paper's output block: convolution & gated blocks, then atom-wise layers on scalars.

    Its input is the given features, in place of those of a featurization.

    Args:
        config: ``featurization_scalars`` and ``featurization_vectors`` are the input features.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.basis = _basis(config)
        self.blocks = OutputBlocks(config, 1, self.basis)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def calibrate(self, systems: Systems) -> None:
        """See the base class."""
        with torch.no_grad():
            _calibrate_convolutions(self, systems)
            self.blocks.last_bias.sub_(self._per_site(systems)[0].mean())
        _set_shift_and_scale(self, systems)

    def forward(self, systems: Systems) -> Tensor:
        """See the base class."""
        per_site, neighbourhoods = self._per_site(systems)
        total = per_site.new_zeros(neighbourhoods.molecules).index_add(
            0, neighbourhoods.molecule, per_site
        )
        return self.mean + self.deviation * total

    def _per_site(self, systems: Systems) -> tuple[Tensor, Neighbourhoods]:
        neighbourhoods = _neighbourhoods(systems, self.config)
        given = features_given(systems, self.config.featurization_vectors)
        out: Tensor = self.blocks(given, neighbourhoods, self.basis(neighbourhoods.distance))
        return out[0], neighbourhoods


class VectorReadout(Estimator):
    """One convolution & gated block, then |Σ_a W V_a|²: the dipoles are added as vectors.

    No network of the paper ends like this. It shows that the vectors suffice: the error of the
    paper's L1Net on two sites remains because it turns vectors into scalars too early.

    Args:
        config: as in :class:`ScalarReadout`; ``output_scalars`` and ``output_vectors`` are the
            output features of the block.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.basis = _basis(config)
        self.block = ConvolutionBlock(
            1,
            Degrees(config.featurization_scalars, config.featurization_vectors),
            Degrees(config.output_scalars, config.output_vectors),
            self.basis,
            radial_layers=config.radial_mlp_layers,
            radial_neurons=config.radial_mlp_neurons,
            beta=config.softplus_beta,
        )
        self.mix = AtomWise(1, config.output_vectors, 1, bias=False)

    def calibrate(self, systems: Systems) -> None:
        """See the base class."""
        with torch.no_grad():
            _calibrate_convolutions(self, systems)

    def forward(self, systems: Systems) -> Tensor:
        """See the base class."""
        neighbourhoods = _neighbourhoods(systems, self.config)
        given = features_given(systems, self.config.featurization_vectors)
        vectors = self.block(given, neighbourhoods, self.basis(neighbourhoods.distance)).vectors
        per_site: Tensor = self.mix(vectors.flatten(1, 2)).view(3, -1)
        total = per_site.new_zeros(3, neighbourhoods.molecules).index_add(
            1, neighbourhoods.molecule, per_site
        )
        return total.square().sum(0)


class ChargeNetwork(Estimator):
    """The multi-target network with one target; the sign of a charge acts as its element."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.network = MultiTargetNetwork(config, targets=1)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def calibrate(self, systems: Systems) -> None:
        """See the base class."""
        self.network.calibrate(systems.kinds, systems.positions, systems.counts)
        _set_shift_and_scale(self, systems)

    def forward(self, systems: Systems) -> Tensor:
        """See the base class."""
        out: Tensor = self.network(systems.kinds, systems.positions, systems.counts)
        return self.mean + self.deviation * out[:, 0]


def _basis(config: NetworkConfig) -> RadialBasis:
    return RadialBasis(config.radial_basis, config.radial_functions, config.radial_maximum_angstrom)


def _neighbourhoods(systems: Systems, config: NetworkConfig) -> Neighbourhoods:
    return Neighbourhoods.of(systems.positions, systems.counts, config.radial_maximum_angstrom)


def _set_shift_and_scale(network: ScalarReadout | ChargeNetwork, systems: Systems) -> None:
    """Set the shift and scale of Eq. 16."""
    network.mean.copy_(systems.squared_total.mean())
    network.deviation.copy_(systems.squared_total.std())


def _calibrate_convolutions(network: Estimator, systems: Systems) -> None:
    """Calibrate all convolutions as :meth:`MultiTargetNetwork.calibrate` does."""

    def measure(convolution: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(convolution, Convolution)
        convolution.calibrate(convolution.second_moments(*arguments))

    convolutions = [module for module in network.modules() if isinstance(module, Convolution)]
    hooks = [convolution.register_forward_pre_hook(measure) for convolution in convolutions]
    network(systems)
    for hook in hooks:
        hook.remove()

"""The multi-target network of section 4.3 and Figure 3."""

# T targets, A atoms, M molecules, P unordered pairs

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpsearch.config.architecture import Architecture, ConvolutionLayer
from hpsearch.config.run import NetworkConfig
from hpsearch.config.targets import ELEMENTS
from hpsearch.kernels.activations import relu
from hpsearch.kernels.neighbourhoods import Neighbourhoods
from hpsearch.nn.atom_wise import AtomWise
from hpsearch.nn.block import ConvolutionBlock
from hpsearch.nn.convolution import Convolution
from hpsearch.nn.features import Features
from hpsearch.nn.radial import RadialBasis


class Featurization(nn.Module):
    """The embedding and the convolution & gated blocks that all targets share.

    A residual connection adds a block's input to its output if their widths agree. The first block
    has none, because its input is the embedding. The sum is divided by sqrt(2), which preserves its
    second moment.
    """

    def __init__(self, config: NetworkConfig, basis: RadialBasis, elements: int) -> None:
        super().__init__()
        layers = Architecture.of(config, elements)
        # With a one-hot input every feature is a single weight, so unit-normal needs no scale.
        self.embedding = nn.Parameter(torch.randn(layers.embedding.elements, layers.embedding.size))
        self.residual = config.residual
        self.blocks = nn.ModuleList(
            _block(layer, 1, basis, config.softplus_beta) for layer in layers.featurization
        )

    def forward(self, elements: Tensor, neighbourhoods: Neighbourhoods, phi: Tensor) -> Features:
        """``[A]`` element indices to features ``[1, A, ...]``."""
        one_hot = torch.nn.functional.one_hot(elements, len(self.embedding))
        one_hot = one_hot.to(self.embedding.dtype)[None]
        features = Features(one_hot, one_hot.new_zeros(1, 3, len(elements), 0))
        for number, block in enumerate(self.blocks):
            if number == 0:
                # Both are linear, so the first convolution absorbs the embedding.
                features = block(features, neighbourhoods, phi, self.embedding)
                continue
            out = block(features, neighbourhoods, phi)
            features = _residual(features, out) if self.residual else out
        return features


class OutputBlocks(nn.Module):
    """One output block per target; they share no weights and no gradients.

    An output block consists of convolutions, of which the last emits only scalars, and of atom-wise
    layers with rectified linear units, of which the last emits a single scalar.
    """

    def __init__(self, config: NetworkConfig, targets: int, basis: RadialBasis) -> None:
        super().__init__()
        layers = Architecture.of(config)
        self.blocks = nn.ModuleList(
            _block(layer, targets, basis, config.softplus_beta) for layer in layers.output
        )
        self.atom_wise = nn.ModuleList(
            AtomWise(targets, layer.entering, layer.leaving, bias=True)
            for layer in layers.atom_wise
        )
        self.activation = relu()

    @property
    def last_bias(self) -> Tensor:
        """``[T, 1, 1]`` bias of the layer that emits an atom's contribution."""
        bias = self.atom_wise[-1].bias
        assert isinstance(bias, Tensor)
        return bias

    def forward(self, features: Features, neighbourhoods: Neighbourhoods, phi: Tensor) -> Tensor:
        """Features ``[1, A, ...]`` to the atoms' contributions ``[T, A]``."""
        for block in self.blocks:
            features = block(features, neighbourhoods, phi)
        x = features.scalars
        for number, layer in enumerate(self.atom_wise):
            x = layer(self.activation(x) if number > 0 else x)
        return x.squeeze(-1)


class MultiTargetNetwork(nn.Module):
    """The network of the paper: a shared featurization and one output block per target.

    It predicts normalised targets. The output for a molecule is Σ_a R_a, the sum of Eq. 16; the
    shift and scale of Eq. 16 belong to the statistics of the training molecules. For an intensive
    target the output is the mean of R_a over the atoms.

    Args:
        config: the architecture.
        targets: T, number of output blocks.
        elements: number of different elements.
        extensive: whether each target is a sum over atoms; by default all are.
    """

    def __init__(
        self,
        config: NetworkConfig,
        targets: int,
        elements: int = len(ELEMENTS),
        extensive: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self._intensive: Tensor | None
        is_intensive = None if extensive is None or all(extensive) else ~torch.tensor(extensive)
        # It belongs to the configuration, not to the weights.
        self.register_buffer("_intensive", is_intensive, persistent=False)
        self.basis = RadialBasis(
            config.radial_basis, config.radial_functions, config.radial_maximum_angstrom
        )
        self.featurization = Featurization(config, self.basis, elements)
        self.output_blocks = OutputBlocks(config, targets, self.basis)

    @torch.no_grad()
    def calibrate(
        self, elements: Tensor, positions: Tensor, counts: Tensor, pieces: int = 1
    ) -> None:
        """Normalise a new network on some training molecules before it is trained.

        One convolution after the other measures its effective number of neighbours, so that
        features have a second moment of order one. Then the last bias of every output block is
        set so that the mean contribution of an atom is zero, as section 4.3 assumes.

        Args:
            elements: as in :meth:`forward`.
            positions: as in :meth:`forward`.
            counts: as in :meth:`forward`.
            pieces: parts into which the molecules are cut to need less memory. The result is the
                same up to rounding, but needs one more forward pass than there are convolutions.
        """
        parts = _cut(elements, positions, counts, pieces)
        convolutions = [module for module in self.modules() if isinstance(module, Convolution)]
        rounds = [convolutions]
        if len(parts) > 1:
            # A convolution can be measured once those before it have been set on all parts.
            rounds = [*([convolution] for convolution in convolutions), []]
        for measured in rounds:
            mean = self._measure(measured, parts)
        self.output_blocks.last_bias.sub_(mean[:, None, None])

    def _measure(self, convolutions: list[Convolution], parts: list[_Batch]) -> Tensor:
        """Calibrate ``convolutions`` over all parts; return the mean contribution of an atom.

        Several convolutions are possible only with a single part: each is set before it is used.

        Returns:
            ``[T]``.
        """
        share = 1.0
        moments: dict[nn.Module, Tensor] = {}

        def measure(convolution: nn.Module, arguments: tuple[Any, ...]) -> None:
            assert isinstance(convolution, Convolution)
            of_part = share * convolution.second_moments(*arguments)
            moments[convolution] = moments.get(convolution, 0.0) + of_part
            convolution.calibrate(moments[convolution])

        hooks = [module.register_forward_pre_hook(measure) for module in convolutions]
        atoms = sum(len(part.elements) for part in parts)
        means: list[Tensor] = []
        for part in parts:
            share = len(part.elements) / atoms
            per_atom, _ = self._per_atom(*part)
            means.append(share * per_atom.mean(1))
        for hook in hooks:
            hook.remove()
        return torch.stack(means).sum(0)

    @property
    def weights(self) -> int:
        """Number of trainable weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, elements: Tensor, positions: Tensor, counts: Tensor) -> Tensor:
        """Predict normalised targets.

        Args:
            elements: ``[A]`` indices of the atoms' elements.
            positions: ``[A, 3]`` in Å, molecule after molecule.
            counts: ``[M]`` number of atoms of the molecules.

        Returns:
            ``[M, T]``: (t̂ - s)/σ for every molecule and target (Eqs 16 and 17).
        """
        per_atom, neighbourhoods = self._per_atom(*_padded(elements, positions, counts))
        total = per_atom.new_zeros(per_atom.shape[0], neighbourhoods.molecules)
        outputs: Tensor = total.index_add(1, neighbourhoods.molecule, per_atom).T
        outputs = outputs[: len(counts)]
        if self._intensive is None:
            return outputs
        return torch.where(self._intensive, outputs / counts[:, None], outputs)

    def _per_atom(
        self, elements: Tensor, positions: Tensor, counts: Tensor
    ) -> tuple[Tensor, Neighbourhoods]:
        maximum = self.config.radial_maximum_angstrom
        neighbourhoods = Neighbourhoods.of(positions, counts, maximum)
        neighbourhoods = neighbourhoods.padded(PAIR_MULTIPLE, 2 * maximum)
        phi = self.basis(neighbourhoods.distance)
        features = self.featurization(elements, neighbourhoods, phi)
        return self.output_blocks(features, neighbourhoods, phi), neighbourhoods


class _Batch(NamedTuple):
    """The input of the network; see :meth:`MultiTargetNetwork.forward`."""

    elements: Tensor
    positions: Tensor
    counts: Tensor


ATOM_MULTIPLE = 16
"""The number of atoms of a batch is padded to a multiple of this; see :func:`_padded`."""

PAIR_MULTIPLE = 128
"""The number of pairs of a batch is padded to a multiple of this."""


def _padded(elements: Tensor, positions: Tensor, counts: Tensor) -> _Batch:
    """The molecules and, if necessary, a dummy molecule of atoms that are far apart.

    oneDNN compiles a product for every shape and caches the latest thousand. Few batches have the
    same number of atoms or pairs. Without padding, most steps would compile large products
    again, and the cache would take more memory than the dummy atoms.
    """
    missing = -len(elements) % ATOM_MULTIPLE
    if missing == 0:
        return _Batch(elements, positions, counts)
    apart = torch.arange(missing, dtype=positions.dtype, device=positions.device) * 1e3
    return _Batch(
        torch.cat((elements, elements.new_zeros(missing))),
        torch.cat((positions, apart[:, None].expand(-1, 3))),
        torch.cat((counts, counts.new_full((1,), missing))),
    )


def _cut(elements: Tensor, positions: Tensor, counts: Tensor, pieces: int) -> list[_Batch]:
    """The molecules in ``pieces`` parts of nearly equal size, with at least one molecule each."""
    molecules = counts.tensor_split(min(pieces, len(counts)))
    atoms = [int(part.sum()) for part in molecules]
    columns = zip(
        torch.split(elements, atoms), torch.split(positions, atoms), molecules, strict=True
    )
    return [_Batch(*part) for part in columns]


def _residual(before: Features, after: Features) -> Features:
    half = math.sqrt(0.5)
    return Features(
        (before.scalars + after.scalars) * half, (before.vectors + after.vectors) * half
    )


def _block(
    layer: ConvolutionLayer, copies: int, basis: RadialBasis, beta: float
) -> ConvolutionBlock:
    return ConvolutionBlock(
        copies,
        layer.entering,
        layer.leaving,
        basis,
        radial_layers=layer.radial.layers,
        radial_neurons=layer.radial.neurons,
        beta=beta,
    )

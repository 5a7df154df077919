"""The layers of a network in their order, and sums over them: its weights and its work.

`hpsearch.nn.network` builds the layers that :meth:`Architecture.of` lists, and the counts are sums
over the same list. A count needs no network: the driver never imports torch, and matching arms by
their weights counts hundreds of networks.

The operations are counted for the cheapest order of contractions (`hpsearch.nn.convolution` derives
it), without recomputation. `hpsearch.cost.model` turns the counts into seconds and bytes by
measured rates.
"""

# A atoms, P unordered pairs of atoms within the cutoff, H neurons and B functions of the radial
# MLP, S scalars and V vectors in, u0 scalars and u1 vectors out

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from hpsearch.config.run import NetworkConfig, TrialConfig
from hpsearch.config.targets import ELEMENTS


class Degrees(NamedTuple):
    """How many features of each degree: e3nn's ``{scalars}x0e + {vectors}x1e``."""

    scalars: int
    vectors: int

    @property
    def present(self) -> int:
        """The number of degrees with features: the sum over l_in in Eq. 13."""
        return (self.scalars > 0) + (self.vectors > 0)


@dataclass(frozen=True)
class Workload:
    """The work of a forward and a backward pass.

    Attributes:
        flops: floating-point operations of the matrix products.
        numbers: entries of the tensors that are stored between two operations.
        copies: convolution & gated blocks; an output block counts once for every target.
    """

    flops: float
    numbers: float
    copies: int

    def __add__(self, other: Workload) -> Workload:
        return Workload(
            self.flops + other.flops, self.numbers + other.numbers, self.copies + other.copies
        )

    def times(self, count: int) -> Workload:
        """The work of ``count`` such passes."""
        return Workload(count * self.flops, count * self.numbers, count * self.copies)


# The layers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmbeddingLayer:
    """The learned scalars of every element.

    Attributes:
        elements: number of different elements.
        size: scalars per element.
    """

    elements: int
    size: int

    @property
    def weights(self) -> int:
        """Trainable weights."""
        return self.elements * self.size

    def work(self, atoms: float, pairs: float) -> Workload:
        """No work: the first convolution is linear and absorbs the embedding into its weights."""
        return Workload(0, 0, 0)


@dataclass(frozen=True)
class RadialShape:
    """The radial MLP of a block.

    Attributes:
        functions: functions of the radial basis.
        present: functions that are not zero at one distance.
        layers: hidden layers.
        neurons: neurons of a hidden layer.
    """

    functions: int
    present: int
    layers: int
    neurons: int

    @property
    def weights(self) -> int:
        """Trainable weights of the hidden layers; the last, linear layer is in the convolution."""
        return self.neurons * (self.functions + self.neurons * (self.layers - 1))


@dataclass(frozen=True)
class ConvolutionLayer:
    """A convolution & gated block: a radial MLP, Eq. 3 and the gated nonlinearity.

    Attributes:
        entering: input features.
        leaving: output features.
        summed: features that the convolution sums over the neighbours. They are the input features
            except in the first block: there the neighbours are summed element by element,
            whatever the embedding's size.
        radial: the radial MLP.
    """

    entering: Degrees
    leaving: Degrees
    summed: Degrees
    radial: RadialShape

    @property
    def weights(self) -> int:
        """Trainable weights."""
        (S, V), u1 = self.entering, self.leaving.vectors
        # Eq. 3: one path for 0→0, 0→1 and 1→0, three for 1→1.
        paths = self._gated * (S + V) + u1 * (S + 3 * V)
        own = self._gated * S + u1 * V
        return self.radial.weights + self.radial.neurons * paths + own

    def work(self, atoms: float, pairs: float) -> Workload:
        """The work of one copy of the block."""
        A, P = atoms, pairs
        (S, V), u1 = self.summed, self.leaving.vectors
        H, gated = self.radial.neurons, self._gated
        # The first layer of a radial MLP needs no gradient of its input.
        first = 2 * P * self.radial.present * H
        hidden = 2 * P * H * H * (self.radial.layers - 1)
        scalars = 2 * A * H * (S + V) * gated
        scalars += 4 * P * H * (min(S, gated) if V == 0 else S + V)
        into_vectors = 2 * A * S * H * u1 + 4 * P * H * u1 if S else 0
        vectors = 3 * (4 * P * H * 3 * V + 2 * A * H * 3 * V * u1) if u1 else 0
        own = 2 * A * (S * gated + 3 * V * u1)
        flops = 3 * (scalars + into_vectors + vectors + own + hidden) + 2 * first
        sums = H * (S + V) + (H * 9 * V if u1 else 0) + (H * u1 if S else 0)
        features = S + 3 * V + gated + 3 * u1
        ends = 2 * (S + V + (9 * V if u1 else 0) + u1)
        return Workload(flops, A * (sums + features) + P * (H * self.radial.layers + ends), 1)

    @property
    def _gated(self) -> int:
        """Output scalars of the convolution, with one more for every vector as its gate."""
        return self.leaving.scalars + self.leaving.vectors


@dataclass(frozen=True)
class AtomWiseLayer:
    """A dense layer with a bias, applied to every atom.

    Attributes:
        entering: input scalars.
        leaving: output scalars.
        is_last: whether its output is an atom's contribution, a single number.
    """

    entering: int
    leaving: int
    is_last: bool

    @property
    def weights(self) -> int:
        """Trainable weights."""
        return self.leaving * (self.entering + 1)

    def work(self, atoms: float, pairs: float) -> Workload:
        """The work of one copy; the last layer is a sum over scalars, not a matrix product."""
        flops = 0 if self.is_last else 6 * atoms * self.entering * self.leaving
        return Workload(flops, 0, 0)


Layer = EmbeddingLayer | ConvolutionLayer | AtomWiseLayer


@dataclass(frozen=True)
class Architecture:
    """The layers of a network, in the order in which the features of an atom pass through them.

    Attributes:
        embedding: first layer, shared by all targets.
        featurization: blocks after the embedding, shared by all targets.
        output: blocks that every target has a copy of.
        atom_wise: layers after them, also one copy per target; the last one emits one number.
    """

    embedding: EmbeddingLayer
    featurization: tuple[ConvolutionLayer, ...]
    output: tuple[ConvolutionLayer, ...]
    atom_wise: tuple[AtomWiseLayer, ...]

    @classmethod
    def of(cls, network: NetworkConfig, elements: int = len(ELEMENTS)) -> Architecture:
        """The layers of the multi-target network of section 4.3, for molecules of ``elements``."""
        inside = Degrees(network.featurization_scalars, network.featurization_vectors)
        between = Degrees(network.output_scalars, network.output_vectors)
        neurons = network.output_mlp_neurons
        embedding = EmbeddingLayer(elements, network.embedding_size)
        blocks = [inside] * network.featurization_blocks
        output = [inside, *[between] * (network.output_blocks - 1), Degrees(neurons, 0)]
        hidden = [AtomWiseLayer(neurons, neurons, False)] * (network.output_mlp_layers - 1)
        return cls(
            embedding=embedding,
            featurization=_blocks([Degrees(embedding.size, 0), *blocks], network, embedding),
            output=_blocks(output, network),
            atom_wise=(*hidden, AtomWiseLayer(neurons, 1, True)),
        )

    @property
    def shared(self) -> tuple[Layer, ...]:
        """The layers that all targets share."""
        return (self.embedding, *self.featurization)

    @property
    def of_each_target(self) -> tuple[Layer, ...]:
        """The layers that every target has a copy of, with its own weights."""
        return (*self.output, *self.atom_wise)


def _blocks(
    degrees: list[Degrees], network: NetworkConfig, embedding: EmbeddingLayer | None = None
) -> tuple[ConvolutionLayer, ...]:
    """The blocks between ``degrees``; the ``embedding``, if given, comes before the first."""
    functions = network.radial_functions
    radial = RadialShape(
        functions=functions,
        # Only the compiled kernel skips the other cosines.
        present=2 if network.radial_basis == "cosine" else functions,
        layers=network.radial_mlp_layers,
        neurons=network.radial_mlp_neurons,
    )
    summed = list(degrees)
    if embedding is not None:
        summed[0] = Degrees(embedding.elements, 0)
    return tuple(
        ConvolutionLayer(entering, leaving, summed[number], radial)
        for number, (entering, leaving) in enumerate(pairwise(degrees))
    )


# The sums over them ------------------------------------------------------------------------------


def count_weights(network: NetworkConfig, targets: int = 1, elements: int = len(ELEMENTS)) -> int:
    """Trainable weights of ``MultiTargetNetwork(network, targets, elements)``.

    Args:
        network: the architecture.
        targets: number of targets, each with its own output block.
        elements: number of different elements.
    """
    layers = Architecture.of(network, elements)
    own = sum(layer.weights for layer in layers.of_each_target)
    return sum(layer.weights for layer in layers.shared) + targets * own


def weights_of(config: TrialConfig) -> int:
    """Trainable weights of the network of a run."""
    return count_weights(config.network, len(config.targets), config.data.element_count)


def count_work(
    network: NetworkConfig,
    targets: int,
    atoms: float,
    pairs: float,
    elements: int = len(ELEMENTS),
) -> Workload:
    """The work of a training step on a batch.

    Args:
        network: the architecture.
        targets: number of targets, each with its own output block.
        atoms: atoms in the batch.
        pairs: unordered pairs of its atoms within ``network.radial_maximum_angstrom``.
        elements: number of different elements.
    """
    layers = Architecture.of(network, elements)

    def work(part: Iterable[Layer]) -> Workload:
        return sum((layer.work(atoms, pairs) for layer in part), start=Workload(0, 0, 0))

    return work(layers.shared) + work(layers.of_each_target).times(targets)


def relative_work(config: TrialConfig) -> float:
    """A relative cost of an epoch, to compare runs on the same molecules.

    It is the floating-point operations of a training step on one molecule of QM9's mean size, also
    for own molecules, because it only orders the runs of an experiment. The driver and
    ``hpsearch status`` use it before any molecule is read and without any timing;
    `hpsearch.cost.model` predicts seconds.
    """
    pairs = mean_pairs(config.network.radial_maximum_angstrom)
    return count_work(config.network, len(config.targets), MEAN_ATOMS, pairs).flops


MEAN_ATOMS = 18.03
"""Mean number of atoms of a QM9 molecule."""

# QM9 does not change, so the driver need not read the molecules to count pairs. Every thirteenth of
# the 130,831 molecules was counted: the radius in Å, and the mean number of pairs within it.
_PAIRS = (
    *((0.9, 0.0), (1.0, 0.38), (1.1, 8.51), (1.3, 10.13), (1.5, 14.39), (2.0, 23.72)),
    *((2.5, 50.27), (3.0, 74.13), (3.5, 95.07), (4.0, 112.79), (4.5, 129.01), (5.0, 140.38)),
    *((5.5, 147.77), (6.0, 152.25), (7.0, 156.38), (8.0, 157.53), (10.0, 157.87), (12.0, 157.89)),
)


def mean_pairs(radius_angstrom: float) -> float:
    """Mean number of unordered pairs of atoms within the radius in a QM9 molecule.

    The value is interpolated in a table, whose last radius includes all pairs.
    """
    for (low, fewer), (high, more) in pairwise(_PAIRS):
        if radius_angstrom < high:
            return fewer + max(radius_angstrom - low, 0) / (high - low) * (more - fewer)
    return _PAIRS[-1][1]

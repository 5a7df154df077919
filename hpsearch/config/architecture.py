"""The layers of a network in their order, and the sums over them: weights, work, order of runs.

One walk serves all: `hpsearch.nn.network` builds the layers that :meth:`Architecture.of` lists, and
the counts add up over the same list. No network is built for a count: the driver never imports
torch, and matching arms by their weights counts hundreds of networks.

The operations are those of the cheapest order of contractions (`hpsearch.nn.convolution` derives
it), without what is computed again; the numbers are those that a step writes and reads. Seconds and
bytes follow from them by rates that are measured (`hpsearch.cost.model`).
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
        """Degrees present, the sum over l_in of Eq. 13."""
        return (self.scalars > 0) + (self.vectors > 0)


@dataclass(frozen=True)
class Workload:
    """Of a forward and a backward pass.

    Attributes:
        flops: floating-point operations of its matrix products.
        numbers: entries of the tensors that lie between two operations.
        copies: convolution & gated blocks, one for each target counted for each.
    """

    flops: float
    numbers: float
    copies: int

    def __add__(self, other: Workload) -> Workload:
        return Workload(
            self.flops + other.flops, self.numbers + other.numbers, self.copies + other.copies
        )

    def times(self, count: int) -> Workload:
        """Of ``count`` of the same."""
        return Workload(count * self.flops, count * self.numbers, count * self.copies)


# The layers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmbeddingLayer:
    """Scalars for each element, learned.

    Attributes:
        elements: distinct ones.
        size: scalars that leave.
    """

    elements: int
    size: int

    @property
    def weights(self) -> int:
        """Trainable weights."""
        return self.elements * self.size

    def work(self, atoms: float, pairs: float) -> Workload:
        """None: the first convolution is linear and takes the embedding into its weights."""
        return Workload(0, 0, 0)


@dataclass(frozen=True)
class RadialShape:
    """The radial MLP of a block.

    Attributes:
        functions: of the radial basis.
        present: functions that differ from zero at one distance.
        layers: hidden layers.
        neurons: of each hidden layer.
    """

    functions: int
    present: int
    layers: int
    neurons: int

    @property
    def weights(self) -> int:
        """Trainable weights of the hidden layers; the last, linear one is the convolution's."""
        return self.neurons * (self.functions + self.neurons * (self.layers - 1))


@dataclass(frozen=True)
class ConvolutionLayer:
    """A convolution & gated block: a radial MLP, Eq. 3 and the gated nonlinearity.

    Attributes:
        entering: features that enter.
        leaving: features that leave.
        summed: features that the convolution sums over the neighbours. They are those that enter,
            except in the first block: whatever the embedding's size, an atom is one of the
            elements, and its neighbours are summed element by element.
        radial: its radial MLP.
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
        """Of one copy of the block."""
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
        """Scalars that the convolution emits: a vector also takes a scalar that gates it."""
        return self.leaving.scalars + self.leaving.vectors


@dataclass(frozen=True)
class AtomWiseLayer:
    """A dense layer with a bias, applied to every atom.

    Attributes:
        entering: scalars that enter.
        leaving: scalars that leave.
        is_last: whether it emits an atom's contribution, one number.
    """

    entering: int
    leaving: int
    is_last: bool

    @property
    def weights(self) -> int:
        """Trainable weights."""
        return self.leaving * (self.entering + 1)

    def work(self, atoms: float, pairs: float) -> Workload:
        """Of one copy; the last layer is a sum over an atom's scalars and no matrix product."""
        flops = 0 if self.is_last else 6 * atoms * self.entering * self.leaving
        return Workload(flops, 0, 0)


Layer = EmbeddingLayer | ConvolutionLayer | AtomWiseLayer


@dataclass(frozen=True)
class Architecture:
    """The layers of a network, in the order in which an atom's features pass them.

    Attributes:
        embedding: shared by all targets, as is the featurization.
        featurization: blocks behind the embedding.
        output: blocks of each target's own.
        atom_wise: layers of each target's own, behind these blocks; the last emits one number.
    """

    embedding: EmbeddingLayer
    featurization: tuple[ConvolutionLayer, ...]
    output: tuple[ConvolutionLayer, ...]
    atom_wise: tuple[AtomWiseLayer, ...]

    @classmethod
    def of(cls, network: NetworkConfig) -> Architecture:
        """The layers of the multi-target network of section 4.3."""
        inside = Degrees(network.featurization_scalars, network.featurization_vectors)
        between = Degrees(network.output_scalars, network.output_vectors)
        neurons = network.output_mlp_neurons
        embedding = EmbeddingLayer(len(ELEMENTS), network.embedding_size)
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
        """Layers that all targets share."""
        return (self.embedding, *self.featurization)

    @property
    def of_each_target(self) -> tuple[Layer, ...]:
        """Layers that every target has a copy of, with weights of its own."""
        return (*self.output, *self.atom_wise)


def _blocks(
    degrees: list[Degrees], network: NetworkConfig, embedding: EmbeddingLayer | None = None
) -> tuple[ConvolutionLayer, ...]:
    """The blocks between ``degrees``; the ``embedding``, if given, lies before the first."""
    functions = network.radial_functions
    radial = RadialShape(
        functions=functions,
        # Where the kernel does not serve, all cosines are multiplied.
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


def count_weights(network: NetworkConfig, targets: int = 1) -> int:
    """Trainable weights of ``MultiTargetNetwork(network, targets)``.

    Args:
        network: the architecture.
        targets: output blocks, one for each target.
    """
    layers = Architecture.of(network)
    own = sum(layer.weights for layer in layers.of_each_target)
    return sum(layer.weights for layer in layers.shared) + targets * own


def count_work(network: NetworkConfig, targets: int, atoms: float, pairs: float) -> Workload:
    """The work of a training step on a batch.

    Args:
        network: the architecture.
        targets: output blocks, one for each target.
        atoms: of the batch.
        pairs: unordered pairs of its atoms within ``network.radial_maximum_angstrom``.
    """
    layers = Architecture.of(network)

    def work(part: Iterable[Layer]) -> Workload:
        return sum((layer.work(atoms, pairs) for layer in part), start=Workload(0, 0, 0))

    return work(layers.shared) + work(layers.of_each_target).times(targets)


def relative_work(config: TrialConfig) -> float:
    """A number that an epoch's seconds grow with, to compare runs on the same molecules.

    It is the floating-point operations of a training step per molecule, for a molecule of QM9's
    mean size. The driver and ``hpsearch status`` need it before any molecule is read, and where
    nothing was timed; seconds are what `hpsearch.cost.model` predicts.
    """
    pairs = mean_pairs(config.network.radial_maximum_angstrom)
    return count_work(config.network, len(config.targets), MEAN_ATOMS, pairs).flops


MEAN_ATOMS = 18.03
"""Atoms of a molecule of QM9, on average."""

# QM9 is the same for everyone and does not change, so the driver needs no molecules to count. Of
# its 130,831 molecules every thirteenth was counted: the radius in Å, and the pairs within.
_PAIRS = (
    *((0.9, 0.0), (1.0, 0.38), (1.1, 8.51), (1.3, 10.13), (1.5, 14.39), (2.0, 23.72)),
    *((2.5, 50.27), (3.0, 74.13), (3.5, 95.07), (4.0, 112.79), (4.5, 129.01), (5.0, 140.38)),
    *((5.5, 147.77), (6.0, 152.25), (7.0, 156.38), (8.0, 157.53), (10.0, 157.87), (12.0, 157.89)),
)


def mean_pairs(radius_angstrom: float) -> float:
    """Unordered pairs of atoms that lie within the radius in a molecule of QM9, on average.

    Interpolated in a table; beyond its last radius there are no more pairs.
    """
    for (low, fewer), (high, more) in pairwise(_PAIRS):
        if radius_angstrom < high:
            return fewer + max(radius_angstrom - low, 0) / (high - low) * (more - fewer)
    return _PAIRS[-1][1]

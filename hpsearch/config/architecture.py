"""What a network has and does, counted from its configuration: no network is built.

The driver never imports torch, and matching arms by their weights counts hundreds of networks. The
operations are those of the cheapest order of contractions (`hpsearch.nn.convolution` derives it),
without what is computed again; the numbers are those that a step writes and reads. Seconds and
bytes follow from them by rates that are measured (`hpsearch.cost.model`).
"""

# A atoms, P unordered pairs of atoms within the cutoff, H neurons and B functions of the radial
# MLP, S scalars and V vectors in, u0 scalars and u1 vectors out

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hpsearch.config.run import NetworkConfig
from hpsearch.config.targets import ELEMENTS


def count_weights(network: NetworkConfig, targets: int = 1) -> int:
    """Trainable weights of ``MultiTargetNetwork(network, targets)``.

    Args:
        network: the architecture.
        targets: output blocks, one for each target.
    """
    width = (network.featurization_scalars, network.featurization_vectors)
    between = (network.output_scalars, network.output_vectors)
    featurization = [(network.embedding_size, 0), *[width] * network.featurization_blocks]
    output = [width, *[between] * (network.output_blocks - 1), (network.output_mlp_neurons, 0)]
    shared = len(ELEMENTS) * network.embedding_size + _blocks(network, featurization)
    return shared + targets * (_blocks(network, output) + _atom_wise(network))


def _blocks(network: NetworkConfig, widths: list[tuple[int, int]]) -> int:
    """Weights of the convolution & gated blocks between ``widths``: (scalars, vectors) of each."""
    neurons = network.radial_mlp_neurons
    radial = neurons * (network.radial_functions + neurons * (network.radial_mlp_layers - 1))
    total = 0
    for (scalars_in, vectors_in), (scalars_out, vectors_out) in pairwise(widths):
        # A vector that leaves also takes a scalar that gates it.
        gated = scalars_out + vectors_out
        # Eq. 3: one path for 0→0, 0→1 and 1→0, three for 1→1.
        paths = gated * (scalars_in + vectors_in) + vectors_out * (scalars_in + 3 * vectors_in)
        own = gated * scalars_in + vectors_out * vectors_in
        total += radial + neurons * paths + own
    return total


def _atom_wise(network: NetworkConfig) -> int:
    neurons = network.output_mlp_neurons
    return (network.output_mlp_layers - 1) * neurons * (neurons + 1) + neurons + 1


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


def count_work(network: NetworkConfig, targets: int, atoms: float, pairs: float) -> Workload:
    """The work of a batch.

    Args:
        network: the architecture.
        targets: output blocks, one for each target.
        atoms: of the batch.
        pairs: unordered pairs of its atoms within ``network.radial_maximum_angstrom``.
    """
    inside = [(network.featurization_scalars, network.featurization_vectors)]
    between = [(network.output_scalars, network.output_vectors)]
    featurization = [(_ELEMENTS, 0), *inside * network.featurization_blocks]
    last = (network.output_mlp_neurons, 0)
    output = [*inside, *between * (network.output_blocks - 1), last]
    shared = [_block(network, *widths, atoms, pairs) for widths in pairwise(featurization)]
    copied = [_block(network, *widths, atoms, pairs) for widths in pairwise(output)]
    hidden = network.output_mlp_layers - 1
    atom_wise = 6 * atoms * network.output_mlp_neurons**2 * hidden
    return Workload(
        flops=sum(f for f, _ in shared) + targets * (sum(f for f, _ in copied) + atom_wise),
        numbers=sum(n for _, n in shared) + targets * sum(n for _, n in copied),
        copies=len(shared) + targets * len(copied),
    )


_ELEMENTS = 5
"""Scalars into the first block: it is one of five elements, whatever the embedding's size."""


def _block(
    network: NetworkConfig,
    into: tuple[int, int],
    out: tuple[int, int],
    atoms: float,
    pairs: float,
) -> tuple[float, float]:
    """Operations and numbers of one convolution & gated block."""
    (S, V), (u0, u1) = into, out
    A, P = atoms, pairs
    H, B, layers = network.radial_mlp_neurons, network.radial_functions, network.radial_mlp_layers
    gated = u0 + u1
    # The first layer of a radial MLP needs no gradient of its input. Of the cosines two differ from
    # zero at one distance; where the kernel does not serve, all are multiplied.
    first = 2 * P * (2 if network.radial_basis == "cosine" else B) * H
    hidden = 2 * P * H * H * (layers - 1)
    scalars = 2 * A * H * (S + V) * gated
    scalars += 4 * P * H * (min(S, gated) if V == 0 else S + V)
    into_vectors = 2 * A * S * H * u1 + 4 * P * H * u1 if S else 0
    vectors = 3 * (4 * P * H * 3 * V + 2 * A * H * 3 * V * u1) if u1 else 0
    own = 2 * A * (S * gated + 3 * V * u1)
    flops = 3 * (scalars + into_vectors + vectors + own + hidden) + 2 * first
    sums = H * (S + V) + (H * 9 * V if u1 else 0) + (H * u1 if S else 0)
    features = S + 3 * V + gated + 3 * u1
    ends = 2 * (S + V + (9 * V if u1 else 0) + u1)
    return flops, A * (sums + features) + P * (H * layers + ends)

"""How many weights a network has, from its configuration alone: no network is built.

The driver never imports torch, and matching arms by their weights counts hundreds of networks.
"""

from __future__ import annotations

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

"""Networks that train in milliseconds."""

from typing import Any

from hpsearch.config.run import NetworkConfig

_TINY = NetworkConfig(
    embedding_size=4,
    featurization_scalars=4,
    featurization_vectors=2,
    featurization_blocks=1,
    radial_basis="cosine",
    radial_functions=4,
    radial_maximum_angstrom=3.0,
    radial_mlp_layers=1,
    radial_mlp_neurons=4,
    output_mlp_layers=1,
    output_mlp_neurons=4,
)


def tiny_network(**changes: Any) -> NetworkConfig:
    """The smallest network that has every part, with other values where they are named."""
    return _TINY.model_copy(update=changes)

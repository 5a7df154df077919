"""The arms of the ablation: their changes to the winner's configuration (section 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hpsearch.config.architecture import count_weights
from hpsearch.config.run import NetworkConfig, TrainingConfig, rebuild
from hpsearch.system.errors import InputError

VECTOR_DIMENSION = 3
"""Components of a vector, and the scalars that replace it: 29 vectors, 87 scalars (section 2.1)."""

Match = Literal["dims", "params"]
"""What an arm without vectors has in common with the winner: ``dims`` gives it the same number of
feature components, as in the paper, ``params`` nearly the same number of weights."""


@dataclass(frozen=True)
class Variant:
    """An arm of the ablation: a name and changes to the winner's configuration.

    Attributes:
        name: its name in Table 1 and in the cells' keys.
        description: the difference from the winner, in a few words.
        derive: returns this arm's network for the winner's network.
        network: fields of the network that are set last, after ``derive`` and the matching.
        training: fields of the training that are set.
    """

    name: str
    description: str
    derive: Callable[[NetworkConfig], NetworkConfig]
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def network_of(self, winner: NetworkConfig, match: Match = "dims") -> NetworkConfig:
        """Return this arm's network.

        Args:
            winner: the winner's network.
            match: with ``params``, an arm that drops all vectors gets the number of scalars whose
                weight count is nearest to the winner's.

        Raises:
            InputError: a change is not allowed.
        """
        network = self.derive(winner)
        if match == "params" and _has_vectors(winner) and not _has_vectors(network):
            network = match_weights(network, count_weights(winner))
        return rebuild(network, **self.network)

    def training_of(self, winner: TrainingConfig) -> TrainingConfig:
        """Return this arm's training.

        Raises:
            InputError: a change is not allowed.
        """
        return rebuild(winner, **self.training)


def _has_vectors(network: NetworkConfig) -> bool:
    return network.featurization_vectors + network.output_vectors > 0


def match_weights(network: NetworkConfig, weights: int) -> NetworkConfig:
    """Return ``network`` with the number of scalars whose weight count is nearest to ``weights``.

    The scalars between output convolutions keep their ratio to those of the featurization. Depth,
    radial functions and atom-wise layers stay the same.

    Args:
        network: a network without vectors.
        weights: the wanted number of weights, for a single target.
    """
    # The count grows with the scalars: the nearest is the first that reaches it, or the one before.
    above = 1
    while count_weights(_with_scalars(network, above)) < weights:
        above += 1
    nearest = min(
        (max(above - 1, 1), above),
        key=lambda scalars: abs(count_weights(_with_scalars(network, scalars)) - weights),
    )
    return _with_scalars(network, nearest)


def _with_scalars(network: NetworkConfig, scalars: int) -> NetworkConfig:
    share = scalars / network.featurization_scalars
    between = max(1, round(share * network.output_scalars)) if network.output_blocks > 1 else 0
    return rebuild(network, featurization_scalars=scalars, output_scalars=between)


def _unchanged(network: NetworkConfig) -> NetworkConfig:
    return network


def drop_vectors(network: NetworkConfig) -> NetworkConfig:
    """Return ``network`` with three scalars in place of every vector.

    The number of *components* stays the same: 29 vectors of three components become 87 scalars. The
    number of *features* grows, and so does the number of *weights*: with the same number of
    components, a convolution of scalars has more radial weights than one of scalars and vectors.
    """
    return rebuild(
        network,
        featurization_scalars=network.featurization_scalars
        + VECTOR_DIMENSION * network.featurization_vectors,
        featurization_vectors=0,
        output_scalars=network.output_scalars + VECTOR_DIMENSION * network.output_vectors,
        output_vectors=0,
    )


def _deep(network: NetworkConfig) -> NetworkConfig:
    flat = drop_vectors(network)
    return rebuild(flat, featurization_blocks=flat.featurization_blocks + 1)


def _outdeep(network: NetworkConfig) -> NetworkConfig:
    flat = drop_vectors(network)
    return rebuild(flat, output_mlp_layers=flat.output_mlp_layers + 1)


def _both_deep(network: NetworkConfig) -> NetworkConfig:
    return _outdeep(_deep(network))


VARIANTS: tuple[Variant, ...] = (
    Variant("L1Net", "the winner as it is", _unchanged),
    Variant("L0Net", "three scalars in place of each vector", drop_vectors),
    Variant("L0NetDeep", "L0Net with one more featurization block", _deep),
    Variant("L0NetOutdeep", "L0Net with one more hidden atom-wise layer", _outdeep),
    Variant("L0NetBothDeep", "L0Net with one more of both", _both_deep),
)
"""The five networks of section 4.4, in the order of Figure 4."""

VARIANT_NAMES: tuple[str, ...] = tuple(variant.name for variant in VARIANTS)


def select_variants(
    names: Iterable[str], available: tuple[Variant, ...] = VARIANTS
) -> tuple[Variant, ...]:
    """Return the variants called ``names``, ignoring case, in the order of ``available``.

    ``all``, or no name, means every variant.

    Raises:
        InputError: a name is unknown.
    """
    known = {variant.name.lower(): variant.name for variant in available}
    wanted: set[str] = set()
    for name in names:
        if name.lower() != "all" and name.lower() not in known:
            listed = ", ".join(variant.name for variant in available)
            raise InputError(f"a variant must be one of {listed}; got '{name}'")
        wanted |= set(known.values()) if name.lower() == "all" else {known[name.lower()]}
    return tuple(variant for variant in available if not wanted or variant.name in wanted)


def require_vectors(network: NetworkConfig) -> None:
    """Refuse a network without vectors, because an ablation has to drop them.

    Raises:
        InputError: the network has no vectors.
    """
    if network.featurization_vectors + network.output_vectors == 0:
        raise InputError(
            "an ablation needs a configuration with vectors to drop; got featurization_vectors 0 "
            "and output_vectors 0: every variant would be the same L0Net; export a trial with "
            "vectors, or add vectors to the file"
        )

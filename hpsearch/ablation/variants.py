"""The arms of the ablation: what each changes in the winner's configuration (section 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hpsearch.config.architecture import count_weights
from hpsearch.config.run import NetworkConfig, TrainingConfig, rebuild
from hpsearch.errors import InputError

VECTOR_DIMENSION = 3
"""Components of a vector, hence scalars in its place: 29 vectors, 87 scalars in section 2.1."""

Match = Literal["dims", "params"]
"""What an arm without vectors has in common with the winner: as many feature components, as in the
paper, or as nearly as possible as many weights."""


@dataclass(frozen=True)
class Variant:
    """One arm of the ablation: a name and what it changes in the winner's configuration.

    Attributes:
        name: as in Table 1 and in the cells' keys.
        description: what differs from the winner, in a few words.
        derive: the winner's network to this arm's; validates what it returns.
        network: fields of the network that are set after ``derive`` and after the matching.
        training: fields of the training that are set.
    """

    name: str
    description: str
    derive: Callable[[NetworkConfig], NetworkConfig]
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def network_of(self, winner: NetworkConfig, match: Match = "dims") -> NetworkConfig:
        """This arm's network.

        Args:
            winner: the exported configuration's.
            match: ``params`` gives an arm that drops all vectors the multiplicity whose weight
                count is nearest the winner's.

        Raises:
            InputError: a change is not allowed.
        """
        network = self.derive(winner)
        if match == "params" and _has_vectors(winner) and not _has_vectors(network):
            network = match_weights(network, count_weights(winner))
        return rebuild(network, **self.network)

    def training_of(self, winner: TrainingConfig) -> TrainingConfig:
        """This arm's training.

        Raises:
            InputError: a change is not allowed.
        """
        return rebuild(winner, **self.training)


def _has_vectors(network: NetworkConfig) -> bool:
    return network.featurization_vectors + network.output_vectors > 0


def match_weights(network: NetworkConfig, weights: int) -> NetworkConfig:
    """``network`` with as many scalars as bring its weight count nearest to ``weights``.

    The scalars between output convolutions keep their proportion to the featurization's. The count
    grows with the multiplicity, so the nearest is beside the first that exceeds ``weights``; of two
    equally near the smaller is taken. Depth, radial functions and atom-wise layers stay.

    Args:
        network: without vectors.
        weights: to come near, for a single target.
    """
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


def _as_it_is(network: NetworkConfig) -> NetworkConfig:
    return network


def drop_vectors(network: NetworkConfig) -> NetworkConfig:
    """``network`` with every vector replaced by three scalars: as many components, none rotating.

    The number of *components* stays: 29 vectors, of three components each, become 87 scalars. So
    there are more *features*, and more *weights*: a convolution between scalars alone has more
    radial weights than one with the same components split into scalars and vectors.
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
    Variant("L1Net", "the winner as it is", _as_it_is),
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
    """The variants called ``names``, without regard to case, in the order of ``available``.

    ``all`` stands for every variant, and so does no name.

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
    """Refuse a network without vectors, which an ablation could not drop.

    Raises:
        InputError: there are no vectors.
    """
    if network.featurization_vectors + network.output_vectors == 0:
        raise InputError(
            "an ablation needs a configuration with vectors to drop; got featurization_vectors 0 "
            "and output_vectors 0: every variant would be the same L0Net; export a trial with "
            "vectors, or give the file some"
        )

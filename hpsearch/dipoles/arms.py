"""The arms of the experiment: a network, the systems it is trained on, and its least error."""

# M systems

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from hpsearch.config.run import NetworkConfig
from hpsearch.dipoles.networks import (
    SCALARS_GIVEN,
    ChargeNetwork,
    Estimator,
    ScalarReadout,
    VectorReadout,
)
from hpsearch.dipoles.systems import (
    Draw,
    axial_floor,
    bound,
    four_charges,
    two_sites,
    two_sites_among_others,
)

TWO_SITES = "two sites"
AMONG_OTHERS = "two sites and two bare ones"
CHARGES_SMOOTH = "four charges, 8 Gaussians"
CHARGES_PAPER = "four charges, the paper's basis"

L0 = "L0Net"
L1 = "L1Net"
L1_ONE_BLOCK = "L1Net, one block"
L1_VECTOR = "L1, vector readout"

_SCALARS, _VECTORS = 16, 16
"""Features of an L1Net; an L0Net has three scalars instead of every vector, as in the paper."""

_BASES: dict[str, dict[str, Any]] = {
    CHARGES_SMOOTH: {
        "radial_basis": "gaussian",
        "radial_functions": 8,
        "radial_maximum_angstrom": 8.0,
    },
    CHARGES_PAPER: {
        "radial_basis": "cosine",
        "radial_functions": 84,
        "radial_maximum_angstrom": 11.1,
    },
}


@dataclass(frozen=True)
class Arm:
    """One network on one kind of systems.

    Attributes:
        case: name of the kind of systems.
        name: name of the network.
        draw: function that draws systems.
        build: function that makes a new network.
        floor: function of dipoles ``[M, 2, 3]``: the least mean squared error on them that a
            network of this kind can reach, however wide it is, in (e Å)⁴.
    """

    case: str
    name: str
    draw: Draw
    build: Callable[[], Estimator]
    floor: Callable[[Tensor], float]


def arms() -> tuple[Arm, ...]:
    """All arms, case after case, with L0 before L1."""
    l0, l1 = _site_network(0, 2), _site_network(_VECTORS, 2)
    one_block = _site_network(_VECTORS, 1)
    return (
        Arm(TWO_SITES, L0, two_sites, partial(ScalarReadout, l0), bound),
        Arm(TWO_SITES, L1_ONE_BLOCK, two_sites, partial(ScalarReadout, one_block), bound),
        Arm(TWO_SITES, L1, two_sites, partial(ScalarReadout, l1), axial_floor),
        Arm(TWO_SITES, L1_VECTOR, two_sites, partial(VectorReadout, l1), _zero),
        Arm(AMONG_OTHERS, L0, two_sites_among_others, partial(ScalarReadout, l0), bound),
        Arm(AMONG_OTHERS, L1, two_sites_among_others, partial(ScalarReadout, l1), _zero),
        *(
            Arm(
                case,
                name,
                four_charges,
                partial(ChargeNetwork, _charge_network(vectors, case)),
                _zero,
            )
            for case in _BASES
            for name, vectors in ((L0, 0), (L1, _VECTORS))
        ),
    )


def _site_network(vectors: int, blocks: int) -> NetworkConfig:
    """The configuration of a network whose input is scalars, and perhaps a vector, per site."""
    several = blocks > 1
    return NetworkConfig(
        embedding_size=1,
        featurization_scalars=SCALARS_GIVEN,
        featurization_vectors=min(vectors, 1),
        featurization_blocks=1,
        radial_basis="cosine",
        radial_functions=8,
        radial_maximum_angstrom=4.0,
        radial_mlp_layers=1,
        radial_mlp_neurons=16,
        output_blocks=blocks,
        output_mlp_layers=2,
        output_scalars=_scalars(vectors) if several else 0,
        output_vectors=vectors if several else 0,
        output_mlp_neurons=32,
    )


def _charge_network(vectors: int, case: str) -> NetworkConfig:
    """The configuration of a network of two blocks whose input is charges."""
    return NetworkConfig(
        embedding_size=16,
        featurization_scalars=_scalars(vectors),
        featurization_vectors=vectors,
        featurization_blocks=1,
        radial_mlp_layers=1,
        radial_mlp_neurons=16,
        output_mlp_layers=2,
        output_mlp_neurons=32,
        **_BASES[case],
    )


def _scalars(vectors: int) -> int:
    return _SCALARS + 3 * (_VECTORS - vectors)


def _zero(dipoles: Tensor) -> float:
    return 0.0

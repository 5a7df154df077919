"""The input of the networks: two dipoles, given as vectors or as point charges."""

# M systems, A sites of all systems together, N sites of one system

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_DIPOLE, LARGEST_DIPOLE = 0.5, 1.5
"""Magnitudes of a dipole, uniform between these, in e Å."""

LEAST_SEPARATION, LARGEST_SEPARATION = 3.0, 4.0
"""Distances between the centres of two dipoles made of charges, in Å; charges never coincide."""

_SITES = ((0.0, 0.0, -0.75), (0.0, 0.0, 0.75))
_BARE_SITES = ((1.1, 0.2, -0.3), (-0.3, 1.3, 0.5))


@dataclass(frozen=True)
class Systems:
    """A batch of systems, each with two dipoles.

    Attributes:
        dipoles: ``[M, 2, 3]`` p1 and p2 in e Å.
        positions: ``[A, 3]`` of the sites in Å, system after system.
        counts: ``[M]`` number of sites of the system.
        vectors: ``[A, 3]`` dipole of the site, in e Å; zero if it has none.
        kinds: ``[A]`` 0 for a positive charge, 1 for a negative one, 0 for no charge.
    """

    dipoles: Tensor
    positions: Tensor
    counts: Tensor
    vectors: Tensor
    kinds: Tensor

    @property
    def squared_total(self) -> Tensor:
        """``[M]``: p² = |p1 + p2|², the target, in (e Å)²."""
        return self.dipoles.sum(1).square().sum(1)


Draw = Callable[[int, torch.Generator], Systems]
"""Function that draws a number of systems."""


def draw_dipoles(count: int, generator: torch.Generator) -> Tensor:
    """``[M, 2, 3]`` independent, isotropic dipoles: E[cos θ12] = 0 and E[cos² θ12] = 1/3."""
    normal = torch.randn(count, 2, 3, generator=generator)
    length: Tensor = normal.norm(dim=2, keepdim=True)
    share = torch.rand(count, 2, 1, generator=generator)
    return normal / length * (LEAST_DIPOLE + share * (LARGEST_DIPOLE - LEAST_DIPOLE))


def two_sites(count: int, generator: torch.Generator) -> Systems:
    """Figure 2: two sites 1.5 Å apart on the z axis, with the dipoles given as vectors."""
    return at_sites(draw_dipoles(count, generator), _SITES)


def two_sites_among_others(count: int, generator: torch.Generator) -> Systems:
    """The systems of :func:`two_sites` with two more sites without dipole, not in one plane."""
    return at_sites(draw_dipoles(count, generator), _SITES + _BARE_SITES)


def at_sites(dipoles: Tensor, sites: tuple[tuple[float, float, float], ...]) -> Systems:
    """Systems with ``dipoles`` ``[M, 2, 3]`` at the first two of N fixed sites, in Å."""
    count = len(dipoles)
    vectors = dipoles.new_zeros(count, len(sites), 3)
    vectors[:, :2] = dipoles
    return Systems(
        dipoles=dipoles,
        positions=torch.tensor(sites).repeat(count, 1),
        counts=torch.full((count,), len(sites)),
        vectors=vectors.flatten(0, 1),
        kinds=torch.zeros(count * len(sites), dtype=torch.int64),
    )


def four_charges(count: int, generator: torch.Generator) -> Systems:
    """Two dipoles of two charges, +e and -e, at the distance |p|/e; no vectors are given.

    The centres lie on the z axis. The six distances between charges determine the angle, because a
    neutral system has p² = |Σ_a q_a r_a|² = -Σ_{a<b} q_a q_b |r_a - r_b|².
    """
    dipoles = draw_dipoles(count, generator)
    share = torch.rand(count, generator=generator)
    separation = LEAST_SEPARATION + share * (LARGEST_SEPARATION - LEAST_SEPARATION)
    centre = dipoles.new_zeros(count, 2, 1, 3)
    centre[..., 2] = separation[:, None, None] * torch.tensor((-0.5, 0.5))[:, None]
    sign = torch.tensor((1.0, -1.0))
    positions = centre + 0.5 * sign[:, None] * dipoles[:, :, None]  # [M, dipole, charge, 3]
    return Systems(
        dipoles=dipoles,
        positions=positions.flatten(0, 2),
        counts=torch.full((count,), 4),
        vectors=dipoles.new_zeros(4 * count, 3),
        kinds=torch.tensor((0, 1)).repeat(2 * count),
    )


def bound(dipoles: Tensor) -> float:
    """The least squared error of a network that does not see θ12 (Eq. 4), in (e Å)⁴.

    It is E[4 p1² p2² cos² θ12] over the given dipoles ``[M, 2, 3]``: the error of p1² + p2².
    """
    first, second = dipoles.unbind(1)
    return float(4 * (first * second).sum(1).square().mean())


def axial_floor(dipoles: Tensor) -> float:
    """The least squared error of a network that sees |p1|, |p2|, û·p1 and û·p2, in (e Å)⁴.

    It is E[4 (p1⊥·p2⊥)²] over the given dipoles ``[M, 2, 3]``, where ⊥ is the part perpendicular to
    the axis û of the sites. The azimuth between the two is uniform, so nothing predicts it.
    """
    first, second = dipoles[..., :2].unbind(1)
    return float(4 * (first * second).sum(1).square().mean())

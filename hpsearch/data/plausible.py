"""Whether the values of a target are plausible for its unit and its kind: a few words if not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.targets import Target
from hpsearch.config.units import Dimension, conversion, parse_unit
from hpsearch.data.molecule import Floats, Molecules
from hpsearch.data.statistics import composition_fit
from hpsearch.system.errors import one_line


@dataclass(frozen=True)
class Band:
    """The values that a quantity can have.

    Attributes:
        quantity: its name.
        unit: unit of the limits.
        low: the least plausible value.
        high: the largest.
        per_atom: whether the limits are for the value divided by the number of atoms.
        extensive: whether the band is for extensive or for intensive targets; ``None`` for both.
    """

    quantity: str
    unit: str
    low: float
    high: float
    per_atom: bool = False
    extensive: bool | None = None


BANDS = (
    # Gaps, orbital energies and ionisation energies of valence electrons are below 30 eV.
    Band("energy of one electron", "eV", -50, 50, extensive=False),
    # Zwitterions of peptides reach about 50 D; a negative one is a component of a vector.
    Band("dipole", "D", 0, 50),
    # Caesium has 400 a0^3, but the atoms of molecules have 1 to 36 (iodine).
    Band("polarizability or volume", "a0^3", 0, 50, per_atom=True),
    # Carbides melt below 4,300 K, and the surface of the sun has 5,800 K.
    Band("temperature", "K", 0, 10_000),
    # 3R is 6 cal/(mol K) an atom; the entropy of a single atom is below 50 cal/(mol K).
    Band("heat capacity or entropy", "cal/(mol K)", 0, 60, per_atom=True),
    Band("length", "Å", 0, np.inf),
    Band("mean square radius or area", "a0^2", 0, np.inf),
)
"""The bands of all quantities but extensive energies, for which :func:`_energies` has its own."""

FITTED_EV = 20.0
"""Largest plausible energy of an atom above a composition fit: a bond has at most 11 eV."""

ELECTRONS_EV = 25.0
"""An atom's electrons have about 21 Z^(7/3) eV (Thomas and Fermi); hydrogen has 13.6."""

_SAMPLE = 20_000
_SMALL_SPREAD = 0.05  # of the numbers of atoms, relative: below it both kinds look the same
_EXPLAINED = 0.9  # part of the variance that the counts of elements explain: surely extensive
_NO_GROWTH = 0.2  # correlation of a size with the number of atoms
_BETTER = 0.9  # remaining variance of the other kind, relative


def implausible(
    target: Target, values: Floats, fitted: Floats | None, molecules: Molecules
) -> Iterator[str]:
    """Yield a text for everything that is odd about the values.

    Args:
        target: the target.
        values: [n] in its declared unit; NaN if unknown.
        fitted: [n] the values above the composition fit, per atom; ``None`` for intensive ones.
        molecules: the table.
    """
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        yield "no molecule has a label; check column:"
        return
    if np.ptp(values[known]) <= 1e-10 * np.abs(values[known]).max():
        yield f"all labels are {values[known[0]]:.6g}; a constant cannot be learned"
        return
    unit = parse_unit(target.native_unit)
    if unit.dimension == parse_unit("eV").dimension and (target.extensive or unit.per_atom):
        yield from _energies(target, values, fitted, molecules)
    for band in BANDS:
        of_kind = band.extensive in (None, target.extensive)
        if unit.dimension == _dimension(band.unit) and of_kind and not unit.per_atom:
            yield from _outside(target, values, band, molecules)


def _dimension(unit: str) -> Dimension:
    return parse_unit(unit).dimension


def _outside(target: Target, values: Floats, band: Band, molecules: Molecules) -> Iterator[str]:
    converted = values * conversion(target.native_unit, band.unit)
    if band.per_atom:
        converted = converted / molecules.atom_counts
    rows = np.flatnonzero((converted < band.low) | (converted > band.high))
    if not len(rows):
        return
    worst = int(rows[np.argmax(np.abs(converted[rows]))])
    limit = f"at least {band.low:g}" if band.high == np.inf else f"{band.low:,g} to {band.high:,g}"
    an_atom = " an atom" if band.per_atom else ""
    hint = f"is {target.native_unit} its unit?"
    if band.low == 0 and (values[rows] < 0).all():
        hint = "a size is not negative"
        if band.quantity == "dipole":
            hint = "a component of a vector changes when the molecule turns: take its length"
    yield (
        f"{_often(rows, molecules)} {converted[worst]:,.4g} {band.unit}{an_atom}, but a "
        f"{band.quantity} is {limit}: {hint}"
    )


def _often(rows: NDArray[np.int64], molecules: Molecules) -> str:
    """``12 molecules, such as methane, have up to``."""
    name = one_line(molecules.name_of(int(rows[0])))
    more = f"{len(rows):,} molecules, such as {name}, have" if len(rows) > 1 else f"{name} has"
    return f"{more} up to" if len(rows) > 1 else more


def _energies(
    target: Target, values: Floats, fitted: Floats | None, molecules: Molecules
) -> Iterator[str]:
    atoms = molecules.atom_counts
    per_atom = parse_unit(target.native_unit).per_atom
    factor = conversion(target.native_unit, "eV/atom" if per_atom else "eV")
    energy = values * factor / (1 if per_atom else atoms)
    numbers = np.array(molecules.elements, dtype=np.float64)[molecules.element_indices]
    deepest = -ELECTRONS_EV * np.add.reduceat(numbers ** (7 / 3), molecules.offsets[:-1]) / atoms
    hint = f"is {target.native_unit} its unit?"
    if len(rows := np.flatnonzero(energy < deepest)):
        row = int(rows[np.argmin(energy[rows])])
        yield (
            f"{_often(rows, molecules)} {energy[row]:,.4g} eV an atom, but all its electrons have "
            f"only about {deepest[row]:,.4g}: {hint}"
        )
    if len(rows := np.flatnonzero(energy > FITTED_EV)):
        yield (
            f"{_often(rows, molecules)} {energy[rows].max():,.4g} eV an atom, but a molecule does "
            f"not hold together above {FITTED_EV:g}: {hint}"
        )
    if fitted is not None:
        above = np.abs(fitted * factor)
        if len(rows := np.flatnonzero(above > FITTED_EV)):
            yield (
                f"{_often(rows, molecules)} {above[rows].max():,.4g} eV an atom above or below a "
                f"composition fit, but a bond has at most 11: {hint}"
            )


def other_kind(target: Target, values: Floats, molecules: Molecules) -> Iterator[str]:
    """Yield a text if the values are described better as those of the other kind.

    An extensive target is a sum over atoms, so it is fitted to the counts of each element; an
    intensive one is an average, so it is fitted to the parts of each element. Both fits have as
    many coefficients.
    """
    known = np.flatnonzero(~np.isnan(values))
    known = known[np.linspace(0, len(known) - 1, min(len(known), _SAMPLE)).astype(np.int64)]
    counts = molecules.element_counts(known).astype(np.float64)
    atoms = counts.sum(axis=1, keepdims=True)
    if len(known) <= 2 * counts.shape[1] or atoms.std() < _SMALL_SPREAD * atoms.mean():
        return
    value = values[known, None]
    variance = float(value.var())
    if variance == 0:
        return
    as_sum = _unexplained(counts, value) / variance
    as_mean = _unexplained(counts / atoms, value) / variance
    correlation = float(np.corrcoef(atoms[:, 0], value[:, 0])[0, 1])
    shown = f"correlation with the number of atoms {correlation:.2f}"
    # The dipoles of molecules follow their composition, but do not grow with their size.
    grows = np.sign(value.mean()) * correlation > _NO_GROWTH
    is_narrow = _relative_spread(value) < _relative_spread(value / atoms)
    better = as_mean < _BETTER * as_sum or (is_narrow and not grows)
    if target.extensive and as_sum > 1 - _EXPLAINED and better:
        yield f"looks intensive ({shown}): set extensive: false"
    if not target.extensive and as_sum < 1 - _EXPLAINED and as_sum < _BETTER * as_mean:
        yield f"looks extensive ({shown}): set extensive: true"


def _relative_spread(values: Floats) -> float:
    return float(values.std() / max(abs(values.mean()), np.finfo(float).tiny))


def _unexplained(features: Floats, value: Floats) -> float:
    """The mean square of what a least-squares fit leaves."""
    left = value - features @ composition_fit(features, value)
    return float((left**2).mean())

"""The ranges of a model's training molecules, and what of a new molecule lies outside them.

A flag is a text that names the quantity, its number, and the range of the training molecules. It
says that the model has seen nothing like it, not that the prediction is wrong.
"""

# n molecules, A atoms of all of them, E elements

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hpsearch.config.declaration import Strict
from hpsearch.config.targets import SYMBOLS
from hpsearch.data.molecule import Floats, Integers, Molecules

BIN_ANGSTROM = 0.01
"""Width of the bins in which the distances of training molecules are counted."""

LEAST_MARGIN_ANGSTROM = 0.02
"""The occupied intervals are wider than the distances by this at each end."""

RARE_MARGIN_ANGSTROM = 0.5
"""The margin of a pair of elements with n distances is this over sqrt(n), if that is larger."""

MOST_MARGIN_ANGSTROM = 0.1

FARTHEST_ANGSTROM = 6.0
"""Distances above it are not flagged: the size of the molecule says the same."""

_MOST_FLAGS = 3
_PAIRS_AT_ONCE = 1_000_000

_Interval = Annotated[tuple[float, float], Field(strict=False)]


class Range(Strict):
    """The least and the largest value of a quantity."""

    least: float
    most: float

    def holds(self, value: float) -> bool:
        """Return whether ``value`` is inside."""
        return self.least <= value <= self.most


class TrainingRanges(Strict):
    """The ranges of the training molecules.

    Attributes:
        molecules: number of training molecules.
        atoms: number of atoms of a molecule.
        elements: number of atoms of each element in a molecule, by symbol.
        distances: the occupied intervals of distances of each pair of elements, in Å, up to
            :data:`FARTHEST_ANGSTROM`, by the two symbols, such as ``C-H``.
        values: the normalised target t̃ of each target (Eq. 14: for an extensive target, per atom
            and above the references), in native units.
    """

    molecules: int
    atoms: Range
    elements: dict[str, Range]
    distances: dict[str, tuple[_Interval, ...]]
    values: dict[str, Range]

    @classmethod
    def of(
        cls, molecules: Molecules, rows: Integers, normalised: Mapping[str, Floats]
    ) -> TrainingRanges:
        """Return the ranges of the molecules in ``rows``.

        Args:
            molecules: the table.
            rows: the training molecules.
            normalised: t̃ of these molecules, by target; NaN if unknown.
        """
        chosen = molecules.select(rows)
        counts = chosen.element_counts(np.arange(len(chosen)))
        numbers = np.array(chosen.elements)[chosen.element_indices]
        return cls(
            molecules=len(rows),
            atoms=_range(chosen.atom_counts),
            elements={
                SYMBOLS[number]: _range(counts[:, place])
                for place, number in enumerate(chosen.elements)
            },
            distances=_occupied(numbers, chosen.positions, chosen.atom_counts),
            values={name: _range(values) for name, values in normalised.items()},
        )

    def flags(self, geometries: Geometries) -> list[list[str]]:
        """Return what of each molecule lies outside the ranges."""
        found: list[list[str]] = [[] for _ in range(len(geometries.counts))]
        self._flag_counts(geometries, found)
        self._flag_distances(geometries, found)
        return found

    def flag_values(self, name: str, values: Floats, unit: str, found: list[list[str]]) -> None:
        """Add a flag to each molecule whose predicted t̃ lies outside the training molecules'.

        Args:
            name: of the target.
            values: [n] predicted t̃ in native units; NaN if not predicted.
            unit: the native unit, with ``/atom`` for an extensive target.
            found: [n] the flags of each molecule.
        """
        known = self.values[name]
        for row in np.flatnonzero((values < known.least) | (values > known.most)):
            found[row].append(
                f"{name} {values[row]:.4g} {unit} (training {known.least:.4g} to {known.most:.4g})"
            )

    def _flag_counts(self, geometries: Geometries, found: list[list[str]]) -> None:
        atoms = geometries.counts
        for row in np.flatnonzero((atoms < self.atoms.least) | (atoms > self.atoms.most)):
            found[row].append(f"{atoms[row]} atoms (training {_whole(self.atoms)})")
        owner = np.repeat(np.arange(len(atoms)), atoms)
        for number in np.unique(geometries.numbers):
            symbol = SYMBOLS[number]
            count = np.bincount(owner[geometries.numbers == number], minlength=len(atoms))
            known = self.elements.get(symbol)
            if known is None:
                for row in np.flatnonzero(count):
                    found[row].append(f"unknown element {symbol}")
                continue
            for row in np.flatnonzero(count > known.most):
                found[row].append(f"{count[row]} atoms of {symbol} (training {_whole(known)})")

    def _flag_distances(self, geometries: Geometries, found: list[list[str]]) -> None:
        kinds = _kinds(geometries.numbers)
        allowed = {kind: _mask(self.distances.get(name, ())) for kind, name in kinds.items()}
        for rows, pairs, distances in _pairs(geometries):
            near = distances < FARTHEST_ANGSTROM
            bins = np.minimum(distances, FARTHEST_ANGSTROM - BIN_ANGSTROM / 2) / BIN_ANGSTROM
            for kind, mask in allowed.items():
                outside = near & (pairs == kind) & ~mask[bins.astype(np.int64)]
                for place in np.flatnonzero(outside.any(axis=1)):
                    flags = found[rows[place]]
                    distance = distances[place][outside[place]].min()
                    if len(flags) < _MOST_FLAGS and "unknown element" not in " ".join(flags):
                        flags.append(self._distance_text(kinds[kind], float(distance)))

    def _distance_text(self, name: str, distance: float) -> str:
        known = self.distances.get(name, ())
        below = max((high for _, high in known if high <= distance), default=None)
        above = min((low for low, _ in known if low >= distance), default=None)
        if below is None:
            gap = "no such pair" if above is None else f"none below {above:.2f}"
        else:
            gap = (
                f"none above {below:.2f}"
                if above is None
                else f"none from {below:.2f} to {above:.2f}"
            )
        return f"distance {name} {distance:.3f} Å (training {gap})"


@dataclass(frozen=True, eq=False)
class Geometries:
    """Molecules without labels, one after another.

    Attributes:
        numbers: [A] atomic numbers.
        positions: [A, 3] in Å.
        counts: [n] number of atoms of each molecule.
    """

    numbers: Integers
    positions: NDArray[Any]
    counts: Integers

    def select(self, rows: NDArray[Any]) -> Geometries:
        """Return the molecules in ``rows``, in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        starts = (np.cumsum(self.counts) - self.counts)[rows]
        counts = self.counts[rows]
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        atoms = np.arange(total) + np.repeat(starts - ends + counts, counts)
        return Geometries(self.numbers[atoms], self.positions[atoms], counts)


def _whole(known: Range) -> str:
    return f"{known.least:.0f} to {known.most:.0f}"


def _range(values: NDArray[Any]) -> Range:
    return Range(least=float(np.nanmin(values)), most=float(np.nanmax(values)))


_KINDS = len(SYMBOLS)


def _kinds(numbers: Integers) -> dict[int, str]:
    """Return the name of each kind of pair that may occur, such as ``C-H``, by its code."""
    return {
        int(low) * _KINDS + int(high): "-".join(sorted((SYMBOLS[low], SYMBOLS[high])))
        for low, high in combinations_with_replacement(np.unique(numbers), 2)
    }


def _pairs(geometries: Geometries) -> Iterator[tuple[Integers, Integers, Floats]]:
    """Yield the pairs of atoms of molecules of equal size together.

    Yields:
        Rows [m], codes of the kinds [m, pairs], and distances in Å [m, pairs].
    """
    counts = geometries.counts
    starts = np.cumsum(counts) - counts
    for size in np.unique(counts):
        first, second = np.triu_indices(int(size), 1)
        rows = np.flatnonzero(counts == size)
        most = max(1, _PAIRS_AT_ONCE // max(1, len(first)))
        for begin in range(0, len(rows), most):
            some = rows[begin : begin + most]
            atoms = starts[some, None] + np.arange(size)
            positions, numbers = geometries.positions[atoms], geometries.numbers[atoms]
            low = np.minimum(numbers[:, first], numbers[:, second])
            high = np.maximum(numbers[:, first], numbers[:, second])
            offsets = positions[:, first] - positions[:, second]
            yield some, low * _KINDS + high, np.linalg.norm(offsets, axis=2)


_BINS = round(FARTHEST_ANGSTROM / BIN_ANGSTROM)


def _occupied(
    numbers: Integers, positions: NDArray[Any], counts: Integers
) -> dict[str, tuple[tuple[float, float], ...]]:
    """Return the intervals of distances that occur, each with its margin."""
    kinds = _kinds(numbers)
    seen = {kind: np.zeros(_BINS, dtype=np.int64) for kind in kinds}
    for _, pairs, distances in _pairs(Geometries(numbers, positions, counts)):
        near = distances < FARTHEST_ANGSTROM
        codes, bins = pairs[near], (distances[near] / BIN_ANGSTROM).astype(np.int64)
        for code, count in zip(*np.unique(codes * _BINS + bins, return_counts=True), strict=True):
            seen[int(code) // _BINS][int(code) % _BINS] += count
    return {name: tuple(_intervals(seen[kind])) for kind, name in kinds.items()}


def _intervals(seen: Integers) -> Iterator[tuple[float, float]]:
    # Few distances leave gaps between them that say nothing.
    margin = max(LEAST_MARGIN_ANGSTROM, RARE_MARGIN_ANGSTROM / max(float(seen.sum()), 1.0) ** 0.5)
    bins = round(min(margin, MOST_MARGIN_ANGSTROM) / BIN_ANGSTROM)
    wide = np.convolve(seen, np.ones(2 * bins + 1), mode="same") > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wide, [False]]).astype(np.int8)))
    for low, high in zip(edges[::2], edges[1::2], strict=True):
        yield round(low * BIN_ANGSTROM, 2), round(high * BIN_ANGSTROM, 2)


def _mask(intervals: tuple[tuple[float, float], ...]) -> NDArray[np.bool_]:
    """Return which bins lie in the intervals."""
    mask = np.zeros(_BINS, dtype=bool)
    for low, high in intervals:
        mask[round(low / BIN_ANGSTROM) : round(high / BIN_ANGSTROM)] = True
    return mask

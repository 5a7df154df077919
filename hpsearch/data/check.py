"""The quote of the molecules: everything to know about them before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Self

import numpy as np

from hpsearch.config.run import DataConfig
from hpsearch.config.targets import SYMBOLS
from hpsearch.data.duplicates import (
    Duplicates,
    SplitCheck,
    check_split,
    find_duplicates,
    graph_keys,
    leak_line,
)
from hpsearch.data.molecule import Floats, Molecules
from hpsearch.data.own import cache_folder, pair_distances
from hpsearch.data.split import make_split
from hpsearch.data.target_check import (
    Histogram,
    TargetCheck,
    check_targets,
    fit_compositions,
    require_sound_references,
)
from hpsearch.system.errors import one_line

__all__ = ["DataCheck", "leak_line", "require_sound_references"]

RADII_ANGSTROM = (3.0, 5.0, 8.0)
"""Radii at which neighbours are counted if no search space names others."""

FAR_ANGSTROM = 12.1
"""The radial functions are calibrated on distances up to this one (``hpsearch/nn/radial.py``)."""

NEAREST_ANGSTROM = (0.65, 1.7)
"""Between these lies the shortest distance of nearly every molecule; H2's bond has 0.74 Å.

Positions in a0 that are read as Å are 1.9 times too long, the other way round too short.
"""

_BIN_ANGSTROM = 0.1
_LAST_ANGSTROM = 30.0
_MOST_PAIRS = 50_000_000


@dataclass(frozen=True)
class Element:
    """An element, with the number of its atoms and of the molecules that have it."""

    symbol: str
    molecules: int
    atoms: int


@dataclass(frozen=True)
class Distance:
    """A distance of two atoms in Å, and the name of the molecule."""

    angstrom: float
    molecule: str


@dataclass(frozen=True)
class Neighbours:
    """The mean and the largest number of neighbours of an atom within a radius in Å."""

    angstrom: float
    mean: float
    most: int


@dataclass(frozen=True)
class Pairs:
    """The pairs of atoms of one molecule.

    Attributes:
        number: of all pairs.
        far: number of pairs beyond :data:`FAR_ANGSTROM`.
        shortest: the shortest distance; ``None`` if all molecules are single atoms.
        longest: the longest one.
        median_nearest: the median of the molecules' shortest distances in Å.
        distances: histogram in Å; the last bin has all longer ones.
        neighbours: at each radius.
        sampled: number of molecules whose neighbours were counted; ``None`` for all.
    """

    number: int
    far: int
    shortest: Distance | None
    longest: Distance | None
    median_nearest: float | None
    distances: Histogram
    neighbours: tuple[Neighbours, ...]
    sampled: int | None


@dataclass(frozen=True)
class DataCheck:
    """All that is known about the molecules.

    Attributes:
        source: name of the file; ``QM9`` without one.
        own: whether they are a user's own molecules.
        molecules: number of molecules.
        atoms: number of atoms.
        elements: in the order of the one-hot input.
        sizes: number of molecules by number of atoms, sorted.
        median_atoms: of a molecule.
        pairs: distances and neighbours.
        targets: in the order of the declaration.
        duplicates: equal molecules.
        split: the split.
        content_hash: of all numbers.
        cache: folder of the cache.
        disk_bytes: size of the cache.
        memory_bytes: memory of the columns when all are read.
    """

    source: str
    own: bool
    molecules: int
    atoms: int
    elements: tuple[Element, ...]
    sizes: tuple[tuple[int, int], ...]
    median_atoms: float
    pairs: Pairs
    targets: tuple[TargetCheck, ...]
    duplicates: Duplicates
    split: SplitCheck
    content_hash: str
    cache: str
    disk_bytes: int
    memory_bytes: int

    @classmethod
    def of(
        cls, molecules: Molecules, data: DataConfig, radii: Sequence[float] = RADII_ANGSTROM
    ) -> Self:
        """Check the molecules, the targets and the split.

        Args:
            molecules: the table.
            data: their declaration, with numbers in place of fractions.
            radii: in Å, at which neighbours are counted.

        Raises:
            InputError: the split does not fit the molecules.
        """
        split = make_split(molecules, data)
        sizes, often = np.unique(molecules.atom_counts, return_counts=True)
        folder = cache_folder(data)
        keys = graph_keys(molecules)
        fits = fit_compositions(molecules, split)
        source = data.molecules.path if data.molecules else "QM9"
        return cls(
            source=one_line(Path(source).name),
            own=data.is_own,
            molecules=len(molecules),
            atoms=len(molecules.element_indices),
            elements=_elements(molecules),
            sizes=tuple(zip(sizes.tolist(), often.tolist(), strict=True)),
            median_atoms=float(np.median(molecules.atom_counts)),
            pairs=_pairs(molecules, radii),
            targets=tuple(check_targets(molecules, split, fits, own=data.is_own)),
            duplicates=find_duplicates(molecules, keys, np.stack([fit.left for fit in fits], 1)),
            split=check_split(molecules, split, data, keys),
            content_hash=molecules.content_hash,
            cache=str(folder),
            disk_bytes=sum(f.stat().st_size for f in folder.glob("*")) if folder.is_dir() else 0,
            memory_bytes=sum(c.nbytes for c in vars(molecules).values() if hasattr(c, "nbytes")),
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line for everything that should be looked at before a search."""
        return tuple(_warnings(self))

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON; unknown numbers are ``None``."""
        plain: dict[str, Any] = _plain({**asdict(self), "warnings": self.warnings})
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


# --- Molecules and pairs -------------------------------------------------------------------------


def _elements(molecules: Molecules) -> tuple[Element, ...]:
    counts = molecules.element_counts(np.arange(len(molecules)))
    having, atoms = (counts > 0).sum(axis=0).tolist(), counts.sum(axis=0).tolist()
    symbols = [SYMBOLS[number] for number in molecules.elements]
    return tuple(Element(*row) for row in zip(symbols, having, atoms, strict=True))


def _pairs(molecules: Molecules, radii: Sequence[float]) -> Pairs:
    counts = molecules.atom_counts
    number = int((counts * (counts - 1) // 2).sum())
    chosen = np.ones(len(molecules), dtype=bool)
    if number > _MOST_PAIRS:
        most_rows = int(len(molecules) * _MOST_PAIRS / number) + 1
        sample = np.linspace(0, len(molecules) - 1, most_rows)
        chosen[:] = False
        chosen[sample.astype(np.int64)] = True
    least, longest = np.full(len(molecules), np.inf), np.zeros(len(molecules))
    last = round(_LAST_ANGSTROM / _BIN_ANGSTROM) - 1
    bins = np.zeros(last + 1, dtype=np.int64)
    far, near, most = 0, [0] * len(radii), [0] * len(radii)
    for rows, distances in pair_distances(molecules.positions, counts):
        if not distances.size:
            continue
        least[rows], longest[rows] = distances.min(axis=1), distances.max(axis=1)
        far += int((distances > FAR_ANGSTROM).sum())
        places = np.minimum(distances / _BIN_ANGSTROM, last).astype(np.int64)
        bins += np.bincount(places.ravel(), minlength=last + 1)
        some = distances[chosen[rows]]
        size = int(counts[rows[0]])
        first, second = np.triu_indices(size, 1)
        within = np.zeros((len(some), size, size), dtype=bool)
        for place, radius in enumerate(radii):
            within[:, first, second] = some < radius
            neighbours = within.sum(axis=1) + within.sum(axis=2)
            near[place] += int(neighbours.sum())
            most[place] = max(most[place], int(neighbours.max(initial=0)))
    used = np.flatnonzero(bins)
    atoms = int(counts[chosen].sum())
    return Pairs(
        number=number,
        far=far,
        shortest=_distance(molecules, least, int(np.argmin(least))) if number else None,
        longest=_distance(molecules, longest, int(np.argmax(longest))) if number else None,
        median_nearest=float(np.median(least[np.isfinite(least)])) if number else None,
        distances=Histogram(
            0.0, _BIN_ANGSTROM, tuple(bins[: used[-1] + 1].tolist()) if number else ()
        ),
        neighbours=tuple(
            Neighbours(float(radius), total / atoms, largest)
            for radius, total, largest in zip(radii, near, most, strict=True)
        ),
        sampled=None if chosen.all() else int(chosen.sum()),
    )


def _distance(molecules: Molecules, distances: Floats, row: int) -> Distance:
    return Distance(float(distances[row]), one_line(molecules.name_of(row)))


# --- What to look at -----------------------------------------------------------------------------


def _warnings(check: DataCheck) -> Iterator[str]:
    for target in check.targets:
        yield from (f"{target.name}: {remark}" for remark in target.remarks)
        if target.references is not None:
            yield from target.references.problems
    found = check.duplicates
    if found.different_labels and found.example_of_labels:
        one, other = found.example_of_labels
        yield (
            f"{found.different_labels:,} molecules have the geometry of an earlier one but other "
            f"labels, such as {other} and {one}: a network cannot learn both"
        )
    if check.split.leak is not None:
        yield check.split.leak
    least, most = NEAREST_ANGSTROM
    nearest = check.pairs.median_nearest
    if nearest is not None and not least <= nearest <= most:
        yield (
            f"the nearest two atoms of a molecule are {nearest:.2f} Å apart (median), but a bond "
            "has about 1 Å: is the length_unit of the positions right?"
        )
    if check.pairs.far:
        yield (
            f"{check.pairs.far:,} pairs of atoms are beyond {FAR_ANGSTROM} Å: the radial functions "
            "are calibrated on shorter ones"
        )

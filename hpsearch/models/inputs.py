"""The molecules that a model predicts: those of a file, or those in memory."""

# n molecules, A atoms of all of them, N atoms of one

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.config.declaration import MoleculeSource
from hpsearch.config.run import DataConfig
from hpsearch.config.targets import SYMBOLS
from hpsearch.data.molecule import Molecules
from hpsearch.formats import Part
from hpsearch.formats.part import MOLECULES_PER_PART
from hpsearch.system.errors import InputError, one_line

_EXPECTED = "an ase.Atoms, or a pair of atomic numbers [N] and positions [N, 3] in Å"


def source_of(path: Path) -> MoleculeSource:
    """Return the molecules of a file, or those that a declaration (YAML) names.

    Raises:
        InputError: there is no such file, or the declaration names no molecules.
    """
    if path.suffix.casefold() in (".yaml", ".yml"):
        source = DataConfig.read(path).molecules
        if source is None:
            raise InputError(
                f"{path} must name a file of molecules under data: molecules:, got none"
            )
        return source
    if not path.exists():
        raise InputError(f"the molecules must be a file or a folder, got '{one_line(str(path))}'")
    return MoleculeSource(path=str(path))


def parts_of(molecules: Any) -> Iterator[Part]:
    """Yield molecules in memory as the readers of files do.

    Args:
        molecules: a `Molecules` table, one ``ase.Atoms``, a pair of atomic numbers and positions in
            Å, or several of these.

    Raises:
        InputError: a molecule is none of these, or has a periodic cell.
    """
    if isinstance(molecules, Molecules):
        yield from _of_table(molecules)
        return
    if _is_one(molecules):
        molecules = [molecules]
    try:
        given = list(molecules)
    except TypeError:
        raise InputError(
            f"molecules must be a file, or each {_EXPECTED}; got {type(molecules).__name__}"
        ) from None
    for start in range(0, len(given), MOLECULES_PER_PART):
        some = given[start : start + MOLECULES_PER_PART]
        pairs = [_pair(each, f"molecule {start + place}") for place, each in enumerate(some)]
        yield Part(
            counts=np.array([len(numbers) for numbers, _ in pairs], np.int64),
            numbers=np.concatenate([numbers for numbers, _ in pairs]),
            positions=np.concatenate([positions for _, positions in pairs]),
            labels=np.empty((len(some), 0)),
            identifiers=None,
            groups=None,
            places=[f"molecule {start + place}" for place in range(len(some))],
        )


def _is_one(given: Any) -> bool:
    """Whether ``given`` is one molecule: an Atoms, which has a length too, or a pair."""
    if hasattr(given, "numbers"):
        return True
    return isinstance(given, tuple) and len(given) == 2 and not _is_one(given[0])


def _pair(given: Any, place: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the numbers [N] and positions [N, 3] of a molecule."""
    if hasattr(given, "numbers") and hasattr(given, "positions"):
        if np.any(getattr(given, "pbc", False)):
            raise InputError(f"{place} must have no periodic cell, got pbc; set atoms.pbc = False")
        given = (given.numbers, given.positions)
    try:
        numbers, positions = given
        numbers, positions = np.asarray(numbers), np.asarray(positions, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{place} must be {_EXPECTED}; got {one_line(repr(given))}") from None
    if numbers.ndim != 1 or len(numbers) == 0 or positions.shape != (len(numbers), 3):
        raise InputError(
            f"{place} must be {_EXPECTED}; got shapes {list(numbers.shape)} and "
            f"{list(positions.shape)}"
        )
    if (
        not np.issubdtype(numbers.dtype, np.integer)
        or not np.isin(numbers, np.arange(1, len(SYMBOLS))).all()
    ):
        raise InputError(
            f"the atomic numbers of {place} must be whole numbers from 1 to {len(SYMBOLS) - 1}, "
            f"got {one_line(str(numbers.tolist()))}"
        )
    if not np.isfinite(positions).all():
        raise InputError(f"the positions of {place} must be finite numbers in Å, got others")
    return numbers.astype(np.int64), positions


def _of_table(molecules: Molecules) -> Iterator[Part]:
    elements = np.array(molecules.elements, np.int64)
    for start in range(0, len(molecules), MOLECULES_PER_PART):
        rows = np.arange(start, min(start + MOLECULES_PER_PART, len(molecules)))
        some = molecules.select(rows)
        names = [molecules.name_of(int(row)) for row in rows]
        yield Part(
            counts=np.asarray(some.atom_counts, np.int64),
            numbers=elements[some.element_indices],
            positions=some.positions.astype(np.float64),
            labels=np.empty((len(rows), 0)),
            identifiers=names,
            groups=None,
            places=names,
        )

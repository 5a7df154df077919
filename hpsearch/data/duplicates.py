"""Molecules that occur twice: the same geometry, or the same molecule in several geometries.

Two geometries are equal if their atoms have the same elements and their sorted distances agree, so
a rotated, moved, mirrored or renumbered copy is found. Two molecules are the same if their bond
graphs are: bonds are guessed from covalent radii, and the graphs are compared by labels of
Weisfeiler and Lehman. Bond orders and mirror images do not count, so stereoisomers are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.run import DataConfig
from hpsearch.data.molecule import Floats, Integers, Molecules
from hpsearch.data.own import pair_distances
from hpsearch.data.split import Split
from hpsearch.system.errors import one_line

Keys = NDArray[np.uint64]

TOLERANCE_ANGSTROM = 1e-3
"""Two geometries are equal if no distance differs by more."""

BOND_FACTOR = 1.3
"""A bond is at most this many times as long as the sum of the two covalent radii.

Bonds that vibrate or are partly broken stay below 1.3; atoms with one atom between them are above.
"""

_ROUNDS = 10  # A label knows the atoms within so many bonds.
_SUMMARIES = 8
_MOST_COMPARISONS = 200_000_000
_MOST_AT_LAUNCH = 20_000_000  # pairs of atoms
# Part of a target's spread. Distances of equal geometries may differ by 0.001 Å, and labels too.
_SAME_LABEL = 0.01
_TYPE = 1e4  # Å; more than any distance, so that sorting keeps pairs of elements together
_SALT = np.uint64(0x9E3779B97F4A7C15)

# Å, by atomic number (Cordero and others 2008); unknown ones get 1.6.
_RADII = np.array(
    [
        *(0.20, 0.31, 0.28, 1.28, 0.96, 0.84, 0.76, 0.71, 0.66, 0.57, 0.58, 1.66, 1.41, 1.21),
        *(1.11, 1.07, 1.05, 1.02, 1.06, 2.03, 1.76, 1.70, 1.60, 1.53, 1.39, 1.39, 1.32, 1.26),
        *(1.24, 1.32, 1.22, 1.22, 1.20, 1.19, 1.20, 1.20, 1.16, 2.20, 1.95, 1.90, 1.75, 1.64),
        *(1.54, 1.47, 1.46, 1.42, 1.39, 1.45, 1.44, 1.42, 1.39, 1.39, 1.38, 1.39, 1.40, 2.44),
        *(2.15, 2.07, 2.04, 2.03, 2.01, 1.99, 1.98, 1.98, 1.96, 1.94, 1.92, 1.92, 1.89, 1.90),
        *(1.87, 1.87, 1.75, 1.70, 1.62, 1.51, 1.44, 1.41, 1.36, 1.36, 1.32, 1.45, 1.46, 1.48),
        *(1.40, 1.50, 1.50, 2.60, 2.21, 2.15, 2.06, 2.00, 1.96, 1.90, 1.87, 1.80, 1.69),
        *[1.6] * 22,
    ]
)


def graph_keys(molecules: Molecules) -> Keys:
    """[n] a number for each molecule, which is equal for equal bond graphs.

    Different graphs get equal numbers only if ten rounds of labels cannot tell them apart, which
    happens for a few pairs of ring systems.
    """
    source, target = _bonds(molecules)
    begins = np.searchsorted(source, np.arange(len(molecules.element_indices)))
    labels = _mixed(_numbers(molecules))
    for _ in range(_ROUNDS):
        # Every atom is its own neighbour, so no sum is empty.
        around = np.add.reduceat(_mixed(labels)[target], begins)
        labels = _mixed(around + _SALT * labels)
    return _mixed(np.add.reduceat(labels, molecules.offsets[:-1]))


def _bonds(molecules: Molecules) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Both atoms of every bond in both directions, and of every atom with itself, sorted."""
    radii = BOND_FACTOR * _RADII[list(molecules.elements)].astype(np.float32)
    atoms = np.arange(len(molecules.element_indices), dtype=np.int32)
    ends: list[NDArray[np.int32]] = []
    for rows, distances in pair_distances(molecules.positions, molecules.atom_counts):
        own, first, second = _pairs(molecules, rows)
        reach = radii[molecules.element_indices[own]]
        place, pair = np.nonzero(distances < reach[:, first] + reach[:, second])
        bonded = own[place[:, None], np.stack([first[pair], second[pair]], axis=1)]
        ends.append(bonded.astype(np.int32))
    pairs = np.concatenate(ends) if ends else np.empty((0, 2), np.int32)
    source = np.concatenate([atoms, pairs[:, 0], pairs[:, 1]])
    target = np.concatenate([atoms, pairs[:, 1], pairs[:, 0]])
    order = np.argsort(source, kind="stable")
    return source[order], target[order]


def _pairs(molecules: Molecules, rows: Integers) -> tuple[Integers, Integers, Integers]:
    """Atoms [m, size] of molecules of equal size, and both places [pairs] of every pair."""
    size = int(molecules.atom_counts[rows[0]])
    first, second = np.triu_indices(size, 1)
    return molecules.offsets[rows, None] + np.arange(size), first, second


def _numbers(molecules: Molecules) -> Keys:
    return np.array(molecules.elements, dtype=np.uint64)[molecules.element_indices]


def _mixed(values: Keys) -> Keys:
    """Numbers that depend on every bit of ``values`` (the end of splitmix64)."""
    values = values + _SALT
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = values ^ (values >> np.uint64(31))
    return mixed


def equal_geometries(molecules: Molecules) -> tuple[Integers, bool]:
    """The first molecule with the same geometry as each molecule.

    Returns:
        Rows [n], which are the molecule's own if its geometry is new, and whether all pairs of
        molecules that could be equal were compared.
    """
    composition = np.add.reduceat(_mixed(_numbers(molecules)), molecules.offsets[:-1])
    summaries = _summaries(molecules)
    order = np.lexsort((summaries[:, 0], composition))
    composition, summaries = composition[order], summaries[order]
    first = np.arange(len(order))
    # Equal molecules are near each other in this order: compare each with the one before it, then
    # with the one before that, until the longest distances differ.
    later, step, left = first[1:], 1, _MOST_COMPARISONS
    while len(later) and left > 0:
        later = later[later >= step]
        other = later - step
        near = composition[later] == composition[other]
        near &= summaries[later, 0] - summaries[other, 0] <= TOLERANCE_ANGSTROM
        later, other = later[near], other[near]
        left -= len(later)
        alike = np.arange(len(later))
        for summary in summaries.T[1:]:
            difference = np.abs(summary[later[alike]] - summary[other[alike]])
            alike = alike[difference <= TOLERANCE_ANGSTROM]
        equal = alike[_are_equal(molecules, order[later[alike]], order[other[alike]])]
        first[later[equal]] = other[equal]
        later = np.delete(later, equal)
        step += 1
    while not np.array_equal(first, first[first]):
        first = first[first]
    earliest = np.full(len(order), len(order))
    np.minimum.at(earliest, first, order)
    found = np.empty_like(order)
    found[order] = earliest[first]
    return found, len(later) == 0


def _fingerprints(molecules: Molecules) -> Iterator[tuple[Integers, Floats]]:
    """Rows [m] of equal size, and [m, pairs] in Å: distances sorted by elements and length."""
    kinds = len(molecules.elements)
    for rows, distances in pair_distances(molecules.positions, molecules.atom_counts):
        own, first, second = _pairs(molecules, rows)
        element = molecules.element_indices[own].astype(np.int16)
        left, right = element[:, first], element[:, second]
        kind = np.minimum(left, right) * kinds + np.maximum(left, right)
        keyed = kind * _TYPE + np.minimum(distances, 0.99 * _TYPE)
        keyed.sort(axis=1)
        yield rows, keyed


def _summaries(molecules: Molecules) -> Floats:
    """[n, 1 + k] in Å: numbers that differ by no more than the distances of two geometries."""
    summaries = np.zeros((len(molecules), 1 + _SUMMARIES))
    for rows, keyed in _fingerprints(molecules):
        if keyed.shape[1]:
            chosen = np.linspace(0, keyed.shape[1] - 1, _SUMMARIES).astype(int)
            summaries[rows, 0] = (keyed % _TYPE).max(axis=1)
            summaries[rows, 1:] = keyed[:, chosen]
    return summaries


def _are_equal(molecules: Molecules, some: Integers, others: Integers) -> NDArray[np.bool_]:
    """[k] whether two molecules of the same composition have the same distances."""
    equal = np.zeros(len(some), dtype=bool)
    if len(some):
        pairs = zip(
            _fingerprints(molecules.select(some)),
            _fingerprints(molecules.select(others)),
            strict=True,
        )
        for (rows, left), (_, right) in pairs:
            equal[rows] = (np.abs(left - right) <= TOLERANCE_ANGSTROM).all(axis=1)
    return equal


@dataclass(frozen=True)
class Duplicates:
    """Equal geometries and equal bond graphs.

    Attributes:
        geometries: number of molecules whose geometry an earlier one has.
        different_labels: how many of them have other labels than that one.
        example: names of an earlier and a later molecule of equal geometry.
        example_of_labels: the same for different labels.
        all_compared: whether all were compared that could be equal.
        graphs: number of different molecules by bond graph.
        in_several: how many of them have more than one geometry.
        most_geometries: largest number of geometries of one.
    """

    geometries: int
    different_labels: int
    example: tuple[str, str] | None
    example_of_labels: tuple[str, str] | None
    all_compared: bool
    graphs: int
    in_several: int
    most_geometries: int


@dataclass(frozen=True)
class Leaks:
    """Numbers of molecules that are also among the training molecules, in another geometry or not.

    Attributes:
        validation: of the validation molecules, by bond graph.
        test: of the test molecules, by bond graph.
        validation_groups: of the validation molecules, by group; ``None`` without groups.
        test_groups: of the test molecules, by group; ``None`` without groups.
    """

    validation: int
    test: int
    validation_groups: int | None
    test_groups: int | None


@dataclass(frozen=True)
class SplitCheck:
    """The split that the declaration gives.

    Attributes:
        train: number of training molecules.
        validation: number of validation molecules.
        test: number of test molecules.
        hash: of the three sets.
        by_group: whether the molecules of a group stay on one side.
        groups: number of groups; ``None`` without groups.
        leaks: molecules on two sides.
        leak: the leak in words; ``None`` if there is none.
    """

    train: int
    validation: int
    test: int
    hash: str
    by_group: bool
    groups: int | None
    leaks: Leaks
    leak: str | None


def find_duplicates(molecules: Molecules, keys: Keys, left: Floats) -> Duplicates:
    """The equal geometries and the equal bond graphs.

    Args:
        molecules: the table.
        keys: [n] of :func:`graph_keys`.
        left: [n, T] what composition fits leave of the targets, which says how far they spread.
    """
    first, all_compared = equal_geometries(molecules)
    later = np.flatnonzero(first != np.arange(len(first)))
    earlier = first[later]
    spread = np.array([known.std() if len(known := c[~np.isnan(c)]) else 0.0 for c in left.T])
    # A comparison with an unknown label is false.
    apart = np.abs(molecules.targets[later] - molecules.targets[earlier]) > _SAME_LABEL * spread
    different = np.flatnonzero(apart.any(axis=1))
    _, often = np.unique(keys[first == np.arange(len(first))], return_counts=True)

    def example(place: int) -> tuple[str, str]:
        one, other = int(earlier[place]), int(later[place])
        return one_line(molecules.name_of(one)), one_line(molecules.name_of(other))

    return Duplicates(
        len(later),
        len(different),
        example(0) if len(later) else None,
        example(int(different[0])) if len(different) else None,
        all_compared,
        len(often),
        int((often > 1).sum()),
        int(often.max()),
    )


def check_split(molecules: Molecules, split: Split, data: DataConfig, keys: Keys) -> SplitCheck:
    """The sizes of the split and its leaks; ``keys`` are those of :func:`graph_keys`."""
    groups = None if molecules.groups is None else len(np.unique(molecules.groups))
    leaks = _leaks(molecules, split, keys)
    single = bool((keys == keys[0]).all())
    return SplitCheck(
        len(split.train),
        len(split.validation),
        len(split.test),
        split.hash,
        data.by_group,
        groups,
        leaks,
        _leak_words(leaks, split, data, single=single),
    )


def _leaks(molecules: Molecules, split: Split, keys: Keys) -> Leaks:
    by_graph = _shared(keys, split)
    by_group = (None, None) if molecules.groups is None else _shared(molecules.groups, split)
    return Leaks(*by_graph, *by_group)


def _shared(keys: NDArray[Any], split: Split) -> tuple[int, int]:
    """Numbers of validation and test molecules whose key a training molecule has."""
    known = np.unique(keys[split.train])
    validation, test = (np.isin(keys[rows], known) for rows in (split.validation, split.test))
    return int(validation.sum()), int(test.sum())


def _leak_words(leaks: Leaks, split: Split, data: DataConfig, *, single: bool) -> str | None:
    if single:
        return (
            "all molecules have the same bonds: the test errors are those of other geometries of "
            "one molecule, not of other molecules"
        )
    counts = (
        max(leaks.validation, leaks.validation_groups or 0),
        max(leaks.test, leaks.test_groups or 0),
    )
    if not any(counts):
        return None
    if not data.is_own:
        mend = "stereoisomers have the same bonds"
    elif data.by_group:
        mend = "their groups are others: stereoisomers have the same bonds, or groups are too fine"
    elif data.split_file is not None:
        mend = "list all geometries of a molecule in one set of the split file"
    elif leaks.test_groups is not None:
        mend = "set split_by: group"
    else:
        mend = "name a column that is equal for them with molecules: {group: NAME}"
    return (
        f"the split leaks: {counts[1]:,} of {len(split.test):,} test and {counts[0]:,} of "
        f"{len(split.validation):,} validation molecules are training molecules in another "
        f"geometry (same bonds or group); {mend}"
    )


def leak_line(molecules: Molecules, split: Split, data: DataConfig) -> str | None:
    """A line if test or validation molecules are also training molecules, as bond graphs or groups.

    It takes about 0.3 s for 10,000 molecules of 18 atoms.

    Args:
        molecules: the table.
        split: its split.
        data: the declaration.

    Returns:
        The line; ``None`` without a leak, or if there are too many pairs of atoms for a launch.
    """
    counts = molecules.atom_counts
    if (counts * (counts - 1) // 2).sum() > _MOST_AT_LAUNCH:
        return None
    return check_split(molecules, split, data, graph_keys(molecules)).leak

"""The ranges of training molecules, and the flags of others."""

from __future__ import annotations

import numpy as np
import pytest

from hpsearch.data.molecule import Molecule, Molecules
from hpsearch.models.ranges import Geometries, TrainingRanges


def water(bond: float = 0.96, extra: int = 0) -> tuple[list[int], list[list[float]]]:
    numbers = [8, 1, 1] + [1] * extra
    positions = [[0.0, 0.0, 0.0], [bond, 0.0, 0.0], [-0.24, 0.93, 0.0]]
    return numbers, positions + [[0.0, 0.0, 3.0 + k] for k in range(extra)]


def geometries(*molecules: tuple[list[int], list[list[float]]]) -> Geometries:
    numbers = np.array([z for zs, _ in molecules for z in zs])
    positions = np.array([x for _, xs in molecules for x in xs])
    return Geometries(numbers, positions, np.array([len(zs) for zs, _ in molecules]))


@pytest.fixture(scope="module")
def ranges() -> TrainingRanges:
    table = Molecules.from_molecules(
        [
            Molecule(np.array(zs), np.array(xs), None, place)
            for place, (zs, xs) in enumerate([water(), water(0.99)])
        ]
    )
    return TrainingRanges.of(table, np.arange(2), {"U0": np.array([-1.0, 2.0])})


def test_what_is_stored(ranges: TrainingRanges) -> None:
    assert (ranges.atoms.least, ranges.atoms.most, ranges.molecules) == (3, 3, 2)
    assert ranges.elements["H"].most == 2
    # 0.96 to 0.99 Å; with four distances the margin is the largest one.
    assert ranges.distances["H-O"] == ((0.86, 1.1),)
    assert ranges.values["U0"].most == 2.0


def test_a_training_molecule_has_no_flag(ranges: TrainingRanges) -> None:
    assert ranges.flags(geometries(water(), water(0.97))) == [[], []]


@pytest.mark.parametrize(
    ("molecule", "flag"),
    [
        (water(1.30), "distance H-O 1.300 Å (training none above 1.10)"),
        (water(0.70), "distance H-O 0.700 Å (training none below 0.86)"),
        (([9, 1], [[0.0, 0.0, 0.0], [0.9, 0.0, 0.0]]), "2 atoms (training 3 to 3)"),
        (([9, 1], [[0.0, 0.0, 0.0], [0.9, 0.0, 0.0]]), "1 atoms of F (training 0 to 0)"),
        (([17, 1], [[0.0, 0.0, 0.0], [1.3, 0.0, 0.0]]), "unknown element Cl"),
        (water(extra=1), "3 atoms of H (training 2 to 2)"),
    ],
)
def test_what_is_outside_says_its_number(
    ranges: TrainingRanges, molecule: tuple[list[int], list[list[float]]], flag: str
) -> None:
    before, found = ranges.flags(geometries(water(), molecule))
    assert before == []
    assert flag in found


def test_a_value_outside(ranges: TrainingRanges) -> None:
    found: list[list[str]] = [[], [], []]
    ranges.flag_values("U0", np.array([0.0, 2.5, np.nan]), "Eh/atom", found)
    assert found == [[], ["U0 2.5 Eh/atom (training -1 to 2)"], []]


def test_chosen_molecules_keep_their_atoms() -> None:
    several = geometries(water(), ([1, 1], [[0.0, 0.0, 0.0], [0.7, 0.0, 0.0]]), water(0.5))
    chosen = several.select(np.array([2, 1]))
    assert chosen.numbers.tolist() == [8, 1, 1, 1, 1]
    assert chosen.positions[1].tolist() == [0.5, 0.0, 0.0]
    assert chosen.counts.tolist() == [3, 2]


@pytest.mark.parametrize(("count", "margin"), [(1, 0.1), (100, 0.05), (2_500, 0.02)])
def test_many_distances_have_narrow_margins(count: int, margin: float) -> None:
    table = Molecules.from_molecules(
        [
            Molecule(np.array([9, 1]), np.array([[0, 0, 0], [0.925, 0, 0]]), None, k)
            for k in range(count)
        ]
    )
    found = TrainingRanges.of(table, np.arange(count), {}).distances["F-H"]
    assert found == ((pytest.approx(0.92 - margin), pytest.approx(0.93 + margin)),)

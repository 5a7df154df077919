from __future__ import annotations

import numpy as np
import pytest
import torch

from hpsearch.config.targets import ELEMENTS, TARGETS
from hpsearch.data.molecule import Molecule, Molecules
from hpsearch.system.errors import InputError

WATER = Molecule(
    np.array([8, 1, 1]),
    np.array([[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]),
    np.arange(12.0),
    7,
)
FLUORINE = Molecule(np.array([9, 9]), np.array([[0, 0, 0], [0, 0, 1]]), None, 3)


def changed(**values: object) -> Molecule:
    return Molecule(**{**WATER.__dict__, **values})  # type: ignore[arg-type]


def test_qm9_has_the_known_sizes(molecules: Molecules) -> None:
    assert len(molecules) == 130_831
    assert molecules.atom_counts.min() == 3
    assert molecules.atom_counts.max() == 29
    assert molecules.atom_counts.mean() == pytest.approx(18.03, abs=0.01)
    assert molecules.identifiers[[0, -1]].tolist() == [1, 133_885]
    assert (np.diff(molecules.identifiers) > 0).all()


def test_gap_is_lumo_less_homo(molecules: Molecules) -> None:
    names = [target.name for target in TARGETS]
    homo, lumo, gap = (molecules.targets[:, names.index(n)] for n in ("homo", "lumo", "gap"))
    assert np.abs(gap - (lumo - homo)).max() <= 0.000_1 + 1e-12


def test_methane_is_read_as_published(molecules: Molecules) -> None:
    methane = molecules.molecule(0)
    assert methane.atomic_numbers.tolist() == [6, 1, 1, 1, 1]
    assert methane.positions[0] == pytest.approx([-0.0126981359, 1.0858041578, 0.0080009958])
    assert methane.targets is not None
    assert methane.targets.tolist() == [
        0.0, 13.21, -0.3877, 0.1171, 0.5048, 35.3641, 0.044749,
        -40.47893, -40.476062, -40.475117, -40.498597, 6.469,
    ]  # fmt: skip


def test_columns_have_the_documented_types(molecules: Molecules) -> None:
    assert molecules.element_indices.dtype == np.uint8
    assert molecules.positions.dtype == np.float32
    assert molecules.offsets.dtype == np.int64
    assert molecules.targets.dtype == np.float64
    assert molecules.identifiers.dtype == np.int32
    assert molecules.targets.shape == (130_831, 12)
    assert molecules.positions.shape == (molecules.offsets[-1], 3)


def test_batch_is_the_molecules_one_after_another(molecules: Molecules) -> None:
    rows = np.random.default_rng(0).integers(0, len(molecules), 16)
    rows[-1] = len(molecules) - 1
    batch = molecules.batch(rows)
    single = [molecules.molecule(int(row)) for row in rows]
    assert batch.counts.tolist() == [len(m.atomic_numbers) for m in single]
    numbers = torch.tensor(ELEMENTS)[batch.elements].numpy()
    np.testing.assert_array_equal(numbers, np.concatenate([m.atomic_numbers for m in single]))
    np.testing.assert_array_equal(
        batch.positions.numpy(), np.concatenate([m.positions for m in single])
    )
    assert (batch.elements.dtype, batch.positions.dtype, batch.counts.dtype) == (
        torch.int64,
        torch.float32,
        torch.int64,
    )


def test_empty_batch() -> None:
    batch = Molecules.from_molecules([WATER]).batch([])
    assert batch.elements.shape == (0,)
    assert batch.positions.shape == (0, 3)
    assert batch.counts.shape == (0,)


def test_batch_moves_whole() -> None:
    batch = Molecules.from_molecules([WATER]).batch([0]).to("meta")
    assert {t.device.type for t in (batch.elements, batch.positions, batch.counts)} == {"meta"}


def test_element_counts_count_one_by_one(molecules: Molecules) -> None:
    rows = [5, 130_830, 0, 77_777, 5]
    expected = [
        [(molecules.molecule(row).atomic_numbers == z).sum() for z in ELEMENTS] for row in rows
    ]
    assert molecules.element_counts(rows).tolist() == expected
    assert molecules.element_counts([]).shape == (0, 5)


def test_select_keeps_the_rows_order(molecules: Molecules) -> None:
    chosen = molecules.select([40, 2, 9])
    assert chosen.identifiers.tolist() == [41, 3, 10]
    for row, origin in enumerate([40, 2, 9]):
        a, b = chosen.molecule(row), molecules.molecule(origin)
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.atomic_numbers, b.atomic_numbers)
        assert a.targets is not None
        np.testing.assert_array_equal(a.targets, b.targets)


def test_own_molecules_come_back() -> None:
    table = Molecules.from_molecules([WATER, FLUORINE])
    water, fluorine = table.molecule(0), table.molecule(1)
    assert water.atomic_numbers.tolist() == [8, 1, 1]
    np.testing.assert_array_equal(water.positions, WATER.positions.astype(np.float32))
    assert water.targets is not None
    np.testing.assert_array_equal(water.targets, np.arange(12.0))
    assert fluorine.targets is None
    assert (water.identifier, fluorine.identifier) == (7, 3)


@pytest.mark.parametrize(
    ("molecule", "words"),
    [
        (changed(atomic_numbers=np.array([16, 1, 1])), "atomic numbers among 1, 6, 7, 8, 9"),
        (changed(atomic_numbers=np.array([-1, 1, 1])), "atomic numbers among"),
        (changed(atomic_numbers=np.array([264, 1, 1])), "atomic numbers among"),
        (changed(atomic_numbers=np.array([8.0, 1.0, 1.0])), "as atomic_numbers"),
        (changed(atomic_numbers=np.array([]), positions=np.zeros((0, 3))), "at least one atom"),
        (changed(positions=np.zeros((2, 3))), "3 x 3 numbers as positions; got float64"),
        (changed(positions=[[0.0], [1.0, 2.0], []]), "as positions"),
        (changed(positions=np.full((3, 3), np.nan)), "finite positions"),
        (changed(positions=np.full((3, 3), 1e39)), "finite positions"),
        (changed(targets=np.zeros(11)), "12 numbers as targets"),
        (changed(targets=np.full(12, np.inf)), "finite targets"),
        (changed(targets=np.full(12, np.nan)), "finite targets"),
        (changed(identifier=-1), "an identifier between 0 and"),
        (changed(identifier=2**40), "an identifier between 0 and"),
        (changed(identifier=2**80), "whole number"),
        (changed(identifier=1.5), "whole number"),
        (FLUORINE, "must have a unique identifier"),
    ],
)
def test_what_is_no_molecule_is_refused(molecule: Molecule, words: str) -> None:
    with pytest.raises(InputError) as error:
        Molecules.from_molecules([FLUORINE, molecule])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_no_molecules_are_refused() -> None:
    with pytest.raises(InputError, match="at least one molecule"):
        Molecules.from_molecules([])


@pytest.mark.parametrize("rows", [[-1], [2], [0, 5]])
def test_rows_that_do_not_exist_are_refused(rows: list[int]) -> None:
    table = Molecules.from_molecules([WATER, FLUORINE])
    with pytest.raises(IndexError, match="between 0 and 1"):
        table.batch(rows)


def test_masks_are_not_taken_for_rows() -> None:
    with pytest.raises(TypeError, match="whole numbers"):
        Molecules.from_molecules([WATER, FLUORINE]).batch([True, False])


def test_hash_sees_every_column() -> None:
    def hash_of(molecule: Molecule) -> str:
        return Molecules.from_molecules([molecule, FLUORINE]).content_hash

    variants = [
        WATER,
        changed(identifier=8),
        changed(atomic_numbers=np.array([1, 8, 1])),
        changed(positions=WATER.positions + np.array([0, 0, 1e-6])),
        changed(targets=np.arange(12.0) + 1e-12),
    ]
    assert len({hash_of(variant) for variant in variants}) == len(variants)
    assert hash_of(WATER) == hash_of(changed())


def test_hash_does_not_see_the_sign_of_zero() -> None:
    negative = changed(positions=np.where(WATER.positions == 0, -0.0, WATER.positions))
    tables = [Molecules.from_molecules([m]) for m in (WATER, negative)]
    assert tables[0].content_hash == tables[1].content_hash

"""Files of molecules: bounded memory, reading from a place, molecules that cannot be read."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import spoil

from hpsearch import formats
from hpsearch.config.declaration import MoleculeSource
from hpsearch.data import qm9
from hpsearch.formats import START, Part, Wanted, ase_files, part, read_parts
from hpsearch.system.errors import InputError

SKIP = Wanted((), None, None, labels=False, skip=True)
STOP = Wanted((), None, None, labels=False)
GOOD = "2\nenergy=1\nH 0 0 0\nF 0 0 0.92\n"


@pytest.fixture(scope="module")
def rows() -> spoil.Rows:
    return spoil.rows_of(qm9.load())


@pytest.fixture
def parts_of_five(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (part, formats.npz, formats.parquet, formats.raw_qm9):
        monkeypatch.setattr(module, "MOLECULES_PER_PART", 5)
    monkeypatch.setattr(ase_files, "_ROWS_AT_ONCE", 4)


def same(first: Part, second: Part) -> bool:
    arrays = ("counts", "numbers", "positions", "labels")
    lists = ("identifiers", "groups", "places", "reached", "problems")
    return all(np.array_equal(getattr(first, a), getattr(second, a)) for a in arrays) and all(
        getattr(first, a) == getattr(second, a) for a in lists
    )


# --- From a place ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("parts_of_five")
@pytest.mark.parametrize("format", spoil.WRITERS)
def test_reading_goes_on_where_a_part_ended(format: str, rows: spoil.Rows, tmp_path: Path) -> None:
    source = spoil.WRITERS[format](tmp_path, rows)
    wanted = Wanted((), source.identifier, None, labels=False)
    whole = list(read_parts(source, wanted))
    assert [one.reached.molecules for one in whole] == [5, 10, 12]
    for number, one in enumerate(whole):
        again = list(read_parts(source, wanted, start=one.reached))
        assert len(again) == len(whole) - number - 1
        assert all(map(same, again, whole[number + 1 :]))
    shares = [one.reached.share for one in whole]
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.usefixtures("parts_of_five")
def test_a_folder_of_parquet_goes_on_in_its_second_file(rows: spoil.Rows, tmp_path: Path) -> None:
    folder = tmp_path / "several"
    folder.mkdir()
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        path = Path(spoil.write_parquet(tmp_path / str(number), rows[: 6 + number]).path)
        path.rename(folder / f"{number}.parquet")
    source = MoleculeSource(path=str(folder))
    whole = list(read_parts(source, STOP))
    assert [len(one.counts) for one in whole] == [5, 1, 5, 2, 5, 3]
    for number, one in enumerate(whole):
        again = list(read_parts(source, STOP, start=one.reached))
        assert len(again) == len(whole) - number - 1
        assert all(map(same, again, whole[number + 1 :]))


# --- Bounded memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", ["padded", "concatenated"])
def test_npz_is_not_held_in_memory(
    layout: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats.npz, "MOLECULES_PER_PART", 500)
    molecules, width = 10_000, 20
    numbers = np.ones((molecules, width), dtype=np.uint8)
    positions = np.zeros((molecules, width, 3))
    arrays = {"positions": positions, "numbers": numbers}
    if layout == "concatenated":
        arrays = {"positions": positions.reshape(-1, 3), "numbers": numbers.reshape(-1)}
        arrays["counts"] = np.full(molecules, width)
    arrays["name"] = np.arange(molecules)
    (np.savez_compressed if packed else np.savez)(tmp_path / "a.npz", **arrays)
    size = positions.nbytes
    del arrays, positions, numbers
    tracemalloc.start()
    source = MoleculeSource(path=str(tmp_path / "a.npz"))
    total = sum(len(one.counts) for one in read_parts(source, Wanted((), "name", None)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == molecules
    assert peak < size / 2


def test_an_array_in_fortran_s_order_is_read(tmp_path: Path) -> None:
    positions = np.arange(36.0).reshape(4, 3, 3)
    np.savez(tmp_path / "a.npz", R=np.asfortranarray(positions), z=np.array([8, 1, 1]))
    [one] = read_parts(MoleculeSource(path=str(tmp_path / "a.npz")), STOP)
    assert np.array_equal(one.positions, positions.reshape(-1, 3))


def test_a_group_of_rows_of_parquet_is_not_held_in_memory(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    molecules = 60_000
    numbers = np.random.default_rng(0).normal(size=molecules * 12)
    ends = pa.array(np.arange(0, 12 * molecules + 1, 12), pa.int32())
    positions = pa.ListArray.from_arrays(ends, pa.array(numbers))
    elements = pa.array([[1, 1, 1, 1]] * molecules)
    pq.write_table(pa.table({"positions": positions, "numbers": elements}), tmp_path / "a.parquet")
    size = (tmp_path / "a.parquet").stat().st_size
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        total = 0
        for one in read_parts(MoleculeSource(path=str(tmp_path / "a.parquet")), STOP):
            total += len(one.counts)
    finally:
        pa.set_memory_pool(before)
    assert total == molecules
    assert pool.max_memory() < size


def test_a_few_rows_of_a_database_are_selected_at_a_time(
    rows: spoil.Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ase.db.sqlite import SQLite3Database

    monkeypatch.setattr(ase_files, "_ROWS_AT_ONCE", 5)
    limits, select = [], SQLite3Database.select

    def noted(*given: object, **options: object) -> object:
        limits.append(options["limit"])
        return select(*given, **options)

    monkeypatch.setattr(SQLite3Database, "select", noted)
    [one] = read_parts(spoil.write_database(tmp_path, rows), STOP)
    assert len(one.counts) == 12
    assert limits == [5, 5, 5]


# --- Molecules that cannot be read ----------------------------------------------------------------


def skipped(source: MoleculeSource, wanted: Wanted = SKIP) -> Part:
    """The only part, after a check that the same file is refused without ``skip``."""
    with pytest.raises(InputError) as error:
        list(read_parts(source, STOP))
    spoil.check(str(error.value), source)
    [one] = read_parts(source, wanted)
    for number, text in one.problems.items():
        assert one.counts[number] == 0
        assert "\n" not in text
        assert source.path not in text
    assert one.counts.sum() == len(one.numbers) == len(one.positions)
    return one


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("1\n\nO 0 0 x\n", "line 7: a position must be a finite number, got 'x'"),
        ("1\n\nQq 0 0 0\n", "line 7: an element must be a symbol such as H or Cl, got 'Qq'"),
        ("1\n\nH 0 0\n", "line 7: an atom must have an element and three positions, got 3"),
        ('1\nLattice="9 0 0 0 9 0 0 0 9"\nH 0 0 0\n', "line 6: periodic cells are not offered"),
        ("1\nProperties=pos:R:3\n0 0 0\n", "line 6: Properties must have species:S:1"),
        ("0\n\n", "line 5: a molecule must have 1 to 500 atoms, got 0"),
        ("501\n\n" + "H 0 0 0\n" * 501, "line 5: a molecule must have 1 to 500 atoms, got 501"),
    ],
)
def test_a_frame_that_cannot_be_read_lies_between_others(
    bad: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(GOOD + bad + GOOD)
    one = skipped(MoleculeSource(path=str(path)))
    assert one.counts.tolist() == [2, 0, 2]
    assert list(one.problems) == [1]
    assert one.problems[1].startswith(said)
    # The line numbers behind it are right, and its own name is its place.
    assert one.places[2] == f"line {5 + bad.count(chr(10))}"
    path.write_text((GOOD + bad + GOOD).replace("energy=1", "energy=1 name=good"))
    named = Wanted((), "name", None, labels=False, skip=True)
    assert skipped(MoleculeSource(path=str(path)), named).identifiers == ["good", "line 5", "good"]


@pytest.mark.parametrize(
    "bad",
    [
        "x\n\nH 0 0 0\n",
        # One atom too many, too few, and a comment that is missing.
        "2\n\nH 0 0 0\n",
        "1\n\nH 0 0 0\nH 0 0 1\n",
        "1\nH 0 0 0\n",
        "501\n\nH 0 0 0\n",
    ],
)
def test_where_the_next_frame_begins_must_be_known(bad: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(GOOD + bad + GOOD * 3)
    source = MoleculeSource(path=str(path))
    for wanted in (SKIP, STOP):
        with pytest.raises(InputError) as error:
            list(read_parts(source, wanted))
        spoil.check(str(error.value), source)


def of_sdf(folder: Path, rows: spoil.Rows) -> tuple[MoleculeSource, str]:
    source = spoil.write_sdf(folder, rows)
    path = Path(source.path)
    records = path.read_text().split("$$$$\n")
    lines = records[1].splitlines()
    lines[4] = lines[4].replace(".", "x", 1)
    path.write_text("$$$$\n".join([records[0], "\n".join(lines) + "\n", *records[2:]]))
    return source, "molecule 1 (line "


def of_trajectory(folder: Path, rows: spoil.Rows) -> tuple[MoleculeSource, str]:
    import ase.io

    source = spoil.write_trajectory(folder, rows)
    atoms = ase.io.read(source.path, ":")
    atoms[1].pbc = True
    ase.io.write(source.path, atoms)
    return source, "molecule 1: periodic cells are not offered"


def of_database(folder: Path, rows: spoil.Rows) -> tuple[MoleculeSource, str]:
    import ase.db

    with ase.db.connect(folder / "mine.db") as database:
        for number, row in enumerate(rows):
            atoms = spoil.atoms_of(row)
            atoms.pbc = number == 1
            database.write(atoms)
    return MoleculeSource(path=str(folder / "mine.db")), "row 2: periodic cells are not offered"


def of_npz(folder: Path, rows: spoil.Rows) -> tuple[MoleculeSource, str]:
    arrays = spoil.concatenated(rows)
    arrays["positions"][len(rows[0]["numbers"]) + 1] = np.nan
    np.savez(folder / "mine.npz", **arrays)
    return MoleculeSource(path=str(folder / "mine.npz")), (
        "molecule 1: positions must be finite, got nan nan nan for atom 1"
    )


def of_parquet(folder: Path, rows: spoil.Rows) -> tuple[MoleculeSource, str]:
    rows = [dict(row) for row in rows]
    rows[1]["numbers"] = np.full_like(rows[1]["numbers"], 200)
    source = spoil.write_parquet(folder, rows)
    return source, "row 1: an atomic number must be between 1 and"


def of_folder(folder: Path, rows: spoil.Rows) -> tuple[MoleculeSource, str]:
    source = spoil.write_folder(folder, rows)
    (Path(source.path) / "m1.xyz").write_text("1\n\nO 0 0 x\n")
    return source, "m1.xyz, line 3: a position must be a finite number, got 'x'"


@pytest.mark.parametrize(
    "spoilt", [of_sdf, of_trajectory, of_database, of_npz, of_parquet, of_folder]
)
def test_a_molecule_that_cannot_be_read_has_its_reason(
    spoilt: Callable[[Path, spoil.Rows], tuple[MoleculeSource, str]],
    rows: spoil.Rows,
    tmp_path: Path,
) -> None:
    source, said = spoilt(tmp_path, rows)
    one = skipped(source)
    assert len(one.counts) == 12
    assert list(one.problems) == [1]
    assert one.problems[1].startswith(said)


@pytest.mark.usefixtures("parts_of_five")
@pytest.mark.parametrize("packed", [False, True])
def test_files_of_qm9_that_cannot_be_read_come_last(
    packed: bool, rows: spoil.Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = spoil.raw_qm9
    monkeypatch.setattr(
        spoil,
        "raw_qm9",
        lambda row: real(row).replace("gdb", "gdx") if row is rows[2] else real(row),
    )
    source = (spoil.write_qm9 if packed else spoil.write_qm9_folder)(tmp_path, rows)
    with pytest.raises(InputError, match=r"000003.xyz must be a molecule as QM9 publishes it"):
        list(read_parts(source, STOP))
    parts = list(read_parts(source, Wanted((), "index", None, labels=False, skip=True)))
    assert [len(one.counts) for one in parts] == [5, 5, 1, 1]
    assert parts[-1].identifiers == ["dsgdb9nsd_000003.xyz"]
    assert parts[-1].problems[0].startswith("dsgdb9nsd_000003.xyz must be a molecule as QM9")
    assert [one.reached.share for one in parts][-1] == 1


def test_an_sdf_without_an_end_between_two_molecules_is_refused(
    rows: spoil.Rows, tmp_path: Path
) -> None:
    source = spoil.write_sdf(tmp_path, rows)
    text = Path(source.path).read_text()
    Path(source.path).write_text(text.replace("$$$$\n", "", 1))
    with pytest.raises(InputError, match="every molecule ends with"):
        list(read_parts(source, SKIP))


# --- Names without labels -------------------------------------------------------------------------


def test_the_labels_are_not_read_for_names(rows: spoil.Rows, tmp_path: Path) -> None:
    source = spoil.write_sdf_and_csv(tmp_path, rows)
    Path(str(source.labels)).write_text("no table")
    [one] = read_parts(source, Wanted((), "name", None, labels=False))
    assert one.identifiers == [row["name"] for row in rows]
    folder = spoil.write_folder(tmp_path, rows).model_copy(
        update={"labels": source.labels, "identifier": "id"}
    )
    [one] = read_parts(folder, Wanted((), "id", None, labels=False))
    assert one.identifiers == sorted(str(row["name"]) for row in rows)
    assert one.reached != START

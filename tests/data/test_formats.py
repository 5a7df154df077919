from __future__ import annotations

import builtins
import csv
import gzip
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spoil

from hpsearch import formats
from hpsearch.config.declaration import MOST_ATOMS, MoleculeSource
from hpsearch.config.targets import QM9_TARGETS
from hpsearch.data.molecule import Molecules
from hpsearch.formats import (
    Part,
    Wanted,
    extxyz,
    format_of,
    label_names,
    part,
    read_parts,
    source_files,
)
from hpsearch.system.errors import InputError

NOTHING = Wanted((), None, None)
ENERGY = Wanted(("energy",), None, None)


@pytest.fixture(scope="module")
def rows(molecules: Molecules) -> spoil.Rows:
    return spoil.rows_of(molecules)


def whole(source: MoleculeSource, wanted: Wanted) -> Part:
    """All parts as one."""
    parts = list(read_parts(source, wanted))
    names = {"identifiers": wanted.identifier, "groups": wanted.group}
    lists = {
        name: None if column is None else [x for p in parts for x in getattr(p, name)]
        for name, column in names.items()
    }
    return Part(
        counts=np.concatenate([p.counts for p in parts]),
        numbers=np.concatenate([p.numbers for p in parts]),
        positions=np.concatenate([p.positions for p in parts]),
        labels=np.concatenate([p.labels for p in parts]),
        places=[place for p in parts for place in p.places],
        **lists,
    )


def refusal(source: MoleculeSource | Path, wanted: Wanted = NOTHING) -> str:
    """The text of the refusal: one line that names the file."""
    if isinstance(source, Path):
        source = MoleculeSource(path=str(source))
    with pytest.raises(InputError) as error:
        list(read_parts(source, wanted))
    text = str(error.value)
    spoil.check(text, source)
    return text


def text_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


WATER = ("O 0.0 0.0 0.1", "H 0.0 0.8 -0.5", "H 0.0 -0.8 -0.5")


def water(path: Path, comment: str = "energy=-76.4", atoms: tuple[str, ...] = WATER) -> Path:
    return text_file(path, "3", comment, *atoms)


# --- every format, written by its own library -----------------------------------------------------

PLACES = {
    "extxyz": ["line 1", "line 8", "line 14"],
    "extxyz.gz": ["line 1", "line 8", "line 14"],
    "ase-db": ["row 1", "row 2", "row 3"],
    "traj": ["molecule 0", "molecule 1", "molecule 2"],
    "xyz": ["m0.xyz", "m1.xyz", "m10.xyz"],
    "sdf": ["molecule 0", "molecule 1", "molecule 2"],
    "sdf+csv": ["molecule 0", "molecule 1", "molecule 2"],
    "npz": ["molecule 0", "molecule 1", "molecule 2"],
    "npz concatenated": ["molecule 0", "molecule 1", "molecule 2"],
    "parquet": ["row 0", "row 1", "row 2"],
    "qm9": ["molecule 1", "molecule 2", "molecule 3"],
    "qm9 folder": ["molecule 1", "molecule 2", "molecule 3"],
}
DECIMALS = {
    "qm9": 10,
    "qm9 folder": 10,
    "sdf": 4,
    "sdf+csv": 4,
    "extxyz": 8,
    "extxyz.gz": 8,
    "xyz": 8,
}


@pytest.mark.parametrize("format", spoil.WRITERS)
def test_what_is_written_is_read(format: str, rows: spoil.Rows, tmp_path: Path) -> None:
    source = spoil.WRITERS[format](tmp_path, rows)
    expected = sorted(rows, key=lambda row: row["name"]) if format == "xyz" else rows
    read = whole(source, spoil.wanted_of(format))
    assert read.counts.tolist() == [len(row["numbers"]) for row in expected]
    assert read.numbers.tolist() == [n for row in expected for n in row["numbers"]]
    positions = np.concatenate([row["positions"] for row in expected])
    if format in DECIMALS:
        # These formats hold so many decimals; zeros lose their sign.
        positions = np.array(
            [[float(f"{x:.{DECIMALS[format]}f}") for x in xyz] for xyz in positions]
        )
    assert (read.positions == positions).all()
    assert read.labels.tolist() == [[row["energy"], row["gap"]] for row in expected]
    assert read.places[:3] == PLACES[format]
    if format.startswith("qm9"):
        assert read.identifiers == [str(row["index"]) for row in expected]
    else:
        assert read.identifiers == [row["name"] for row in expected]
        assert read.groups == [row["family"] for row in expected]
    assert read.positions.dtype == read.labels.dtype == np.float64
    assert read.counts.dtype == read.numbers.dtype == np.int64


@pytest.mark.parametrize("format", spoil.WRITERS)
def test_the_format_is_found_and_its_labels_are_offered(
    format: str, rows: spoil.Rows, tmp_path: Path
) -> None:
    source = spoil.WRITERS[format](tmp_path, rows)
    plain = {"extxyz.gz": "extxyz", "sdf+csv": "sdf", "npz concatenated": "npz"}
    expected = plain.get(format, "qm9" if format.startswith("qm9") else format)
    assert format_of(source.model_copy(update={"format": None})) == expected
    if expected == "qm9":
        assert label_names(source) == list(QM9_TARGETS.names)
    else:
        assert set(label_names(source)) == {"energy", "gap"}


@pytest.mark.parametrize("format", spoil.WRITERS)
def test_all_read_files_are_named(format: str, rows: spoil.Rows, tmp_path: Path) -> None:
    source = spoil.WRITERS[format](tmp_path, rows)
    files = source_files(source)
    assert files == sorted(
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and (format != "extxyz.gz" or path.suffix == ".gz")
    )


@pytest.mark.parametrize("format", spoil.WRITERS)
def test_an_absent_target_is_refused_with_those_of_the_file(
    format: str, rows: spoil.Rows, tmp_path: Path
) -> None:
    source = spoil.WRITERS[format](tmp_path, rows)
    text = refusal(source, Wanted(("gab",), None, None))
    assert "must have values of gab, got none; the file has:" in text
    assert text.endswith("did you mean gap?")


@pytest.mark.parametrize("format", [name for name in spoil.WRITERS if name != "sdf+csv"])
def test_an_absent_identifier_or_group_is_refused(
    format: str, rows: spoil.Rows, tmp_path: Path
) -> None:
    source = spoil.WRITERS[format](tmp_path, rows)
    assert "identifier nosuch" in refusal(source, Wanted((), "nosuch", None))
    assert "group nosuch" in refusal(source, Wanted((), None, "nosuch"))


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["extxyz", "npz", "parquet", "traj"])
def test_parts_are_bounded(
    format: str, rows: spoil.Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (part, formats.npz, formats.parquet):
        monkeypatch.setattr(module, "MOLECULES_PER_PART", 5)
    parts = list(read_parts(spoil.WRITERS[format](tmp_path, rows), spoil.WANTED))
    assert [len(p.places) for p in parts] == [5, 5, 2]
    assert [len(p.positions) for p in parts] == [p.counts.sum() for p in parts]
    assert [x for p in parts for x in p.labels[:, 0]] == [row["energy"] for row in rows]


def test_the_progress_is_said(
    rows: spoil.Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "_PROGRESS", 5)
    said: list[str] = []
    list(read_parts(spoil.write_extxyz(tmp_path, rows), NOTHING, said.append))
    assert said == ["read 5 molecules from mine.extxyz", "read 10 molecules from mine.extxyz"]


def test_a_label_that_some_lack_is_not_a_number(tmp_path: Path) -> None:
    path = text_file(
        tmp_path / "a.xyz",
        "1",
        "energy=1.5",
        "H 0 0 0",
        "1",
        "",
        "H 0 0 0",
        "1",
        "energy=nan",
        "H 0 0 0",
    )
    labels = whole(MoleculeSource(path=str(path)), ENERGY).labels
    assert np.array_equal(labels, [[1.5], [np.nan], [np.nan]], equal_nan=True)


def test_a_number_beside_a_colon_is_refused_with_what_to_write(tmp_path: Path) -> None:
    path = water(tmp_path / "a.xyz", " energy: -5.070 gnorm: 0.0003 xtb: 6.7.1")
    assert refusal(path, ENERGY).endswith("; write it in the comment line as energy=-1.5")


def test_a_target_without_any_number_is_refused(tmp_path: Path) -> None:
    text = refusal(water(tmp_path / "a.xyz", "energy=nan gap=1"), ENERGY)
    assert "must have values of energy, got none; the file has: gap" in text


def test_warnings_of_libraries_are_kept_from_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*arguments: object) -> Any:
        warnings.warn("from a library", stacklevel=1)
        yield "a part"

    monkeypatch.setattr(formats, "_parts", warn)
    assert list(read_parts(MoleculeSource(path="a.xyz"), NOTHING)) == ["a part"]


def test_no_filter_of_warnings_stays_between_parts(rows: spoil.Rows, tmp_path: Path) -> None:
    parts = read_parts(spoil.write_trajectory(tmp_path, rows), NOTHING)
    before = list(warnings.filters)
    next(parts)
    assert list(warnings.filters) == before


# --- extxyz and xyz -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comment", "value"),
    [
        ("energy=-1.5", -1.5),
        ("energy = -1.5 eV", -1.5),
        ('energy="-1.5"', -1.5),
        ("energy='-1.5'", -1.5),
        ("energy=-1.5e0 free_energy=-7", -1.5),
        ("free_energy=-7 energy=-1.5", -1.5),
        ('name="a \\"b\\" = energy=3" energy=-1.5', -1.5),
        ("smiles=C=C energy=-1.5 flag", -1.5),
        ("smiles=[H]C#N energy=-1.5", -1.5),
        ("empty= energy=-1.5", -1.5),
        ("dipole=[1, 2, 3] energy=-1.5 q={1 2}", -1.5),
        ('m=[[1, 0], [0, 1]] "energy"=-1.5', -1.5),
        ('stress="_JSON [[1, 2]]" energy=-1.5 ok=T', -1.5),
        ("energy=-1.5 energy=-1.5", -1.5),
        ('it\'s water, energy=-1.5 = "best"', None),
    ],
)
def test_comments_are_read(comment: str, value: float | None, tmp_path: Path) -> None:
    source = MoleculeSource(path=str(water(tmp_path / "a.xyz", comment)))
    if value is None:
        assert "closed quotes" in refusal(source, ENERGY)
    else:
        assert whole(source, ENERGY).labels.tolist() == [[value]]


@pytest.mark.parametrize(
    "comment", ["", "water", 'from "B3LYP', "5' end = == ?", "Lattice is none"]
)
def test_free_text_is_a_comment(comment: str, tmp_path: Path) -> None:
    source = MoleculeSource(path=str(water(tmp_path / "a.xyz", comment)))
    assert whole(source, NOTHING).numbers.tolist() == [8, 1, 1]


@pytest.mark.parametrize(
    ("properties", "atoms"),
    [
        ("species:S:1:pos:R:3", WATER),
        ("Z:I:1:pos:R:3", ("8 0.0 0.0 0.1", "1 0.0 0.8 -0.5", "1 0.0 -0.8 -0.5")),
        ("pos:R:3:species:S:1", ("0.0 0.0 0.1 O", "0.0 0.8 -0.5 H", "0.0 -0.8 -0.5 H")),
        ("id:I:1:species:S:1:pos:R:3:fix:L:1", tuple(f"1 {atom} T" for atom in WATER)),
        (None, ("8 0.0 0.0 0.1", "1 0.0 0.8 -0.5", "1 0.0 -0.8 -0.5")),
        (None, tuple(f"{atom} 0.25" for atom in WATER)),
    ],
)
def test_columns_are_found(properties: str | None, atoms: tuple[str, ...], tmp_path: Path) -> None:
    comment = "" if properties is None else f"Properties={properties}"
    source = MoleculeSource(path=str(water(tmp_path / "a.extxyz", comment, atoms)))
    read = whole(source, NOTHING)
    assert read.numbers.tolist() == [8, 1, 1]
    assert read.positions.tolist() == [[0, 0, 0.1], [0, 0.8, -0.5], [0, -0.8, -0.5]]


def test_a_free_energy_is_no_energy(tmp_path: Path) -> None:
    text = refusal(water(tmp_path / "a.xyz", "free_energy=-7"), ENERGY)
    assert "the file has: free_energy" in text


def test_line_ends_of_other_systems_and_blank_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    text = "\r\n".join(["3", "energy=-1", *WATER, "", "3", "energy=-2", *WATER, "", ""])
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    read = whole(MoleculeSource(path=str(path)), ENERGY)
    assert read.labels.tolist() == [[-1], [-2]]
    assert read.places == ["line 1", "line 7"]


@pytest.mark.parametrize(
    "comment",
    ['Lattice="9 0 0 0 9 0 0 0 9" pbc="F F F"', 'Lattice="0 0 0 0 0 0 0 0 0"', 'pbc="F F F"'],
)
def test_a_cell_without_periods_is_read(comment: str, tmp_path: Path) -> None:
    source = MoleculeSource(path=str(water(tmp_path / "a.xyz", comment)))
    assert len(whole(source, NOTHING).places) == 1


@pytest.mark.parametrize(
    "comment",
    [
        'Lattice="9 0 0 0 9 0 0 0 9"',
        'Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T"',
        'Lattice="9 0 0 0 9 0 0 0 9" pbc="F F T"',
        "Lattice=[9,0,0,0,9,0,0,0,9] pbc=[true,true,true]",
    ],
)
def test_periodic_cells_are_refused(comment: str, tmp_path: Path) -> None:
    text = refusal(water(tmp_path / "a.xyz", comment))
    assert "a.xyz', line 2: periodic cells are not offered" in text


BAD_XYZ: dict[str, tuple[list[str], str]] = {
    "no number of atoms": (["water", "", *WATER], "line 1: a molecule must begin with"),
    "too many counted": (["4", "", *WATER], "line 1: a molecule must have as many lines"),
    "too few counted": (
        ["2", "", *WATER],
        "line 5: a molecule must begin with its number of atoms",
    ),
    "count of the first": (["4", "", *WATER, "3", "", *WATER], "line 6: an atom must have"),
    "no atoms": (["0", ""], f"line 1: a molecule must have 1 to {MOST_ATOMS} atoms, got 0"),
    "many atoms": ([f"{MOST_ATOMS + 1}", ""], f"1 to {MOST_ATOMS} atoms, got {MOST_ATOMS + 1}"),
    "negative": (["-3", "", *WATER], "line 1: a molecule must begin with"),
    "cut off": (["3", "", *WATER[:2]], "got 2 lines for 3 atoms"),
    "cut off in the line": (["3", "", *WATER[:2], "H 0.0 -0.8"], "line 5: an atom must have"),
    "nan": (["3", "", WATER[0], "H nan 0 0", WATER[2]], "line 4: a position must be a finite"),
    "inf": (["3", "", WATER[0], WATER[1], "H 0 0 1e999"], "line 5: a position must be a finite"),
    "text": (
        ["3", "", "O 0 0 a", *WATER[1:]],
        "line 3: a position must be a finite number, got 'a'",
    ),
    "Fortran's exponent": (
        ["3", "", "O 0 0 1.5D-01", *WATER[1:]],
        "line 3: a position must be a finite number, got '1.5D-01'; write 1.5e-01",
    ),
    "Mathematica's exponent": (
        ["3", "", "O 0 0 1.5*^-1", *WATER[1:]],
        "got '1.5*^-1'; write 1.5e-1",
    ),
    "Fortran's exponent in a label": (
        ["3", "energy=-7.6D+01", *WATER],
        "got the text '-7.6D+01'; write -7.6e+01; ",
    ),
    "underscore": (["3", "", "O 0 0 1_0", *WATER[1:]], "line 3: a position must be a finite"),
    "digits": (["3", "", "O 0 0 ٣", *WATER[1:]], "line 3: a position must be a finite number"),
    "element": (["3", "", "Xx 0 0 0", *WATER[1:]], "line 3: an element must be a symbol"),
    "case": (
        ["3", "", "CL 0 0 0", *WATER[1:]],
        "line 3: an element must be a symbol such as H or Cl, got 'CL'; did you mean Cl?",
    ),
    "no element": (["3", "", "0 0 0 0", *WATER[1:]], "line 3: an element must be a symbol"),
    "columns": (
        ["3", "Properties=species:S:1:pos:R:3", "O 0 0 0 1", *WATER[1:]],
        "line 3: an atom must have 4 columns, got 5",
    ),
    "properties": (["3", "Properties=species:S:1", *WATER], "line 2: Properties must have"),
    "property triples": (
        ["3", "Properties=species:S", *WATER],
        "line 2: Properties must be triples",
    ),
    "property of width 0": (["3", "Properties=species:S:1:pos:R:3:a:R:0", *WATER], "line 2: Prop"),
    "an open quote": (["3", 'Properties=species:S:1:pos:R:3 a="b', *WATER], "line 2: the comment"),
    "text as label": (
        ["3", "energy=low", *WATER],
        "line 2: energy must be one finite number of the molecule, got the text 'low'",
    ),
    "array as label": (
        ["3", 'energy="1 2 3"', *WATER],
        "line 2: energy must be one finite number of the molecule, got an array of 3 numbers",
    ),
    "truth as label": (["3", "energy=T", *WATER], "got the text 'T'"),
    "overflowing label": (
        ["3", "energy=1e999", *WATER],
        "line 2: energy must be one finite number of the molecule, got an infinite number",
    ),
    "infinite label": (["3", "energy=inf", *WATER], "line 2: energy must be one finite number"),
    "atoms as label": (
        ["3", "Properties=species:S:1:pos:R:3:energy:R:1", *(f"{atom} 1" for atom in WATER)],
        "got one value per atom",
    ),
    "two values": (["3", "energy=1 energy=2", *WATER], "got two values, '1' and '2'"),
}


@pytest.mark.parametrize("case", BAD_XYZ)
def test_a_bad_xyz_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    lines, expected = BAD_XYZ[case]
    text = refusal(text_file(tmp_path / "bad.xyz", *lines), ENERGY)
    assert "bad.xyz', line " in text
    assert expected in text


def test_other_encodings_are_refused_with_the_line(tmp_path: Path) -> None:
    path = water(tmp_path / "a.xyz", "Å")
    path.write_bytes(path.read_bytes().decode().encode("latin-1"))
    assert "a.xyz', line 2: the file must be UTF-8 text, got the byte 0xc5" in refusal(path)
    path.write_bytes(b"1\n\nH 0 0 0\n1\n\nH 0 0 \xff\n")
    assert "a.xyz', line 6: the file must be UTF-8 text, got the byte 0xff" in refusal(path)
    path.write_bytes(b"1\n" + b" " * 5_000 + b"a\0b\nH 0 0 0\n")
    assert "a.xyz', line 2: the file must be text, got the character NUL" in refusal(path)


def test_large_files_are_fast_enough(tmp_path: Path) -> None:
    # 2 ms a molecule would be over three minutes for 100,000; the reader needs about 0.2 ms.
    import time

    lines = ["20", "energy=-1.5", *(["C 0.12345678 1.12345678 2.12345678"] * 20)]
    path = text_file(tmp_path / "a.xyz", *(lines * 2_000))
    start = time.process_time()
    assert len(whole(MoleculeSource(path=str(path)), ENERGY).places) == 2_000
    assert time.process_time() - start < 4


# --- files of every kind --------------------------------------------------------------------------

ONE_FILE = ["extxyz", "ase-db", "traj", "sdf", "npz", "parquet", "qm9"]
ENDING = {
    "extxyz": ".extxyz",
    "ase-db": ".db",
    "traj": ".traj",
    "sdf": ".sdf",
    "npz": ".npz",
    "parquet": ".parquet",
    "qm9": ".tar.bz2",
}


@pytest.mark.parametrize("format", ONE_FILE)
def test_a_missing_file_is_refused(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine{ENDING[format]}"
    assert f"mine{ENDING[format]}' must exist" in refusal(path)
    with pytest.raises(InputError, match="must exist"):
        label_names(MoleculeSource(path=str(path)))
    with pytest.raises(InputError, match="must exist"):
        source_files(MoleculeSource(path=str(path)))


@pytest.mark.parametrize("format", ONE_FILE)
@pytest.mark.parametrize(
    "content", [b"", b"\n\n", bytes(range(256)) * 9, b"\x00" * 700, b"PK\x03\x04" + b"\xff" * 99]
)
def test_empty_and_other_files_are_refused(format: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"mine{ENDING[format]}"
    path.write_bytes(content)
    assert f"mine{ENDING[format]}" in refusal(path)


@pytest.mark.parametrize("format", [name for name in ONE_FILE if name not in ("extxyz", "sdf")])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_cut_off_file_is_refused(
    format: str, kept: float, rows: spoil.Rows, tmp_path: Path
) -> None:
    path = Path(spoil.WRITERS[format](tmp_path, rows).path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    refusal(path, spoil.wanted_of(format))


@pytest.mark.parametrize("format", [name for name in ONE_FILE if name != "qm9"])
def test_a_file_that_may_not_be_read_is_refused(
    format: str, rows: spoil.Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = spoil.WRITERS[format](tmp_path, rows)

    def refuse(self: Path, *args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert "must be readable, got: Permission denied" in refusal(source)


@pytest.mark.parametrize(
    ("written", "read"),
    [("npz", "extxyz"), ("traj", "ase-db"), ("extxyz", "parquet"), ("ase-db", "npz")],
)
def test_a_wrong_ending_is_refused_with_the_format(
    written: str, read: str, rows: spoil.Rows, tmp_path: Path
) -> None:
    path = Path(spoil.WRITERS[written](tmp_path, rows).path)
    path = path.rename(tmp_path / f"mine{ENDING[read]}")
    text = refusal(path)
    assert f"for the format {read}, got " in text
    assert (f"set format: {written}" in text) == (written != "extxyz")
    if written != "extxyz":
        source = MoleculeSource.model_validate({"path": str(path), "format": written})
        assert len(whole(source, NOTHING).places) == len(rows)


@pytest.mark.parametrize("name", ["mine.pkl", "mine.pickle", "mine.npy", "mine.pt"])
def test_a_pickle_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"energy": [1.0]}))
    text = refusal(tmp_path / name)
    assert name in text
    assert "a pickle can run any program" in text


def test_a_pickle_is_refused_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "mine.extxyz").write_bytes(pickle.dumps({"energy": [1.0]}))
    assert "must not be a pickle" in refusal(tmp_path / "mine.extxyz")


@pytest.mark.parametrize("name", ["mine.smi", "mine.csv", "mine.tsv"])
def test_smiles_are_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    text = refusal(text_file(tmp_path / name, "smiles,energy", "CC,-1"))
    assert name in text
    assert "ETKDG" in text


@pytest.mark.parametrize("name", ["mine.cif", "mine.h5", "mine"])
def test_an_unknown_format_is_refused_with_all_formats(name: str, tmp_path: Path) -> None:
    text = refusal(text_file(tmp_path / name, "data"))
    assert name in text
    for format in ("extxyz", "ase-db", "traj", "xyz", "sdf", "npz", "parquet", "qm9"):
        assert f"{format} (" in text


def test_a_folder_and_a_device_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "mine.npz").mkdir()
    source = MoleculeSource(path=str(tmp_path / "mine.npz"), format="npz")
    assert "must be a file for the format npz, got a folder" in refusal(source)
    source = MoleculeSource(path=str(tmp_path / "mine.npz"), format="extxyz")
    assert "must be a file for the format extxyz, got a folder" in refusal(source)
    with pytest.raises(InputError, match="'/dev/null' must be a file or a folder, got a device"):
        list(read_parts(MoleculeSource(path="/dev/null", format="extxyz"), NOTHING))


@pytest.mark.parametrize(
    ("format", "library", "extra"),
    [("ase-db", "ase", "ase"), ("traj", "ase", "ase"), ("sdf", "rdkit", "rdkit")],
)
def test_a_missing_library_is_named_with_its_extra(
    format: str,
    library: str,
    extra: str,
    rows: spoil.Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = spoil.WRITERS[format](tmp_path, rows)
    original = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == library:
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError) as error:
        list(read_parts(source, NOTHING))
    assert str(error.value).endswith(f"; install it with: pip install 'hpsearch[{extra}]'")


def test_importing_the_readers_imports_no_library() -> None:
    import subprocess

    code = "import sys, hpsearch.formats; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    names = {name.partition(".")[0] for name in result.stdout.split()}
    assert "hpsearch" in names
    assert not names & {"ase", "rdkit", "pyarrow", "pandas"}


# --- ASE ------------------------------------------------------------------------------------------


def test_constraints_and_free_energies_change_no_label(tmp_path: Path) -> None:
    import ase.db
    import ase.io
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms

    atoms = ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, 1.0]], constraint=FixAtoms([0]))
    atoms.calc = SinglePointCalculator(atoms, energy=-5.0, free_energy=-7.0)
    ase.io.write(tmp_path / "a.traj", atoms)
    with ase.db.connect(tmp_path / "a.db") as database:
        database.write(atoms)
    wanted = Wanted(("energy", "free_energy"), None, None)
    for name in ("a.traj", "a.db"):
        source = MoleculeSource(path=str(tmp_path / name))
        assert whole(source, wanted).labels.tolist() == [[-5.0, -7.0]]


def test_a_name_with_two_values_is_refused(tmp_path: Path) -> None:
    import ase.io
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = ase.Atoms("H", info={"energy": -4.0})
    atoms.calc = SinglePointCalculator(atoms, energy=-5.0)
    ase.io.write(tmp_path / "a.traj", atoms)
    text = refusal(tmp_path / "a.traj", ENERGY)
    assert "molecule 0: energy must be one finite number of the molecule, got two values" in text


def test_data_and_names_of_rows_are_read(tmp_path: Path) -> None:
    import ase.db

    with ase.db.connect(tmp_path / "a.db") as database:
        database.write(ase.Atoms("H"), data={"q": np.array([2.5]), "dipole": np.zeros(3)})
    source = MoleculeSource(path=str(tmp_path / "a.db"))
    read = whole(source, Wanted(("q",), "id", None))
    assert (read.labels.tolist(), read.identifiers) == ([[2.5]], ["1"])
    assert (
        "row 1: dipole must be one finite number of the molecule, got an array of shape (3,)"
        in (refusal(source, Wanted(("dipole",), None, None)))
    )


@pytest.mark.parametrize("name", ["a.traj", "a.db"])
@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        ({"symbols": "H", "cell": [5, 5, 5], "pbc": True}, "periodic cells are not offered"),
        ({"symbols": "H", "positions": [[np.nan, 0, 0]]}, "positions must be finite, got nan"),
        ({"symbols": "X"}, "an atomic number must be between 1 and 118, got 0"),
        ({"symbols": f"H{MOST_ATOMS + 1}"}, f"1 to {MOST_ATOMS} atoms, got {MOST_ATOMS + 1}"),
        ({"symbols": ""}, "atoms, got 0"),
    ],
)
def test_bad_atoms_of_ase_are_refused(
    name: str, atoms: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    import ase.db
    import ase.io

    molecule = ase.Atoms(**atoms)
    if name == "a.db":
        with ase.db.connect(tmp_path / name) as database:
            database.write(ase.Atoms("H"))
            database.write(molecule)
    else:
        ase.io.write(tmp_path / name, [ase.Atoms("H"), molecule])
    text = refusal(tmp_path / name)
    assert expected in text
    assert f"{name}', {'row 2' if name == 'a.db' else 'molecule 1'}: " in text


def test_a_database_of_something_else_is_refused_and_not_changed(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("CREATE TABLE notes (text)")
    connection.close()
    before = (tmp_path / "a.db").read_bytes()
    assert "must be a database of ASE with a table 'systems', got notes" in refusal(
        tmp_path / "a.db"
    )
    assert (tmp_path / "a.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


# --- SDF ------------------------------------------------------------------------------------------


def sdf_of(smiles: str, hydrogens: bool = True, flat: bool = False) -> str:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if flat:
        AllChem.Compute2DCoords(molecule)
    else:
        AllChem.EmbedMolecule(molecule, randomSeed=1)
    if not hydrogens:
        molecule = Chem.RemoveHs(molecule)
    return Chem.MolToMolBlock(molecule)


def test_an_sdf_without_hydrogens_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sdf"
    path.write_text(sdf_of("O") + "$$$$\n" + sdf_of("CCO", hydrogens=False) + "$$$$\n")
    text = refusal(path)
    assert "a.sdf', molecule 1: the molecule must have its hydrogens, got none of 6" in text


@pytest.mark.parametrize("smiles", ["CCO", "c1cc[nH]c1", "[NH3+]CC(=O)[O-]"])
def test_an_sdf_without_one_hydrogen_is_refused(smiles: str, tmp_path: Path) -> None:
    from rdkit import Chem

    molecule = Chem.RWMol(Chem.MolFromMolBlock(sdf_of(smiles), sanitize=False, removeHs=False))
    molecule.RemoveAtom(molecule.GetNumAtoms() - 1)
    path = tmp_path / "a.sdf"
    path.write_text(f"{sdf_of('C')}$$$$\n{Chem.MolToMolBlock(molecule, kekulize=False)}$$$$\n")
    hydrogens = sum(atom.GetAtomicNum() == 1 for atom in molecule.GetAtoms())
    expected = f"molecule 1: the molecule must have its hydrogens, got {hydrogens} of "
    assert f"{expected}{hydrogens + 1}; write" in refusal(path)


@pytest.mark.parametrize("smiles", ["[NH3+]CC(=O)[O-]", "C[N+](=O)[O-]", "[C-]#[O+]", "[CH3]"])
@pytest.mark.parametrize("left_out", ["nothing", "M  CHG", "bonds"])
def test_all_hydrogens_are_there_whatever_the_bonds_say(
    smiles: str, left_out: str, tmp_path: Path
) -> None:
    from rdkit import Chem

    block = sdf_of(smiles)
    if left_out == "bonds" and smiles != "[C-]#[O+]":
        molecule = Chem.RWMol(Chem.MolFromMolBlock(block, sanitize=False, removeHs=False))
        for bond in list(molecule.GetBonds()):
            molecule.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        block = Chem.MolToMolBlock(molecule, kekulize=False)
    lines = block.splitlines(keepends=True)
    path = tmp_path / "a.sdf"
    path.write_text("".join(line for line in lines if not line.startswith(left_out)))
    assert len(whole(MoleculeSource(path=str(path)), NOTHING).places) == 1


@pytest.mark.parametrize("smiles", ["O=C=O", "N#N", "FC(F)(F)F", "[O-][N+](=O)F"])
def test_molecules_that_have_no_hydrogens_are_read(smiles: str, tmp_path: Path) -> None:
    (tmp_path / "a.sdf").write_text(sdf_of(smiles))
    assert len(whole(MoleculeSource(path=str(tmp_path / "a.sdf")), NOTHING).places) == 1


def test_a_drawing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sdf"
    drawing = sdf_of("CCO", flat=True)
    path.write_text(drawing)
    assert "molecule 0: the molecule must have a geometry, got 2D in its header" in refusal(path)
    path.write_text(drawing.replace("2D", "  ", 1))
    assert "must have a geometry, got z = 0 for all atoms" in refusal(path)
    path.write_text(drawing.replace("2D", "3D", 1))
    assert "z = 0 for all atoms around one with four neighbours" in refusal(path)


def test_planar_molecules_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.sdf"
    path.write_text(sdf_of("C=C", flat=True).replace("2D", "3D", 1))
    assert whole(MoleculeSource(path=str(path)), NOTHING).counts.tolist() == [6]


def test_nothing_of_rdkit_reaches_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.sdf"
    path.write_text(sdf_of("CCO").replace(" C ", " Qq", 1))
    refusal(path)
    path.write_text(sdf_of("CCO").replace("  9  8", "  9 88", 1))
    refusal(path)
    assert capfd.readouterr() == ("", "")


def test_an_sdf_that_is_cut_off_is_refused(rows: spoil.Rows, tmp_path: Path) -> None:
    path = Path(spoil.write_sdf(tmp_path, rows).path)
    lines = path.read_text().splitlines()
    for number in range(1, len(lines) - 1):
        if lines[number - 1].startswith("$$$$"):
            continue
        path.write_text("\n".join(lines[:number]))
        if lines[number - 1].startswith("M  END"):
            continue
        assert "mine.sdf', " in refusal(path)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "-40.47893",
            "low",
            "molecule 0: energy must be one finite number of the molecule, got the text 'low'",
        ),
        ("-40.47893", "inf", "molecule 0: energy must be one finite number"),
        (">  <gap>", "   gap", "line 18: a property must begin with > <name>, got '   gap"),
        ("\n>  <gap>", "\n\n0.5\n>  <gap>", "a property must begin with > <name>, got '0.5'"),
        ("$$$$\n", "", "a property must begin with > <name>"),
        (" 1.0858 ", " 1.08 5 ", "line 5: an atom must begin with three numbers of ten characters"),
    ],
)
def test_a_bad_sdf_is_refused(
    old: str, new: str, expected: str, rows: spoil.Rows, tmp_path: Path
) -> None:
    path = Path(spoil.write_sdf(tmp_path, rows).path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert expected in refusal(path, ENERGY)


def test_titles_are_identifiers(rows: spoil.Rows, tmp_path: Path) -> None:
    source = spoil.write_sdf(tmp_path, rows, properties=False)
    assert whole(source, Wanted((), "title", None)).identifiers == [row["name"] for row in rows]


def test_labels_in_the_same_order(rows: spoil.Rows, tmp_path: Path) -> None:
    source = spoil.write_sdf_and_csv(tmp_path, rows)
    source = source.model_copy(update={"identifier": None})
    read = whole(source, Wanted(("energy", "gap"), None, "family"))
    assert read.labels.tolist() == [[row["energy"], row["gap"]] for row in rows]


def test_labels_are_joined_by_name_whatever_their_order(rows: spoil.Rows, tmp_path: Path) -> None:
    source = spoil.write_sdf_and_csv(tmp_path, rows)
    spoil.write_csv(tmp_path / "mine.csv", rows[::-1])
    assert whole(source, spoil.WANTED).labels[:, 0].tolist() == [row["energy"] for row in rows]


def change_csv(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


BAD_CSV: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "a row less": (lambda lines: lines[:-1], "must have a row in"),
    "a name twice": (
        lambda lines: [*lines, lines[3]],
        "line 14: every name must stand once, got 'm2'",
    ),
    "a field less": (
        lambda lines: [*lines[:2], "m1,2", *lines[3:]],
        "line 3: a row must have 4 val",
    ),
    "text": (lambda lines: [lines[0], "m0,low,1,f", *lines[2:]], "line 2 of"),
    "no rows": (lambda lines: lines[:1], "must have rows below its header, got none"),
    "a column twice": (
        lambda lines: ["name,gap,gap,family", *lines[1:]],
        "a column must stand once",
    ),
    "no names": (lambda lines: ["n,energy,gap,family", *lines[1:]], "must have the column name"),
    "an open quote": (lambda lines: [*lines[:5], '"m4,1,2,3', *lines[6:]], "the row must be CSV"),
}


@pytest.mark.parametrize("case", BAD_CSV)
@pytest.mark.parametrize("format", ["sdf+csv", "xyz"])
def test_a_csv_that_does_not_match_is_refused(
    case: str, format: str, rows: spoil.Rows, tmp_path: Path
) -> None:
    source = spoil.WRITERS[format](tmp_path, rows)
    labels = tmp_path / "mine.csv"
    spoil.write_csv(labels, rows)
    source = source.model_copy(update={"labels": str(labels), "identifier": "name"})
    change, expected = BAD_CSV[case]
    change_csv(labels, change)
    if case == "no names":
        # The SDF would be joined in order, but for a name that neither file has.
        wanted = Wanted(("energy",), "nosuch" if format == "sdf+csv" else "name", None)
        assert ("identifier nosuch" if format == "sdf+csv" else expected) in refusal(source, wanted)
        return
    text = refusal(source, Wanted(("energy",), "name", None))
    assert "mine.csv'" in text
    assert expected in text


def test_a_csv_of_another_length_is_refused(rows: spoil.Rows, tmp_path: Path) -> None:
    source = spoil.write_sdf_and_csv(tmp_path, rows).model_copy(update={"identifier": None})
    for change, number in ((lambda lines: lines[:-1], 11), (lambda lines: [*lines, "a,1,2,b"], 12)):
        change_csv(tmp_path / "mine.csv", change)
        if number == 12:
            change_csv(tmp_path / "mine.csv", lambda lines: [*lines, "a,1,2,b"])
            number = 13
        text = refusal(source, ENERGY)
        assert f"got {number} rows for 12 molecules" in text
        assert "mine.csv' must have one row for every molecule" in text


def test_a_csv_with_semicolons_and_gaps_is_read(rows: spoil.Rows, tmp_path: Path) -> None:
    source = spoil.write_sdf_and_csv(tmp_path, rows)
    with (tmp_path / "mine.csv").open(newline="") as file:
        table = list(csv.reader(file))
    table[1][1] = ""
    # In another order: a first name that is not found would join the rows in order.
    table[1:] = table[:0:-1]
    text = "\n".join(";".join(row) for row in table) + "\n"
    (tmp_path / "mine.csv").write_bytes(gzip.compress(text.encode("utf-8-sig")))
    labels = whole(source, spoil.WANTED).labels[:, 0]
    assert np.isnan(labels[0])
    assert labels[1:].tolist() == [row["energy"] for row in rows[1:]]


def test_a_missing_csv_and_labels_of_other_formats_are_refused(
    rows: spoil.Rows, tmp_path: Path
) -> None:
    source = spoil.write_sdf_and_csv(tmp_path, rows)
    (tmp_path / "mine.csv").unlink()
    assert "mine.csv' must exist, got no such file; check labels:" in refusal(source)
    with pytest.raises(InputError, match=r"mine.csv' must exist"):
        source_files(source)
    text = refusal(source.model_copy(update={"path": str(water(tmp_path / "a.xyz"))}))
    assert "must be an SDF or a folder of xyz files to have labels" in text


# --- a folder of xyz files ------------------------------------------------------------------------


def test_labels_of_a_folder_are_joined_by_file_name(rows: spoil.Rows, tmp_path: Path) -> None:
    source = spoil.write_folder(tmp_path, rows)
    source = source.model_copy(
        update={"labels": spoil.write_csv(tmp_path / "mine.csv", rows), "identifier": "name"}
    )
    by_name = {row["name"]: row for row in rows}
    read = whole(source, spoil.WANTED)
    assert read.identifiers is not None
    assert read.labels[:, 1].tolist() == [by_name[name]["gap"] for name in read.identifiers]
    assert whole(source, ENERGY).labels.tolist() == read.labels[:, :1].tolist()
    text = refusal(source.model_copy(update={"identifier": None}), ENERGY)
    assert "must be joined to the files of" in text
    change_csv(
        tmp_path / "mine.csv",
        lambda lines: [lines[0], *(x.replace(",", ".xyz,", 1) for x in lines[1:])],
    )
    assert "got none with name 'm0'; write the names without .xyz" in refusal(source, ENERGY)


def test_file_names_are_identifiers(rows: spoil.Rows, tmp_path: Path) -> None:
    source = spoil.write_folder(tmp_path, rows)
    assert whole(source, Wanted((), "file", None)).identifiers == sorted(r["name"] for r in rows)


def test_a_bad_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    text_file(folder / "notes.txt", "nothing")
    assert "mine' must be a folder with .xyz or .parquet files, got none" in refusal(folder)
    text_file(folder / "0007.xyz", "1", "", "H 0 0 0", "1", "", "H 0 0 0")
    assert "0007.xyz' must hold one molecule" in refusal(folder)
    text_file(folder / "0007.xyz", "1", "", "H 0 0 a")
    assert "0007.xyz', line 3: a position must be a finite number, got 'a'" in refusal(folder)
    text_file(folder / "0007.xyz", "1", "energy=low", "H 0 0 0")
    assert "mine', 0007.xyz: energy must be one finite number" in refusal(folder, ENERGY)
    (folder / "0008.xyz").write_bytes(b"")
    text_file(folder / "0007.xyz", "1", "", "H 0 0 0")
    assert "0008.xyz' must hold molecules, got an empty file" in refusal(folder)


# --- npz ------------------------------------------------------------------------------------------

Arrays = dict[str, Any]


def changed(**arrays: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    def change(given: Arrays) -> Arrays:
        return {**given, **{name: new(given.get(name)) for name, new in arrays.items()}}

    return change


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda given: {key: array for key, array in given.items() if key != name}


def set_at(index: Any, value: object) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        copy = array.copy()
        copy[index] = value
        return copy

    return change


BAD_NPZ: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "no positions": (without("R"), "must have a column for positions, got z, energy"),
    "no numbers": (without("z"), "must have a column for numbers, got R, energy"),
    "two for positions": (
        changed(xyz=lambda _: np.zeros(3)),
        "must have one column for positions, got xyz, R; choose one with positions: xyz",
    ),
    "shape of positions": (changed(R=lambda R: R[..., :2]), "array R: its shape must be [n, A, 3]"),
    "shape of numbers": (changed(z=lambda z: z[:, :-1]), "array z: its shape must be [12, 6] or"),
    "nan": (changed(R=set_at((3, 1, 2), np.nan)), "molecule 3: positions must be finite, got"),
    "number": (
        changed(z=set_at((4, 0), 119)),
        "molecule 4: an atomic number must be between 1 and",
    ),
    "negative": (changed(z=set_at((4, 0), -1)), "molecule 4: an atomic number must be between 1"),
    "floats": (changed(z=lambda z: z.astype(float)), "array z: it must hold whole numbers"),
    "no atoms": (changed(z=set_at(5, 0)), "molecule 5: a molecule must have 1 to"),
    "text of positions": (
        changed(R=lambda R: R.astype("U5")),
        "array R: positions must be numbers",
    ),
    "label text": (
        changed(energy=lambda e: e.astype("U9")),
        "array energy: energy must be one finite number of the molecule, got text",
    ),
    "label vector": (changed(energy=lambda e: np.stack([e] * 3, axis=1)), "array of shape (12, 3)"),
    "label shorter": (changed(energy=lambda e: e[:-1]), "array of shape (11,)"),
    "infinite label": (changed(energy=set_at(2, np.inf)), "molecule 2: energy must be one finite"),
    "objects": (
        changed(energy=lambda e: e.astype(object)),
        "array energy: it must hold numbers or text, got Python objects, which are a pickle",
    ),
    "positions of objects": (
        changed(R=lambda R: R.astype(object)),
        "array R: it must hold numbers",
    ),
    "ragged objects": (changed(R=lambda R: R[:, 0, 0].astype(object)), "array R: it must hold num"),
    "names shorter": (changed(name=lambda names: names[:-1]), "array name: its shape must be [12]"),
    "name missing": (changed(name=set_at(7, "")), "molecule 7: the identifier name must be given"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_a_bad_npz_is_refused(case: str, rows: spoil.Rows, tmp_path: Path) -> None:
    change, expected = BAD_NPZ[case]
    rows = rows[:12]
    arrays = spoil.padded(rows)
    arrays["R"], arrays["z"] = arrays["R"][:, :6], arrays["z"][:, :6]
    np.savez(tmp_path / "mine.npz", **change(arrays))
    text = refusal(tmp_path / "mine.npz", Wanted(("energy",), "name", None))
    assert "mine.npz'" in text
    assert expected in text


BAD_CONCATENATED: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "no counts": (without("counts"), "must have a column for counts"),
    "sum": (
        changed(counts=set_at(0, 4)),
        "array counts: the counts must sum to the number of atoms",
    ),
    "negative": (changed(counts=set_at(3, -2)), "molecule 3: its count must be between 1 and"),
    "huge": (changed(counts=set_at(3, 2**62)), "molecule 3: its count must be between 1 and"),
    "floats": (
        changed(counts=lambda c: c.astype(float)),
        "array counts: it must hold whole numbers",
    ),
    "numbers": (changed(numbers=lambda z: z[:-1]), "array numbers: its shape must be ["),
    "counts of counts": (
        changed(counts=lambda c: c[:, None]),
        "array counts: its shape must be [n]",
    ),
    "an element": (
        changed(numbers=lambda z: np.where(z == 6, "C", "Xx")),
        "array numbers: an elem",
    ),
}


@pytest.mark.parametrize("case", BAD_CONCATENATED)
def test_a_bad_concatenated_npz_is_refused(case: str, rows: spoil.Rows, tmp_path: Path) -> None:
    change, expected = BAD_CONCATENATED[case]
    np.savez(tmp_path / "mine.npz", **change(spoil.concatenated(rows)))
    text = refusal(tmp_path / "mine.npz", ENERGY)
    assert "mine.npz'" in text
    assert expected in text


def test_layouts_of_npz(tmp_path: Path) -> None:
    positions = np.arange(18.0).reshape(2, 3, 3)
    np.savez(tmp_path / "one.npz", R=positions, z=[8, 1, 1], E=np.array([[1.0], [2.0]]))
    read = whole(MoleculeSource(path=str(tmp_path / "one.npz")), Wanted(("E",), None, None))
    assert read.numbers.tolist() == [8, 1, 1] * 2
    assert read.positions.tolist() == positions.reshape(-1, 3).tolist()
    assert read.labels.tolist() == [[1.0], [2.0]]
    # Padding is no atom, whatever its position.
    positions[1, 1] = np.nan
    symbols = np.array([["O", "H", "H"], ["O", "", "Cl"]])
    np.savez(tmp_path / "text.npz", where=positions, what=symbols)
    source = MoleculeSource(path=str(tmp_path / "text.npz"), positions="where", numbers="what")
    read = whole(source, NOTHING)
    assert (read.counts.tolist(), read.numbers.tolist()) == ([3, 2], [8, 1, 1, 8, 17])
    assert read.positions[-1].tolist() == [15, 16, 17]
    source = MoleculeSource(path=str(tmp_path / "text.npz"), positions="here", numbers="what")
    assert "must have the column here that positions: names, got where, what" in refusal(source)


def test_periodic_cells_in_npz_are_refused(tmp_path: Path) -> None:
    arrays: Arrays = {"coords": np.arange(18.0).reshape(2, 3, 3), "z": [8, 1, 1]}
    path = tmp_path / "a.npz"
    for free in (False, [False] * 3, [[False] * 3] * 2):
        np.savez(path, **arrays, pbc=free)
        assert len(whole(MoleculeSource(path=str(path)), NOTHING).counts) == 2
    for flags, molecule in ((True, 0), ([False, True, False], 0), ([[False] * 3, [True] * 3], 1)):
        np.savez(path, **arrays, pbc=flags)
        assert f"molecule {molecule}: periodic cells are not offered" in refusal(path)


def test_offsets_are_no_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, positions=np.arange(15.0).reshape(5, 3), z=[8, 1, 1, 1, 1], offsets=[0, 3, 5])
    expected = "of offsets make counts with numpy.diff"
    assert f"name it with counts: ({expected})" in refusal(path)
    assert expected in refusal(MoleculeSource(path=str(path), counts="offsets"))
    np.savez(path, positions=np.arange(15.0).reshape(5, 3), z=[8, 1, 1, 1, 1], counts=[0, 5, 0])
    assert refusal(path).endswith("the number of atoms 5, got 0")


# --- Parquet --------------------------------------------------------------------------------------


def write_table(path: Path, **columns: Any) -> MoleculeSource:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return MoleculeSource(path=str(path))


XYZ = [[[0.0, 0.0, 0.1], [0.0, 0.8, -0.5]], [[0.0, 0.0, 0.7]]]
FLAT = [[x for xyz in molecule for x in xyz] for molecule in XYZ]


@pytest.mark.parametrize("positions", [XYZ, FLAT])
@pytest.mark.parametrize(
    "numbers",
    [[[8, 1], [1]], [["O", "H"], ["H"]], ["['O', 'H']", '["H"]'], ["[8, 1]", "(1,)"]],
)
def test_layouts_of_parquet(positions: Any, numbers: Any, tmp_path: Path) -> None:
    source = write_table(
        tmp_path / "a.parquet", pos=positions, symbols=numbers, E=[1, None], name=[7, 8]
    )
    read = whole(source, Wanted(("E",), "name", None))
    assert (read.counts.tolist(), read.numbers.tolist()) == ([2, 1], [8, 1, 1])
    assert read.positions.tolist() == [*XYZ[0], *XYZ[1]]
    assert np.array_equal(read.labels, [[1.0], [np.nan]], equal_nan=True)
    assert read.identifiers == ["7", "8"]


def test_fixed_lists_and_single_precision_are_read(tmp_path: Path) -> None:
    import pyarrow

    inner = pyarrow.list_(pyarrow.float32(), 3)
    source = write_table(
        tmp_path / "a.parquet",
        positions=pyarrow.array(XYZ, pyarrow.large_list(inner)),
        z=pyarrow.array([[8, 1], [1]], pyarrow.list_(pyarrow.uint8())),
    )
    read = whole(source, NOTHING)
    assert read.positions.tolist() == np.array([*XYZ[0], *XYZ[1]], dtype=np.float32).tolist()


def shards(folder: Path) -> MoleculeSource:
    """Three files, written in another order than that of their names."""
    for number in (2, 0, 1):
        write_table(
            folder / f"train-{number:05d}-of-00003.parquet",
            positions=XYZ,
            atomic_numbers=[[8, 1], [1]],
            energy=[2.0 * number, 2.0 * number + 1],
        )
    (folder / "README.md").write_text("of the data set")
    (folder / ".train-00000-of-00003.parquet").write_text("of the operating system")
    return MoleculeSource(path=str(folder))


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    source = shards(tmp_path)
    assert format_of(source) == "parquet"
    assert [file.name[:11] for file in source_files(source)] == [f"train-0000{n}" for n in range(3)]
    assert label_names(source) == ["energy"]
    read = whole(source, ENERGY)
    assert read.labels.ravel().tolist() == list(range(6))
    assert read.places[-1] == "train-00002-of-00003.parquet, row 1"
    table = {"positions": XYZ, "atomic_numbers": [[8, 1], [0]], "energy": [1.0, 2.0]}
    write_table(tmp_path / "train-00001-of-00003.parquet", **table)
    assert "train-00001-of-00003.parquet, row 1: an atomic number must" in refusal(source, ENERGY)
    write_table(tmp_path / "train-00001-of-00003.parquet", **{**table, "energy": [1.0, np.inf]})
    assert "train-00001-of-00003.parquet', row 1: energy must be" in refusal(source, ENERGY)
    del table["energy"]
    write_table(tmp_path / "train-00001-of-00003.parquet", **table)
    assert "train-00001-of-00003.parquet' must have values of energy" in refusal(source, ENERGY)
    (tmp_path / "train-00001-of-00003.parquet").write_text("damaged")
    text = refusal(source, ENERGY)
    assert "train-00001-of-00003.parquet' must hold a Parquet file" in text


def test_a_column_inside_a_struct_is_read(tmp_path: Path) -> None:
    atoms = [{"z": z, "xyz": xyz} for z, xyz in zip([[8, 1], [1]], XYZ, strict=True)]
    source = write_table(tmp_path / "a.parquet", atoms=atoms, properties=[{"energy": 1.0}, None])
    assert (
        "must have a column for positions, got atoms.z, atoms.xyz, properties.energy; "
        in refusal(source)
    )
    source = source.model_copy(update={"numbers": "atoms.z", "positions": "atoms.xyz"})
    assert label_names(source) == ["properties.energy"]
    read = whole(source, Wanted(("properties.energy",), None, None))
    assert read.numbers.tolist() == [8, 1, 1]
    assert np.array_equal(read.labels, [[1.0], [np.nan]], equal_nan=True)
    text = refusal(source, Wanted(("energy",), None, None))
    assert "must have values of energy, got none; the file has: properties.energy" in text


@pytest.mark.parametrize("flags", [[False, False, True], True])
def test_a_periodic_cell_in_a_table_is_refused(flags: Any, tmp_path: Path) -> None:
    columns: dict[str, Any] = {"pos": XYZ, "z": [[8, 1], [1]]}
    free = [False] * 3 if isinstance(flags, list) else False
    source = write_table(tmp_path / "a.parquet", **columns, pbc=[None, free])
    assert len(whole(source, NOTHING).counts) == 2
    source = write_table(tmp_path / "a.parquet", **columns, pbc=[free, flags])
    assert "row 1: periodic cells are not offered, got one" in refusal(source)


BAD_PARQUET: dict[str, tuple[dict[str, Any], str]] = {
    "no positions": ({"pos": None}, "must have a column for positions, got z, E, name"),
    "no numbers": ({"z": None}, "must have a column for numbers, got pos, E, name"),
    "two": ({"Z": [[8, 1], [1]]}, "must have one column for numbers, got z, Z; choose one with"),
    "text of positions": (
        {"pos": ["a", "b"]},
        "column pos: positions must be lists [N, 3] or [3 N]",
    ),
    "missing positions": ({"pos": [XYZ[0], None]}, "row 1: pos must be given, got none"),
    "a missing number": ({"pos": [XYZ[0], [[None, 0.0, 0.0]]]}, "row 1: positions must be finite"),
    "two dimensions": (
        {"pos": [XYZ[0], [[1.0, 2.0]]]},
        "row 1: a position must have three numbers",
    ),
    "no triples": (
        {"pos": [FLAT[0], [1.0] * 4]},
        "row 1: pos must have three numbers for every atom",
    ),
    "nan": ({"pos": [XYZ[0], [[np.nan, 0.0, 0.0]]]}, "row 1: positions must be finite, got nan"),
    "lengths": (
        {"z": [[8, 1], [1, 1]]},
        "row 1: pos and z must have as many atoms, got 1 positions and 2 elements",
    ),
    "floats": ({"z": [[8.0, 1.0], [1.0]]}, "column z: elements must be lists of symbols or atomic"),
    "missing elements": ({"z": [[8, 1], None]}, "row 1: z must be given, got none"),
    "a missing element": ({"z": [[8, 1], [None]]}, "row 1: z must have no missing element"),
    "number": ({"z": [[8, 1], [200]]}, "row 1: an atomic number must be between 1 and 118, got"),
    "symbol": (
        {"z": [["O", "H"], ["h"]]},
        "row 1: an element must be a symbol such as H or Cl, got 'h'; did you mean H?",
    ),
    "text": ({"z": ["OH", "H"]}, "row 0: elements must be a list such as ['C', 'H'], got 'OH'"),
    "symbol in text": ({"z": ["['O', 'H']", "['Xx']"]}, "row 1: an element must be a symbol"),
    "number in text": ({"z": ["[8, 1]", "[1.5]"]}, "row 1: an element must be a symbol"),
    "no atoms": ({"pos": [XYZ[0], []], "z": [[8, 1], []]}, "row 1: a molecule must have 1 to"),
    "label text": (
        {"E": ["a", "b"]},
        "column E: E must be one finite number of the molecule, got a column of string",
    ),
    "label list": ({"E": [[1.0], [2.0]]}, "column E: E must be one finite number"),
    "infinite label": ({"E": [1.0, np.inf]}, "row 1: E must be one finite number of the molecule"),
    "no labels": ({"E": [None, None]}, "must have values of E, got none"),
    "name missing": ({"name": ["a", None]}, "row 1: the identifier name must be given, got none"),
    "no rows": ({"pos": XYZ[:0], "z": [], "E": [], "name": []}, "must"),
}


@pytest.mark.parametrize("case", BAD_PARQUET)
def test_a_bad_parquet_is_refused(case: str, tmp_path: Path) -> None:
    changes, expected = BAD_PARQUET[case]
    columns: dict[str, Any] = {"pos": XYZ, "z": [[8, 1], [1]], "E": [1.0, 2.0], "name": ["a", "b"]}
    columns = {key: column for key, column in {**columns, **changes}.items() if column is not None}
    text = refusal(write_table(tmp_path / "mine.parquet", **columns), Wanted(("E",), "name", None))
    assert "mine.parquet'" in text
    assert expected in text


def test_too_many_atoms_are_refused_in_every_layout(tmp_path: Path) -> None:
    many = MOST_ATOMS + 1
    source = write_table(tmp_path / "a.parquet", pos=[[0.0] * 3 * many], z=[[1] * many])
    assert f"row 0: a molecule must have 1 to {MOST_ATOMS} atoms, got {many}" in refusal(source)
    np.savez(tmp_path / "a.npz", R=np.zeros((1, many, 3)), z=np.ones(many, dtype=int))
    assert f"molecule 0: a molecule must have 1 to {MOST_ATOMS} atoms" in refusal(
        tmp_path / "a.npz"
    )


# --- QM9 ------------------------------------------------------------------------------------------


def test_a_damaged_raw_file_is_refused_with_its_name(rows: spoil.Rows, tmp_path: Path) -> None:
    source = spoil.write_qm9_folder(tmp_path, rows)
    path = sorted(Path(source.path).iterdir())[4]
    path.write_text(path.read_text().replace("\t", "\tnan\t", 1))
    text = refusal(source, spoil.OF_QM9)
    assert path.name in text
    path.write_text(spoil.raw_qm9(rows[4]).replace(f"{rows[4]['positions'][0][0]:.10f}", "nan"))
    text = refusal(source, spoil.OF_QM9)
    assert path.name in text
    assert "must have finite positions" in text


# --- damage of every kind -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("format", spoil.WRITERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    format: str, seed: int, rows: spoil.Rows, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = spoil.WRITERS[format](tmp_path, rows)
    capfd.readouterr()
    spoil.spoil(format, source, 1_000 + seed)
    text = spoil.outcome(source, spoil.wanted_of(format))
    if text != "read":
        spoil.check(text, source)
    assert capfd.readouterr() == ("", "")


def test_the_scanner_reads_pairs() -> None:
    text = 'a=1 "b c"="d \\"e\\"" f \'g\' h=\'i j\' k=[1, [2]] l={m n} o= p=q r = s'
    assert extxyz.pairs(text) == {
        "a": "1",
        "b c": 'd "e"',
        "h": "i j",
        "k": "[1, [2]]",
        "l": "{m n}",
        "o": "",
        "p": "q",
        "r": "s",
    }

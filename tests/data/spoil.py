"""Damages valid files of molecules in seeded ways: each must be read, or refused in one line.

``python tests/data/spoil.py`` tries 200 ways for every format and prints the outcomes. A number
behind it is the first seed; the variable ``SPOIL_SHOW`` prints the refusals as well.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import random
import re
import shutil
import sqlite3
import sys
import tarfile
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.config.declaration import MoleculeSource
from hpsearch.config.targets import ELEMENTS, SYMBOLS
from hpsearch.data import qm9
from hpsearch.data.molecule import Molecules
from hpsearch.formats import Wanted, label_names, read_parts
from hpsearch.system.errors import InputError

WANTED = Wanted(("energy", "gap"), "name", "family")
OF_QM9 = Wanted(("U0", "gap"), "index", None)
ENERGY, GAP = 7, 4
"""Rows of U0 and gap in QM9's targets."""

MOLECULES = 12
WAYS = 200
Rows = list[dict[str, Any]]


def rows_of(table: Molecules, number: int = MOLECULES) -> Rows:
    """The first molecules of QM9 with hydrogens: elements, positions in Å and two targets."""
    rows = []
    for row in range(number):
        atoms = slice(int(table.offsets[row]), int(table.offsets[row + 1]))
        rows.append(
            {
                "numbers": np.array(ELEMENTS)[table.element_indices[atoms]],
                "positions": table.positions[atoms].astype(np.float64),
                "energy": float(table.targets[row, ENERGY]),
                "gap": float(table.targets[row, GAP]),
                "targets": table.targets[row].tolist(),
                "index": int(table.identifiers[row]),
                "name": f"m{row}",
                "family": f"f{row % 3}",
            }
        )
    return rows


# --- writers: each writes a valid file with the format's own library ------------------------------


def atoms_of(row: dict[str, Any]) -> Any:
    import ase
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = ase.Atoms(numbers=row["numbers"], positions=row["positions"])
    atoms.info.update({name: row[name] for name in ("gap", "name", "family")})
    atoms.calc = SinglePointCalculator(
        atoms, energy=row["energy"], forces=np.zeros((len(atoms), 3))
    )
    return atoms


def write_extxyz(folder: Path, rows: Rows) -> MoleculeSource:
    import ase.io

    ase.io.write(folder / "mine.extxyz", [atoms_of(row) for row in rows])
    return MoleculeSource(path=str(folder / "mine.extxyz"))


def write_extxyz_gz(folder: Path, rows: Rows) -> MoleculeSource:
    source = Path(write_extxyz(folder, rows).path)
    packed = source.with_name("mine.extxyz.gz")
    packed.write_bytes(gzip.compress(source.read_bytes(), mtime=0))
    return MoleculeSource(path=str(packed))


def write_database(folder: Path, rows: Rows) -> MoleculeSource:
    import ase.db

    with ase.db.connect(folder / "mine.db") as database:
        for row in rows:
            pairs = {name: row[name] for name in ("gap", "name", "family")}
            database.write(atoms_of(row), key_value_pairs=pairs, data={"q": np.zeros(3)})
    return MoleculeSource(path=str(folder / "mine.db"))


def write_trajectory(folder: Path, rows: Rows) -> MoleculeSource:
    import ase.io

    ase.io.write(folder / "mine.traj", [atoms_of(row) for row in rows])
    return MoleculeSource(path=str(folder / "mine.traj"))


def write_folder(folder: Path, rows: Rows) -> MoleculeSource:
    import ase.io

    (folder / "mine").mkdir()
    for row in rows:
        ase.io.write(folder / "mine" / f"{row['name']}.xyz", atoms_of(row), format="extxyz")
    return MoleculeSource(path=str(folder / "mine"))


def rdkit_molecule(row: dict[str, Any], properties: bool = True) -> Any:
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds

    lines = [str(len(row["numbers"])), ""]
    lines += [
        f"{SYMBOLS[number]} {x:.10f} {y:.10f} {z:.10f}"
        for number, (x, y, z) in zip(row["numbers"], row["positions"], strict=True)
    ]
    molecule = Chem.MolFromXYZBlock("\n".join(lines) + "\n")
    rdDetermineBonds.DetermineConnectivity(molecule)
    molecule.SetProp("_Name", row["name"])
    if properties:
        for name in ("energy", "gap", "name", "family"):
            molecule.SetProp(name, str(row[name]))
    return molecule


def write_sdf(folder: Path, rows: Rows, properties: bool = True) -> MoleculeSource:
    from rdkit import Chem

    with Chem.SDWriter(str(folder / "mine.sdf")) as writer:
        for row in rows:
            writer.write(rdkit_molecule(row, properties))
    return MoleculeSource(path=str(folder / "mine.sdf"))


def write_csv(path: Path, rows: Rows) -> str:
    lines = ["name,energy,gap,family"]
    lines += [f"{r['name']},{r['energy']},{r['gap']},{r['family']}" for r in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def write_sdf_and_csv(folder: Path, rows: Rows) -> MoleculeSource:
    source = write_sdf(folder, rows, properties=False)
    return source.model_copy(
        update={"labels": write_csv(folder / "mine.csv", rows), "identifier": "name"}
    )


def padded(rows: Rows) -> dict[str, Any]:
    widest = max(len(row["numbers"]) for row in rows)
    positions = np.zeros((len(rows), widest, 3))
    numbers = np.zeros((len(rows), widest), dtype=np.int64)
    for row, values in enumerate(rows):
        numbers[row, : len(values["numbers"])] = values["numbers"]
        positions[row, : len(values["numbers"])] = values["positions"]
    labels = {name: np.array([row[name] for row in rows]) for name in names_of(WANTED)}
    return {"R": positions, "z": numbers, **labels}


def concatenated(rows: Rows) -> dict[str, Any]:
    labels = {name: np.array([row[name] for row in rows]) for name in names_of(WANTED)}
    return {
        "positions": np.concatenate([row["positions"] for row in rows]),
        "numbers": np.concatenate([row["numbers"] for row in rows]),
        "counts": np.array([len(row["numbers"]) for row in rows]),
        **labels,
    }


def names_of(wanted: Wanted) -> tuple[str, ...]:
    return (*wanted.columns, str(wanted.identifier), str(wanted.group))


def write_padded(folder: Path, rows: Rows) -> MoleculeSource:
    np.savez(folder / "mine.npz", **padded(rows))
    return MoleculeSource(path=str(folder / "mine.npz"))


def write_concatenated(folder: Path, rows: Rows) -> MoleculeSource:
    np.savez_compressed(folder / "mine.npz", **concatenated(rows))
    return MoleculeSource(path=str(folder / "mine.npz"))


def write_parquet(folder: Path, rows: Rows) -> MoleculeSource:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "positions": [row["positions"].tolist() for row in rows],
        "numbers": [row["numbers"].tolist() for row in rows],
        **{name: [row[name] for row in rows] for name in names_of(WANTED)},
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "mine.parquet")
    return MoleculeSource(path=str(folder / "mine.parquet"))


def raw_qm9(row: dict[str, Any]) -> str:
    """A molecule as QM9's authors publish it."""
    targets = " ".join(f"{value}" for value in row["targets"])
    lines = [str(len(row["numbers"])), f"gdb {row['index']}\t1.0\t2.0\t3.0\t{targets}"]
    for number, position in zip(row["numbers"], row["positions"], strict=True):
        xyz = "\t".join(f"{x:.10f}" for x in position)
        lines.append(f"{SYMBOLS[number]}\t{xyz}\t-0.1")
    return "\n".join([*lines, "1341.3", "C\tC", "InChI=1S/CH4/h1H4", ""])


def write_qm9_folder(folder: Path, rows: Rows) -> MoleculeSource:
    (folder / "raw").mkdir()
    for row in rows:
        name = f"dsgdb9nsd_{row['index']:06}.xyz"
        (folder / "raw" / name).write_text(raw_qm9(row), encoding="latin-1")
    return MoleculeSource(path=str(folder / "raw"), format="qm9")


def write_qm9(folder: Path, rows: Rows) -> MoleculeSource:
    path = folder / "dsgdb9nsd.xyz.tar.bz2"
    with tarfile.open(path, "w:bz2") as tar:
        for row in rows:
            text = raw_qm9(row).encode("latin-1")
            member = tarfile.TarInfo(f"dsgdb9nsd_{row['index']:06}.xyz")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return MoleculeSource(path=str(path))


WRITERS: dict[str, Callable[[Path, Rows], MoleculeSource]] = {
    "extxyz": write_extxyz,
    "extxyz.gz": write_extxyz_gz,
    "ase-db": write_database,
    "traj": write_trajectory,
    "xyz": write_folder,
    "sdf": write_sdf,
    "sdf+csv": write_sdf_and_csv,
    "npz": write_padded,
    "npz concatenated": write_concatenated,
    "parquet": write_parquet,
    "qm9": write_qm9,
    "qm9 folder": write_qm9_folder,
}


def wanted_of(format: str) -> Wanted:
    return OF_QM9 if format.startswith("qm9") else WANTED


# --- damage to bytes ------------------------------------------------------------------------------

Random = random.Random


def _lines(data: bytes, change: Callable[[list[bytes]], None]) -> bytes:
    lines = data.split(b"\n")
    change(lines)
    return b"\n".join(lines)


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


def truncate_a_little(data: bytes, rng: Random) -> bytes:
    return data[: -rng.randint(1, 40)]


def empty(data: bytes, rng: Random) -> bytes:
    return rng.choice([b"", b"\n", b" \n\n", b"\xef\xbb\xbf"])


def flip_bytes(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 30])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def random_bytes(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    start = rng.randrange(len(changed))
    changed[start : start + 50] = rng.randbytes(50)
    return bytes(changed)


def garbage(data: bytes, rng: Random) -> bytes:
    return rng.randbytes(rng.randint(1, 3_000))


def behind_the_head(data: bytes, rng: Random) -> bytes:
    return data[:16] + rng.randbytes(500)


def delete_lines(data: bytes, rng: Random) -> bytes:
    def change(lines: list[bytes]) -> None:
        start = rng.randrange(len(lines))
        del lines[start : start + rng.choice([1, 1, 2, 5])]

    return _lines(data, change)


def duplicate_lines(data: bytes, rng: Random) -> bytes:
    def change(lines: list[bytes]) -> None:
        start = rng.randrange(len(lines))
        lines[start:start] = lines[start : start + rng.choice([1, 3, 20])]

    return _lines(data, change)


def swap_lines(data: bytes, rng: Random) -> bytes:
    def change(lines: list[bytes]) -> None:
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[a], lines[b] = lines[b], lines[a]

    return _lines(data, change)


def swap_columns(data: bytes, rng: Random) -> bytes:
    def change(lines: list[bytes]) -> None:
        number = rng.randrange(len(lines))
        fields = lines[number].split()
        rng.shuffle(fields)
        lines[number] = b" ".join(fields)

    return _lines(data, change)


def cut_a_line(data: bytes, rng: Random) -> bytes:
    def change(lines: list[bytes]) -> None:
        number = rng.randrange(len(lines))
        lines[number] = lines[number][: len(lines[number]) // 2]

    return _lines(data, change)


_INSERTED = [
    *(b"nan", b"NaN", b"inf", b"-inf", b"1e999", b"abc", b"", b"1_0", b"0x10", b"-5", b"1.2.3"),
    *(b"999999999", b"99999999999999999999", b"1e308", b"T", b'"', b"=", b"1,5", b"\xc3\xa9"),
    *(b"0", b"None", b"[1, 2]", "٣".encode(), b"1.0D+00", b"-0.1*^-6", b"$$$$", b"M  END"),
]  # fmt: skip


def replace_a_number(data: bytes, rng: Random) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not found:
        return data[::-1]
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(_INSERTED) + data[match.end() :]


def replace_a_word(data: bytes, rng: Random) -> bytes:
    found = list(re.finditer(rb"[A-Za-z]+", data))
    if not found:
        return data[::-1]
    match = rng.choice(found)
    return data[: match.start()] + rng.choice([b"Xx", b"cl", *_INSERTED]) + data[match.end() :]


def insert_nulls(data: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + b"\0" * rng.choice([1, 3, 600]) + data[place:]


def insert_latin_1(data: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + b"\xe9" + data[place:]


def insert_breaks(data: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(data))
    return (
        data[:place] + rng.choice([b"\n", b"\r", b"\x0b\x0c\x1c", b"\xe2\x80\xa8"]) + data[place:]
    )


def carriage_returns(data: bytes, rng: Random) -> bytes:
    return data.replace(b"\n", rng.choice([b"\r\n", b"\r"]))


def repeat_a_block(data: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(data))
    block = data[start : start + rng.randint(1, 2_000)]
    return data[:start] + block + data[start:]


def remove_a_block(data: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, 500) :]


def zero_a_block(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    start = rng.randrange(len(changed))
    size = len(changed[start : start + 200])
    changed[start : start + size] = bytes(size)
    return bytes(changed)


def utf_16(data: bytes, rng: Random) -> bytes:
    return data.decode("latin-1").encode("utf-16")


BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (
    *(truncate, truncate_a_little, empty, flip_bytes, random_bytes, garbage, behind_the_head),
    *(delete_lines, duplicate_lines, swap_lines, swap_columns, cut_a_line, replace_a_number),
    *(replace_a_number, replace_a_word, insert_nulls, insert_latin_1, insert_breaks),
    *(carriage_returns, repeat_a_block, remove_a_block, zero_a_block, utf_16),
)


# --- damage inside valid containers ---------------------------------------------------------------


def spoil_arrays(path: Path, rng: Random) -> None:
    """A valid npz archive whose content is wrong."""
    with np.load(path) as archive:
        arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    changes: tuple[Callable[[], Any], ...] = (
        lambda: array[:-1],
        lambda: array[..., None],
        lambda: array.reshape(-1),
        lambda: array.astype(object),
        lambda: array.astype("U9"),
        lambda: array.astype("S9"),
        lambda: np.full(array.shape, np.nan),
        lambda: np.full(array.shape, np.inf),
        lambda: np.full(array.shape, -1),
        lambda: np.full(array.shape, 2**62),
        lambda: np.full(array.shape, 2**64 - 1, dtype=np.uint64),
        lambda: np.zeros(array.shape, dtype=bool),
        lambda: np.zeros(array.shape, dtype=complex),
        lambda: np.zeros(array.shape, dtype="M8[s]"),
        lambda: np.zeros(array.shape, dtype=[("a", "f8")]),
        lambda: np.zeros(array.shape, dtype="V3"),
        lambda: array[:0],
        lambda: np.array(1.0),
        lambda: np.swapaxes(array, 0, -1),
        lambda: np.concatenate([array, array]),
    )
    arrays[name] = rng.choice(changes)()
    if rng.random() < 0.2:
        del arrays[name]
    np.savez(path, **arrays)


def spoil_columns(path: Path, rng: Random) -> None:
    """A valid Parquet file whose content is wrong."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path).to_pydict()
    name = rng.choice(sorted(table))
    row = rng.randrange(len(table[name]))
    values = table[name]
    one: tuple[object, ...] = (
        *(None, [], [[]], "x", 1, 1.5, float("nan"), float("inf"), [None], [[None] * 3], [["a"]]),
        *([[1.0, 2.0]], [1.0, 2.0], ["C"], ["Xx"], [0], [10**9], {"a": 1}, b"\xff", "['C']", True),
    )
    if rng.random() < 0.5:
        values[row] = rng.choice(one)
    else:
        table[name] = [rng.choice(one)] * len(values)
    if rng.random() < 0.1:
        del table[name]
    if rng.random() < 0.1:
        table = {key: column[:0] for key, column in table.items()}
    try:
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    except pyarrow.ArrowException:
        # A column of mixed types cannot be written: all of it becomes text.
        table[name] = [str(value) for value in table[name]]
        pyarrow.parquet.write_table(pyarrow.table(table), path)


def spoil_rows(path: Path, rng: Random) -> None:
    """A valid SQLite database whose content is wrong."""
    columns = (
        *("id", "unique_id", "numbers", "positions", "cell", "pbc", "energy", "key_value_pairs"),
        *("data", "natoms", "free_energy", "calculator_parameters", "constraints", "forces"),
    )
    values = (
        None,
        "",
        "x",
        1,
        -1,
        1.5,
        b"",
        b"\x00" * 7,
        b"\xff" * 48,
        "{}",
        "[1]",
        '{"gap": "x"}',
    )
    with sqlite3.connect(path) as connection:
        where = rng.choice(["", " WHERE id = 3"])
        try:
            connection.execute(
                f"UPDATE systems SET {rng.choice(columns)} = ?{where}", (rng.choice(values),)
            )
            if rng.random() < 0.2:
                connection.execute(rng.choice(["DELETE FROM systems", "DROP TABLE systems"]))
            if rng.random() < 0.1:
                connection.execute("UPDATE information SET value = 'x'")
        except sqlite3.Error:
            connection.execute("DELETE FROM systems WHERE id < 5")
    connection.close()


INSIDE: dict[str, Callable[[Path, Random], None]] = {
    "npz": spoil_arrays,
    "npz concatenated": spoil_arrays,
    "parquet": spoil_columns,
    "ase-db": spoil_rows,
}
PACKED: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "extxyz.gz": (gzip.decompress, gzip.compress),
    "qm9": (bz2.decompress, bz2.compress),
}


def spoil(format: str, source: MoleculeSource, seed: int) -> str:
    """Damage one file of ``source``; the way depends only on the seed. Returns its name."""
    rng = random.Random(f"{format} {seed}")
    path = Path(source.path)
    if path.is_dir():
        path = rng.choice(sorted(path.iterdir()))
    elif source.labels is not None and rng.random() < 0.6:
        path = Path(source.labels)
    if format in INSIDE and rng.random() < 0.5:
        INSIDE[format](path, rng)
        return INSIDE[format].__name__
    way = rng.choice(BYTES)
    unpack, pack = (bytes, bytes)
    if format in PACKED and rng.random() < 0.7:
        unpack, pack = PACKED[format]
    path.write_bytes(pack(way(unpack(path.read_bytes()), rng)))
    return way.__name__


def outcome(source: MoleculeSource, wanted: Wanted) -> str:
    """``read`` or the text of the refusal; warnings and other errors are raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            list(read_parts(source, wanted))
            label_names(source)
        except InputError as error:
            return str(error)
    return "read"


def check(text: str, source: MoleculeSource) -> None:
    """A refusal must be one short line that names the file."""
    assert text.isprintable(), repr(text)
    assert len(text) < 1_500, text
    assert Path(source.path).parent.name in text, text


def main(first: int = 0) -> int:
    """Print the outcomes of all ways; 1 if one of them is neither read nor refused."""
    rows = rows_of(qm9.load())
    failures = 0
    seen: Counter[str] = Counter()
    for format, write in WRITERS.items():
        counts: Counter[str] = Counter()
        for seed in range(first, first + WAYS):
            folder = Path(tempfile.mkdtemp(prefix="spoil-"))
            way = "writing"
            try:
                source = write(folder, rows)
                way = spoil(format, source, seed)
                text = outcome(source, wanted_of(format))
                if text != "read":
                    check(text, source)
                counts["read" if text == "read" else "refused"] += 1
                if text == "read":
                    seen[f"{format}: {way} was read"] += 1
                else:
                    seen[f"{format}: {text.replace(str(folder), '')}"] += 1
            except Exception:
                counts["failed"] += 1
                failures += 1
                print(f"--- {format} {seed} {way}")
                traceback.print_exc(limit=-4, file=sys.stdout)
            finally:
                shutil.rmtree(folder)
        print(f"{format:18} " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
        sys.stdout.flush()
    if os.environ.get("SPOIL_SHOW"):
        print("\n".join(f"{number:3} {text}" for text, number in seen.items()))
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))

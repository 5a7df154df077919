"""Reads databases (``.db``) and trajectories (``.traj``) of ASE.

Labels are taken as they are stored: never through ``get_potential_energy`` and the like, which
constraints change, and which may answer with the free energy.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.formats.files import library, missing_library, reading
from hpsearch.formats.part import (
    START,
    NotScalar,
    Reached,
    Record,
    check_count,
    no_molecules,
    periodic,
    unreadable,
    wrong,
)
from hpsearch.system.errors import InputError, one_line

_DATABASE = "a database of ASE"
_TRAJECTORY = "a trajectory of ASE"
_ROWS_AT_ONCE = 1_000


def database_records(path: Path, start: Reached = START) -> Iterator[Record]:
    """The rows of a database, in the order of their numbers, as ``row 17``.

    The values are those of ``key_value_pairs``, of ``data`` and of the calculator; the names are
    ``id`` and ``unique_id``. A row that is no molecule has an error.

    Raises:
        InputError: ASE is missing, or the file is no database of ASE.
    """
    try:
        from ase.calculators.calculator import all_properties
        from ase.db.sqlite import SQLite3Database
    except ImportError:
        raise missing_library("ASE databases (.db)", "ASE", "ase") from None
    with library(path, _DATABASE):
        # ASE writes tables into a database that lacks them, unless it cannot write.
        uri = f"{path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True)
    with closing(connection):
        with library(path, _DATABASE):
            _check_tables(path, connection)
            database = SQLite3Database(str(path), create_indices=False, use_lock_file=False)
            database.connection, database.change_count = connection, 0
            [whole] = connection.execute("SELECT COUNT(*) FROM systems").fetchone()
        total, last = start.molecules, start.at
        rows = _rows_after(database, last)
        while True:
            with library(path, f"{_DATABASE} that can be read after row {last}"):
                row = next(rows, None)
                if row is None:
                    break
                last = row.id
                try:
                    record = _database_record(path, row, all_properties)
                except InputError as error:
                    record = unreadable(f"row {last}", error)
            total += 1
            yield record._replace(reached=Reached(total, last, 0, total / max(whole, total)))
    if total == 0:
        raise no_molecules(path)


def _rows_after(database: Any, last: int) -> Iterator[Any]:
    """The rows whose numbers are larger than ``last``.

    ASE reads all selected rows into memory, so a few are selected at a time.
    """
    while True:
        found = 0
        for row in database.select([("id", ">", last)], limit=_ROWS_AT_ONCE, sort="id"):
            found, last = found + 1, row.id
            yield row
        if found < _ROWS_AT_ONCE:
            return


def _check_tables(path: Path, connection: sqlite3.Connection) -> None:
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if "systems" not in names:
        raise InputError(
            f"'{one_line(str(path), 400)}' must be a database of ASE with a table 'systems', got "
            f"{', '.join(sorted(map(one_line, map(str, names)))[:5]) or 'no tables'}; write it "
            "with ase.db"
        )


def _database_record(path: Path, row: Any, properties: list[str]) -> Record:
    place = f"row {row.id}"
    stored = vars(row)
    data = row.data if isinstance(row.data, Mapping) else {}
    results = {name: stored[name] for name in properties if stored.get(name) is not None}
    values = _merged(row.key_value_pairs, data, results)
    record = _record(path, place, row.numbers, row.positions, row.pbc, values)
    return record._replace(names={"id": str(row.id), "unique_id": str(row.unique_id)})


def trajectory_records(path: Path, start: Reached = START) -> Iterator[Record]:
    """The images of a trajectory, counted from 0, as ``molecule 4``.

    The values are those of ``info`` and of the calculator. An image that cannot be read has an
    error.

    Raises:
        InputError: ASE is missing, or the file is no trajectory of ASE.
    """
    try:
        from ase.io.trajectory import TrajectoryReader
    except ImportError:
        raise missing_library("ASE trajectories (.traj)", "ASE", "ase") from None
    with reading(path), path.open("rb") as file:
        with library(path, _TRAJECTORY):
            # An open file, because ASE leaves it open when it fails.
            trajectory = TrajectoryReader(file)
            total = len(trajectory)
        if total == 0:
            raise no_molecules(path)
        for index in range(start.at, total):
            place = f"molecule {index}"
            try:
                with library(path, f"{_TRAJECTORY} whose {place} can be read"):
                    atoms = trajectory[index]
                    results = {} if atoms.calc is None else atoms.calc.results
                    values = _merged(atoms.info, results)
                    record = _record(path, place, atoms.numbers, atoms.positions, atoms.pbc, values)
            except InputError as error:
                record = unreadable(place, error)
            done = index + 1
            yield record._replace(reached=Reached(done, done, 0, done / total))


def _merged(*sources: Mapping[Any, object]) -> dict[str, object]:
    """The values of several places; a name with different values has a :class:`NotScalar`."""
    merged: dict[str, object] = {}
    for source in sources:
        for key, value in source.items():
            name = str(key)
            if name in merged and not np.array_equal(
                np.asarray(merged[name], dtype=object), np.asarray(value, dtype=object)
            ):
                merged[name] = NotScalar("two values, in the molecule and in its calculator")
            else:
                merged.setdefault(name, value)
    return merged


def _record(
    path: Path, place: str, numbers: Any, positions: Any, pbc: Any, values: dict[str, object]
) -> Record:
    if np.any(pbc):
        raise periodic(path, place)
    check_count(path, place, len(numbers))
    shape = np.shape(positions)
    if shape != (len(numbers), 3):
        raise wrong(path, place, f"positions must be [{len(numbers)}, 3], got {shape}")
    flat = np.asarray(positions, dtype=np.float64).reshape(-1).tolist()
    return Record(place, np.asarray(numbers, dtype=np.int64).tolist(), flat, values, place)

"""Reads labels from a CSV file, for molecules in an SDF or in a folder of xyz files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpsearch.formats.files import kind_of, opened, reading
from hpsearch.formats.part import Record, shown_path, wrong
from hpsearch.system.errors import InputError, nearest, one_line

_DELIMITERS = ",;\t"
_LONGEST_SHOWN = 300


@dataclass(frozen=True)
class Table:
    """The rows of a CSV file, as text.

    Attributes:
        path: the file.
        names: the columns of the header.
        rows: values of the columns for every row.
        lines: the line in which every row ends, counted from 1.
    """

    path: Path
    names: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]

    def values(self, row: int) -> dict[str, object]:
        """The values of a row by name."""
        return dict(zip(self.names, self.rows[row], strict=True))

    def place(self, row: int) -> str:
        """Where a row is, for errors about its values."""
        return f"line {self.lines[row]} of {shown_path(self.path)}"


def read_table(path: Path) -> Table:
    """The CSV file ``path``, separated by ``,``, ``;`` or tabs, perhaps compressed with gzip.

    Raises:
        InputError: it is missing or no text, or a row has more or fewer values than the header.
    """
    with reading(path, "labels"):
        if path.is_dir():
            raise InputError(f"{shown_path(path)} must be a CSV file, got a folder")
        if kind_of(path) not in ("text", "gzip"):
            raise InputError(
                f"{shown_path(path)} must be a CSV file, got binary data; save it as UTF-8 text"
            )
        with opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = max(_DELIMITERS, key=header.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                return _table(path, reader)
            except csv.Error as error:
                raise wrong(
                    path, f"line {reader.line_num}", f"the row must be CSV, got: {error}"
                ) from None


def _table(path: Path, reader: Iterator[list[str]]) -> Table:
    names = tuple(name.strip() for name in next(reader, []))
    if not any(names):
        raise InputError(f"{shown_path(path)} must have a header with names, got none")
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise wrong(path, "line 1", f"a column must stand once, got '{one_line(twice[0])}' twice")
    rows, lines = [], []
    for row in reader:
        line: int = reader.line_num  # type: ignore[attr-defined]
        if not row:
            continue
        if len(row) != len(names):
            raise wrong(
                path, f"line {line}", f"a row must have {len(names)} values, got {len(row)}"
            )
        if any("\0" in value for value in row):
            raise wrong(
                path, f"line {line}", "the file must be text, got the character NUL; copy it again"
            )
        rows.append(row)
        lines.append(line)
    if not rows:
        raise InputError(f"{shown_path(path)} must have rows below its header, got none")
    return Table(path, names, rows, lines)


def with_labels_in_order(records: Iterator[Record], path: Path, table: Table) -> Iterator[Record]:
    """The records of the file ``path`` with the values of the rows at their places in the table.

    Raises:
        InputError: there are more or fewer rows than molecules.
    """
    total = 0
    for record in records:
        if total < len(table.rows):
            yield _joined(record, table, total)
        total += 1
    if total != len(table.rows):
        raise InputError(
            f"{shown_path(table.path)} must have one row for every molecule of "
            f"{shown_path(path)}, got {len(table.rows)} rows for {total} molecules; name the "
            "column of the molecules' names with identifier:"
        )


def with_labels_by_name(
    records: Iterator[tuple[str, Record]], path: Path, table: Table, column: str
) -> Iterator[Record]:
    """The records of the file ``path`` with the values of the rows of their names.

    Args:
        records: name and record of every molecule.
        path: the file.
        table: rows, of which some may belong to no molecule.
        column: column of the table with the names.

    Raises:
        InputError: a name stands twice, or a molecule has no row.
    """
    if column not in table.names:
        names = [one_line(name) for name in table.names if name]
        raise InputError(
            f"{shown_path(table.path)} must have the column {one_line(column)}, which joins it to "
            f"{shown_path(path)}, got {one_line(', '.join(names), _LONGEST_SHOWN)}; "
            f"{one_line(nearest(column, names), _LONGEST_SHOWN)}"
        )
    position = table.names.index(column)
    row_of: dict[str, int] = {}
    for number, row in enumerate(table.rows):
        name = row[position].strip()
        if row_of.setdefault(name, number) != number:
            raise wrong(
                table.path,
                f"line {table.lines[number]}",
                f"every {one_line(column)} must stand once, got '{one_line(name)}' again",
            )
    for name, record in records:
        found = row_of.get(name.strip())
        if found is None:
            with_ending = f"{name.strip()}.xyz"
            hint = (
                "write the names without .xyz"
                if with_ending in row_of
                else "add the row, or remove the molecule"
            )
            raise wrong(
                path,
                record.place,
                f"the molecule must have a row in {shown_path(table.path)}, got none with "
                f"{one_line(column)} '{one_line(name.strip())}'; {hint}",
            )
        yield _joined(record, table, found)


def _joined(record: Record, table: Table, row: int) -> Record:
    return record._replace(
        values={**record.values, **table.values(row)},
        label_place=f"{record.place}, {table.place(row)}",
    )

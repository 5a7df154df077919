"""Reads Parquet with pyarrow: one row for every molecule, as data hubs publish them.

A folder of Parquet files is one table: its files follow one another, sorted by name. A column
inside a struct is called ``properties.energy``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.declaration import MoleculeSource
from hpsearch.formats import columns
from hpsearch.formats.files import files_in, library, reading
from hpsearch.formats.part import (
    MOLECULES_PER_PART,
    START,
    Part,
    Reached,
    Wanted,
    absent,
    check_found,
    no_molecules,
    not_a_label,
    periodic,
    shown_path,
    wrong,
)
from hpsearch.system.errors import InputError, one_line
from hpsearch.system.files import Say

ENDINGS = (".parquet", ".pq")

_FILE = "a Parquet file"
_PERIODIC = "pbc"
_PROGRESS = 20_000
_BUFFER = 1 << 20
"""Bytes that are read at once of each column. Without it a whole group of rows is read."""


def label_names(source: MoleculeSource) -> list[str]:
    """The columns of numbers, in the first file of a folder."""
    path = files(Path(source.path))[0]
    with library(path, _FILE), _opened(path) as file:
        schema = _flat(file.schema_arrow)
    return _offered(schema, _atom_columns(path, source, schema.names))


def files(path: Path) -> list[Path]:
    """``path``, or the Parquet files of the folder ``path``, sorted by name.

    Raises:
        InputError: the folder has none, or cannot be read.
    """
    with reading(path):
        if not path.is_dir():
            return [path]
    found = files_in(path, ENDINGS)
    if not found:
        raise InputError(
            f"{shown_path(path)} must be a folder with .parquet files, got none; name the folder "
            "that holds them"
        )
    return found


def _opened(path: Path) -> Any:
    # Pyarrow is imported here: it is large, and other formats do not need it.
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(
        path, page_checksum_verification=True, buffer_size=_BUFFER, pre_buffer=False
    )


def _flat(schema: Any) -> Any:
    """The schema with the fields of every struct in its place, as ``properties.energy``."""
    import pyarrow

    return pyarrow.schema([inner for field in schema for inner in field.flatten()])


def _offered(schema: Any, used: tuple[str, str]) -> list[str]:
    return [field.name for field in schema if _is_number(field.type) and field.name not in used]


def _is_number(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _atom_columns(path: Path, source: MoleculeSource, names: list[str]) -> tuple[str, str]:
    found = columns.choose(path, "positions", source.positions, columns.POSITIONS, names)
    positions = columns.needed(path, "positions", found, names)
    found = columns.choose(path, "numbers", source.numbers, columns.NUMBERS, names)
    return positions, columns.needed(path, "numbers", found, names)


def parts(
    source: MoleculeSource, wanted: Wanted, say: Say, start: Reached = START
) -> Iterator[Part]:
    """The molecules of the file or the folder, as ``row 17``, counted from 0 in every file.

    Positions are lists [N, 3] or [3 N] of numbers; elements are lists of atomic numbers or of
    symbols, or the text of such a list.

    Raises:
        InputError: a file is damaged, or a column or a value is not what it must be.
    """
    path = Path(source.path)
    found = np.zeros(len(wanted.columns), dtype=bool)
    total = start.molecules
    paths = files(path)
    sizes = [_rows(file) for file in paths]
    ends = np.cumsum(sizes)
    for file, size, end in zip(paths, sizes, ends, strict=True):
        for part in _parts_of_file(file, source, wanted, max(0, total - int(end - size))):
            found |= ~np.isnan(part.labels).all(axis=0)
            before, total = total, total + len(part.counts)
            if total // _PROGRESS > before // _PROGRESS:
                say(f"read {total:,} molecules from {path.name}")
            if file != path:
                part = replace(part, places=[f"{file.name}, {place}" for place in part.places])
            yield replace(part, reached=Reached(total, total, 0, total / max(1, int(ends[-1]))))
    if total == 0:
        raise no_molecules(path)
    check_found(path, wanted, found, label_names(source))


def _rows(path: Path) -> int:
    with library(path, _FILE), _opened(path) as file:
        return int(file.metadata.num_rows)


def _parts_of_file(
    path: Path, source: MoleculeSource, wanted: Wanted, first: int
) -> Iterator[Part]:
    """The molecules of a file from the row ``first`` on."""
    with library(path, _FILE):
        file = _opened(path)
    with file:
        schema = _flat(file.schema_arrow)
        atoms = _atom_columns(path, source, schema.names)
        read = _checked_columns(path, wanted, schema, atoms, _offered(schema, atoms))
        if 0 < file.metadata.num_rows <= first:
            return
        with library(path, _FILE):
            batches = file.iter_batches(batch_size=MOLECULES_PER_PART, columns=read)
        total = 0
        while True:
            with library(path, f"{_FILE} whose row {total} can be read"):
                batch = next(batches, None)
                if batch is None:
                    break
                if first > total:
                    skipped = min(first - total, batch.num_rows)
                    total += skipped
                    batch = batch.slice(skipped)
                batch.validate(full=True)
                batch = _flat_batch(batch)
            if batch.num_rows:
                yield _part(path, batch, total, atoms, wanted)
            total += batch.num_rows


def _flat_batch(batch: Any) -> Any:
    """The batch with the columns of :func:`_flat`."""
    import pyarrow

    columns: list[Any] = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        # Flattening keeps what is missing: the fields of a missing struct are missing.
        columns += column.flatten() if pyarrow.types.is_struct(field.type) else [column]
    return pyarrow.RecordBatch.from_arrays(columns, schema=_flat(batch.schema))


def _checked_columns(
    path: Path, wanted: Wanted, schema: Any, atoms: tuple[str, str], offered: list[str]
) -> list[str]:
    """The columns to read."""
    for column in wanted.columns:
        if column not in schema.names:
            raise absent(path, column, offered)
        kind = schema.field(column).type
        if not _is_number(kind) and str(kind) != "null":
            raise InputError(
                f"{shown_path(path)}, column {one_line(column)}: "
                f"{not_a_label(column, f'a column of {one_line(str(kind))}')}"
            )
    for role, name in (("identifier", wanted.identifier), ("group", wanted.group)):
        if name is not None and name not in schema.names:
            raise columns.missing_text(path, role, name, schema.names)
    named = (*atoms, *wanted.columns, wanted.identifier, wanted.group)
    read = list(dict.fromkeys(name for name in named if name is not None))
    if _PERIODIC in schema.names and _PERIODIC not in read:
        read.append(_PERIODIC)
    for name in read:
        if schema.names.count(name) > 1:
            raise InputError(
                f"{shown_path(path)} must have the column {one_line(name)} once, got it "
                f"{schema.names.count(name)} times"
            )
    return read


def _part(path: Path, batch: Any, start: int, atoms: tuple[str, str], wanted: Wanted) -> Part:
    places = [f"row {row}" for row in range(start, start + batch.num_rows)]
    if _PERIODIC in batch.schema.names:
        for place, flags in zip(places, batch.column(_PERIODIC).to_pylist(), strict=True):
            if True in (flags if isinstance(flags, list) else [flags]):
                raise periodic(path, place)
    counts, positions = _positions(path, batch.column(atoms[0]), places, atoms[0])
    sizes, numbers = _numbers(path, batch.column(atoms[1]), places, atoms[1])
    differ = np.flatnonzero(counts != sizes)
    if len(differ):
        first = differ[0]
        raise wrong(
            path,
            places[first],
            f"{one_line(atoms[0])} and {one_line(atoms[1])} must have as many atoms, got "
            f"{counts[first]} positions and {sizes[first]} elements",
        )
    labels = np.empty((batch.num_rows, len(wanted.columns)))
    for position, column in enumerate(wanted.columns):
        with library(path, f"{_FILE} with numbers in {one_line(column)}"):
            values = batch.column(column).cast("double").to_numpy(zero_copy_only=False)
        labels[:, position] = columns.finite_labels(path, column, values, places)
    texts: list[list[str] | None] = []
    for role, name in (("identifier", wanted.identifier), ("group", wanted.group)):
        texts.append(None if name is None else _texts(path, batch, role, name, places))
    return Part(counts, numbers, positions, labels, texts[0], texts[1], places)


def _texts(path: Path, batch: Any, role: str, name: str, places: list[str]) -> list[str]:
    values = batch.column(name).to_pylist()
    return columns.texts(path, role, name, values, places, batch.schema.names)


def _lengths(path: Path, column: Any, places: list[str], name: str) -> NDArray[np.int64]:
    """[n] lengths of the lists of a column."""
    import pyarrow.compute as compute

    if column.null_count:
        missing = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise wrong(path, places[missing], f"{one_line(name)} must be given, got none")
    lengths: NDArray[Any] = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    return lengths.astype(np.int64)


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _positions(
    path: Path, column: Any, places: list[str], name: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Counts [n] and positions [atoms, 3] of lists [N, 3] or [3 N]."""
    import pyarrow.compute as compute

    kind = column.type
    inner = kind.value_type if _is_list(kind) else None
    number = inner.value_type if inner is not None and _is_list(inner) else inner
    if number is None or not _is_number(number):
        raise InputError(
            f"{shown_path(path)}, column {one_line(name)}: positions must be lists [N, 3] or "
            f"[3 N] of numbers, got {one_line(str(kind))}; turn text into lists with json.loads"
        )
    counts = _lengths(path, column, places, name)
    flat = compute.list_flatten(column)
    if inner is not number:
        owner = np.repeat(np.arange(len(places)), counts)
        sizes = _lengths(path, flat, [places[row] for row in owner], name)
        if (sizes != 3).any():
            first = int(np.argmax(sizes != 3))
            raise wrong(
                path,
                places[owner[first]],
                f"a position must have three numbers, got {sizes[first]}",
            )
        flat = compute.list_flatten(flat)
    else:
        if (counts % 3).any():
            first = int(np.argmax(counts % 3 != 0))
            raise wrong(
                path,
                places[first],
                f"{one_line(name)} must have three numbers for every atom, got {counts[first]}",
            )
        counts = counts // 3
    # A missing number becomes NaN, which is refused with its molecule.
    values = flat.cast("double").to_numpy(zero_copy_only=False)
    return counts, np.array(values, dtype=np.float64).reshape(-1, 3)


def _numbers(
    path: Path, column: Any, places: list[str], name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts [n] and atomic numbers [atoms] of lists, or of the text of lists."""
    import pyarrow.compute as compute
    import pyarrow.types as types

    kind = column.type
    if types.is_string(kind) or types.is_large_string(kind):
        return _parsed(path, column.to_pylist(), places, name)
    inner = kind.value_type if _is_list(kind) else None
    is_text = inner is not None and (types.is_string(inner) or types.is_large_string(inner))
    if inner is None or not (is_text or types.is_integer(inner)):
        raise InputError(
            f"{shown_path(path)}, column {one_line(name)}: elements must be lists of symbols or "
            f"atomic numbers, got {one_line(str(kind))}"
        )
    counts = _lengths(path, column, places, name)
    flat = compute.list_flatten(column)
    if flat.null_count:
        missing = int(np.argmax(flat.is_null().to_numpy(zero_copy_only=False)))
        row = int(np.searchsorted(np.cumsum(counts), missing, side="right"))
        raise wrong(path, places[row], f"{one_line(name)} must have no missing element")
    if is_text:
        encoded = flat.dictionary_encode()
        indices = encoded.indices.to_numpy(zero_copy_only=False)
        numbers = _known(path, encoded.dictionary.to_pylist(), indices, counts, places)
        return counts, numbers[indices] if len(indices) else np.zeros(0, dtype=np.int64)
    values = flat.to_numpy(zero_copy_only=False)
    return counts, np.clip(values, -1, 1_000).astype(np.int64)


def _known(
    path: Path,
    symbols: list[str],
    indices: NDArray[Any],
    counts: NDArray[np.int64],
    places: list[str],
) -> NDArray[np.int64]:
    """The atomic numbers of ``symbols``."""
    numbers = np.zeros(len(symbols), dtype=np.int64)
    for position, symbol in enumerate(symbols):
        try:
            numbers[position] = columns.number_of(symbol)
        except ValueError as error:
            atom = int(np.argmax(indices == position))
            row = int(np.searchsorted(np.cumsum(counts), atom, side="right"))
            raise wrong(path, places[row], str(error)) from None
    return numbers


def _parsed(
    path: Path, values: list[str | None], places: list[str], name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    counts, numbers = [], []
    for text, place in zip(values, places, strict=True):
        if text is None:
            raise wrong(path, place, f"{one_line(name)} must be given, got none")
        try:
            found = columns.elements_in(text)
        except ValueError as error:
            raise wrong(path, place, str(error)) from None
        counts.append(len(found))
        numbers.extend(found)
    return np.array(counts, dtype=np.int64), np.array(numbers, dtype=np.int64)

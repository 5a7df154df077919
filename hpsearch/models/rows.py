"""The formats of predictions: CSV, Parquet and extxyz, written in parts that are joined."""

from __future__ import annotations

import csv
import io
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpsearch.config.targets import SYMBOLS, Target
from hpsearch.models.intervals import level_name
from hpsearch.system.files import open_atomically

if TYPE_CHECKING:
    from hpsearch.models.predict import Rows

_SEPARATOR = "; "


@dataclass(frozen=True)
class Columns:
    """The columns of values: of each target its value, then half of each interval's width.

    Attributes:
        targets: the targets.
        levels: of the intervals.
    """

    targets: tuple[Target, ...]
    levels: tuple[float, ...]

    @classmethod
    def of(cls, targets: Sequence[Target], levels: Sequence[float]) -> Columns:
        """Return the columns for targets and levels."""
        return cls(tuple(targets), tuple(levels))

    @property
    def names(self) -> list[str]:
        """The names of the columns, with units: ``U0 [meV]``, ``U0 ±95% [meV]``."""
        return [
            f"{target.name}{part} [{target.unit}]"
            for target in self.targets
            for part in ("", *(f" ±{level_name(level)}%" for level in self.levels))
        ]

    @property
    def keys(self) -> list[str]:
        """The names of the columns as keys: ``predicted_U0``, ``predicted_U0_95``.

        Without the prefix ASE would take ``energy`` for a calculator's result in eV.
        """
        return [
            f"predicted_{re.sub(r'[^0-9A-Za-z_]', '_', target.name)}{part}"
            for target in self.targets
            for part in ("", *(f"_{level_name(level)}" for level in self.levels))
        ]

    def values(self, rows: Rows) -> np.ndarray[Any, Any]:
        """[n, columns] the values."""
        found = rows.predictions
        stacked = [
            column
            for place in range(len(self.targets))
            for column in (
                found.values[:, place],
                *(found.halves[level][:, place] for level in self.levels),
            )
        ]
        return np.stack(stacked, axis=1)


class RowFormat(ABC):
    """A format of predictions."""

    @abstractmethod
    def part(self, columns: Columns, rows: Rows, *, first: bool) -> bytes:
        """Return the bytes of a part; the first one has the header."""

    @abstractmethod
    def read(self, path: Path, columns: Columns, count: int) -> np.ndarray[Any, Any]:
        """Return the values [count, columns] of the first molecules; NaN where there is none."""

    def join(self, parts: Sequence[Path], output: Path) -> None:
        """Write all parts into ``output``, in one step."""
        with open_atomically(output) as file:
            for path in parts:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, file)


class _Csv(RowFormat):
    def part(self, columns: Columns, rows: Rows, *, first: bool) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if first:
            writer.writerow(["molecule", "atoms", *columns.names, "flags", "status"])
        for name, atoms, values, flags, status in _each(columns, rows):
            writer.writerow([name, atoms, *map(_number, values), _SEPARATOR.join(flags), status])
        return text.getvalue().encode()

    def read(self, path: Path, columns: Columns, count: int) -> np.ndarray[Any, Any]:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(islice(csv.DictReader(file), count))
        return _table([[row.get(name) for name in columns.names] for row in rows], columns)


class _Extxyz(RowFormat):
    def part(self, columns: Columns, rows: Rows, *, first: bool) -> bytes:
        text = io.StringIO()
        units = " ".join(f"{target.name}:{target.unit}" for target in columns.targets)
        ends = np.cumsum(rows.geometries.counts)
        for place, (name, atoms, values, flags, status) in enumerate(_each(columns, rows)):
            pairs = [f"molecule={_quoted(name)}"]
            pairs += [
                f"{key}={_number(value)}"
                for key, value in zip(columns.keys, values, strict=True)
                if np.isfinite(value)
            ]
            pairs.append(f"units={_quoted(units)}")
            if flags:
                pairs.append(f"flags={_quoted(_SEPARATOR.join(flags))}")
            pairs.append(f"status={_quoted(status)}")
            text.write(f"{atoms}\nProperties=species:S:1:pos:R:3 {' '.join(pairs)}\n")
            where = slice(ends[place] - atoms, ends[place])
            numbers, positions = rows.geometries.numbers[where], rows.geometries.positions[where]
            for number, position in zip(numbers, positions.tolist(), strict=True):
                text.write(f"{SYMBOLS[number]} {' '.join(f'{x:.8f}' for x in position)}\n")
        return text.getvalue().encode()

    def read(self, path: Path, columns: Columns, count: int) -> np.ndarray[Any, Any]:
        from hpsearch.formats.extxyz import records

        rows = [record.values for record in islice(records(path, columns.keys), count)]
        return _table([[row.get(key) for key in columns.keys] for row in rows], columns)


class _Parquet(RowFormat):
    def part(self, columns: Columns, rows: Rows, *, first: bool) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(pa.table(table(columns, rows)), buffer)
        return buffer.getvalue()

    def join(self, parts: Sequence[Path], output: Path) -> None:
        """Write all parts into ``output``, a group of rows for each."""
        import pyarrow.parquet as pq

        schema = pq.read_schema(parts[0])
        with open_atomically(output) as file, pq.ParquetWriter(file, schema) as writer:
            for path in parts:
                writer.write_table(pq.read_table(path))

    def read(self, path: Path, columns: Columns, count: int) -> np.ndarray[Any, Any]:
        import pyarrow.parquet as pq

        batches = pq.ParquetFile(path).iter_batches(batch_size=max(count, 1), columns=columns.names)
        rows = next(batches).to_pylist()
        return _table([[row[name] for name in columns.names] for row in rows], columns)


def table(columns: Columns, rows: Rows) -> dict[str, Any]:
    """Return the columns of predictions by name, each with one entry per molecule."""
    values = columns.values(rows)
    return {
        "molecule": list(rows.names),
        "atoms": rows.geometries.counts,
        **{name: values[:, place] for place, name in enumerate(columns.names)},
        "flags": [_SEPARATOR.join(flags) for flags in rows.predictions.flags],
        "status": list(rows.statuses),
    }


def _table(rows: list[list[Any]], columns: Columns) -> np.ndarray[Any, Any]:
    numbers = [
        [float(value) if value not in (None, "") else np.nan for value in row] for row in rows
    ]
    return np.array(numbers, dtype=np.float64).reshape(len(rows), len(columns.names))


FORMATS: dict[str, RowFormat] = {".csv": _Csv(), ".parquet": _Parquet(), ".extxyz": _Extxyz()}
"""The offered formats by the ending of the name."""


def _each(
    columns: Columns, rows: Rows
) -> Iterator[tuple[str, int, np.ndarray[Any, Any], list[str], str]]:
    yield from zip(
        rows.names,
        rows.geometries.counts.tolist(),
        columns.values(rows),
        rows.predictions.flags,
        rows.statuses,
        strict=True,
    )


def _number(value: float) -> str:
    return f"{value:.10g}" if np.isfinite(value) else ""


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

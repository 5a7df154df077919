"""Reads npz archives of NumPy in three layouts.

- padded: positions [n, A, 3] and numbers [n, A], where 0 is no atom;
- one composition: positions [n, A, 3] and numbers [A];
- concatenated: positions [atoms, 3], numbers [atoms] and counts [n].

Pickled objects are never opened.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from hpsearch.config.declaration import MoleculeSource
from hpsearch.formats import columns
from hpsearch.formats.files import PICKLE, library
from hpsearch.formats.part import (
    MOLECULES_PER_PART,
    Part,
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

_ARCHIVE = "an npz archive of NumPy"


class _Archive:
    """The arrays of an archive: shapes and types at once, numbers when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with library(path, _ARCHIVE), zipfile.ZipFile(path) as archive:
            self.headers = {
                name.removesuffix(".npy"): _header(archive, name)
                for name in archive.namelist()
                if name.endswith(".npy")
            }
        self.names = list(self.headers)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.headers[name][0]

    def load(self, name: str) -> NDArray[Any]:
        if self.headers[name][1].hasobject:
            raise InputError(
                f"{shown_path(self.path)}, array {one_line(name)}: it must hold numbers or text, "
                f"got Python objects, which are a pickle; {PICKLE}"
            )
        with (
            library(self.path, f"{_ARCHIVE} whose array {one_line(name)} can be read"),
            np.load(self.path, allow_pickle=False) as archive,
        ):
            array: NDArray[Any] = archive[name]
        return array


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(name) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype


def label_names(source: MoleculeSource) -> list[str]:
    """The arrays with one number for every molecule."""
    archive = _Archive(Path(source.path))
    names, total = _layout(archive, source)
    return _offered(archive, names, total)


def _offered(archive: _Archive, used: tuple[str | None, ...], total: int) -> list[str]:
    return [
        name
        for name, (shape, dtype) in archive.headers.items()
        if name not in used and dtype.kind in "iuf" and shape in ((total,), (total, 1))
    ]


def _layout(archive: _Archive, source: MoleculeSource) -> tuple[tuple[str, str, str | None], int]:
    """Names of positions, numbers and counts (``None`` without), and the number of molecules."""
    path, names = archive.path, archive.names
    found = columns.choose(path, "positions", source.positions, columns.POSITIONS, names)
    positions = columns.needed(path, "positions", found, names)
    found = columns.choose(path, "numbers", source.numbers, columns.NUMBERS, names)
    numbers = columns.needed(path, "numbers", found, names)
    shape = archive.shape(positions)
    if len(shape) == 3 and shape[2] == 3:
        if archive.shape(numbers) not in (shape[:2], shape[1:2]):
            raise _shape_error(archive, numbers, f"[{shape[0]}, {shape[1]}] or [{shape[1]}]")
        return (positions, numbers, None), shape[0]
    if len(shape) != 2 or shape[1] != 3:
        raise _shape_error(archive, positions, "[n, A, 3], or [atoms, 3] with counts [n]")
    found = columns.choose(path, "counts", source.counts, columns.COUNTS, names)
    counts = columns.needed(path, "counts", found, names)
    if archive.shape(numbers) != shape[:1]:
        raise _shape_error(archive, numbers, f"[{shape[0]}]")
    if len(archive.shape(counts)) != 1:
        raise _shape_error(archive, counts, "[n]")
    return (positions, numbers, counts), archive.shape(counts)[0]


def _shape_error(archive: _Archive, name: str, demand: str) -> InputError:
    got = list(archive.shape(name))
    if archive.headers[name][1].hasobject:
        archive.load(name)
    return InputError(
        f"{shown_path(archive.path)}, array {one_line(name)}: its shape must be {demand}, got {got}"
    )


def parts(source: MoleculeSource, wanted: Wanted, say: Say) -> Iterator[Part]:
    """The molecules of the archive, counted from 0, as ``molecule 4``.

    The arrays that are wanted are held in memory.

    Raises:
        InputError: the archive is damaged, holds pickled objects, or an array has a wrong shape.
    """
    path = Path(source.path)
    archive = _Archive(path)
    names, total = _layout(archive, source)
    if total == 0:
        raise no_molecules(path)
    offered = _offered(archive, names, total)
    places = _Places(total)
    labels = np.empty((total, len(wanted.columns)))
    for position, column in enumerate(wanted.columns):
        labels[:, position] = _labels(archive, column, total, offered, places)
    texts = [
        _texts(archive, role, column, total, places)
        for role, column in (("identifier", wanted.identifier), ("group", wanted.group))
    ]
    check_found(path, wanted, np.asarray(~np.isnan(labels).all(axis=0)), offered)
    _check_periods(archive, total)
    counts, numbers, positions = _atoms(archive, names)
    ends = np.cumsum(counts)
    for start in range(0, total, MOLECULES_PER_PART):
        rows = slice(start, min(start + MOLECULES_PER_PART, total))
        atoms = slice(int(ends[start] - counts[start]), int(ends[rows.stop - 1]))
        identifiers, groups = (None if column is None else column[rows] for column in texts)
        yield Part(
            counts=counts[rows],
            numbers=numbers[atoms],
            positions=positions[atoms],
            labels=labels[rows],
            identifiers=identifiers,
            groups=groups,
            places=[f"molecule {index}" for index in range(rows.start, rows.stop)],
        )


class _Places(list[str]):
    """The places of all molecules."""

    def __init__(self, total: int) -> None:
        super().__init__(f"molecule {index}" for index in range(total))


def _check_periods(archive: _Archive, total: int) -> None:
    """Refuse an array ``pbc`` [3], [n] or [n, 3] with a true value."""
    if "pbc" not in archive.names or archive.headers["pbc"][1].hasobject:
        return
    flags = archive.load("pbc")
    if flags.dtype.kind in "biu" and flags.any():
        first = int(np.argwhere(flags)[0, 0]) if flags.shape[:1] == (total,) else 0
        raise periodic(archive.path, f"molecule {first}")


def _labels(
    archive: _Archive, column: str, total: int, offered: list[str], places: list[str]
) -> NDArray[np.float64]:
    if column not in archive.names:
        raise absent(archive.path, column, offered)
    array = archive.load(column)
    if array.dtype.kind not in "iuf" or array.shape not in ((total,), (total, 1)):
        got = columns.described(array).description
        raise InputError(
            f"{shown_path(archive.path)}, array {one_line(column)}: "
            f"{not_a_label(column, got)}; its shape must be [{total}], one number for every "
            "molecule"
        )
    return columns.finite_labels(archive.path, column, array.reshape(-1), places)


def _texts(
    archive: _Archive, role: str, column: str | None, total: int, places: list[str]
) -> list[str] | None:
    if column is None:
        return None
    if column not in archive.names:
        raise columns.missing_text(archive.path, role, column, archive.names)
    array = archive.load(column)
    if array.shape not in ((total,), (total, 1)):
        raise _shape_error(archive, column, f"[{total}]")
    values: list[object] = array.reshape(-1).tolist()
    if array.dtype.kind == "S":
        values = [bytes(value).decode("utf-8", "replace") for value in array.reshape(-1)]
    return columns.texts(archive.path, role, column, values, places, archive.names)


def _atoms(
    archive: _Archive, names: tuple[str, str, str | None]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Counts [n], atomic numbers [atoms] and positions [atoms, 3]."""
    path = archive.path
    positions = archive.load(names[0])
    if positions.dtype.kind not in "iuf":
        raise InputError(
            f"{shown_path(path)}, array {one_line(names[0])}: positions must be numbers, got "
            f"{columns.described(positions).description}"
        )
    numbers = _numbers(archive, names[1])
    if names[2] is None:
        molecules, width = positions.shape[:2]
        if numbers.ndim == 1:
            numbers = np.broadcast_to(numbers, (molecules, width))
        is_atom = numbers != 0
        counts = is_atom.sum(axis=1, dtype=np.int64)
        return counts, numbers[is_atom], positions[is_atom].astype(np.float64)
    counts = archive.load(names[2])
    if counts.dtype.kind not in "iu":
        raise _type_error(archive, names[2], counts)
    # Compared as exact integers: a sum in 64 bits could overflow to the right number.
    large = np.flatnonzero((counts < 1) | (counts > len(numbers)))
    if len(large):
        are_offsets = counts[0] == 0 and counts[-1] == len(numbers)
        raise wrong(
            path,
            f"molecule {large[0]}",
            f"its count must be between 1 and the number of atoms {len(numbers)}, got "
            f"{counts[large[0]]}" + (f"; {columns.OFFSETS}" if are_offsets else ""),
        )
    if counts.sum(dtype=np.float64) != len(numbers):
        raise InputError(
            f"{shown_path(path)}, array {one_line(names[2])}: the counts must sum to the number of "
            f"atoms {len(numbers)}, got {counts.sum(dtype=np.float64):.0f}"
        )
    return counts.astype(np.int64), numbers, positions.astype(np.float64)


def _numbers(archive: _Archive, name: str) -> NDArray[np.int64]:
    """Atomic numbers in the array's shape; empty text is no atom."""
    array = archive.load(name)
    if array.dtype.kind in "iu":
        whole: NDArray[np.int64] = np.clip(array, -1, 1_000).astype(np.int64)
        return whole
    if array.dtype.kind not in "US":
        raise _type_error(archive, name, array)
    known, indices = np.unique(array.astype(np.str_), return_inverse=True)
    try:
        numbers = [columns.number_of(str(symbol)) if symbol else 0 for symbol in known]
    except ValueError as error:
        raise InputError(f"{shown_path(archive.path)}, array {one_line(name)}: {error}") from None
    return np.array(numbers, dtype=np.int64)[indices].reshape(array.shape)


def _type_error(archive: _Archive, name: str, array: NDArray[Any]) -> InputError:
    return InputError(
        f"{shown_path(archive.path)}, array {one_line(name)}: it must hold whole numbers, got "
        f"{columns.described(array).description}; save it with .astype(int)"
    )

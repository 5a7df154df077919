"""Reads npz archives of NumPy in three layouts.

- padded: positions [n, A, 3] and numbers [n, A], where 0 is no atom;
- one composition: positions [n, A, 3] and numbers [A];
- concatenated: positions [atoms, 3], numbers [atoms] and counts [n].

Pickled objects are never opened.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from hpsearch.config.declaration import MoleculeSource
from hpsearch.formats import columns
from hpsearch.formats.files import PICKLE, library
from hpsearch.formats.part import (
    ATOMS_PER_PART,
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

_ARCHIVE = "an npz archive of NumPy"


class _Header(NamedTuple):
    """The shape and the type of an array, and whether it is stored in Fortran's order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool


class _Archive:
    """The arrays of an archive: shapes and types at once, numbers when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with library(path, _ARCHIVE), zipfile.ZipFile(path) as archive:
            self.headers: dict[str, _Header] = {}
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as file:
                        self.headers[name.removesuffix(".npy")] = _header(file)
        self.names = list(self.headers)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.headers[name].shape

    def empty(self, name: str) -> NDArray[Any]:
        """An array of the same shape and type, without its content and without its memory."""
        header = self.headers[name]
        return np.broadcast_to(np.empty((), header.dtype), header.shape)

    def kind(self, name: str) -> str:
        """What the file must be, for errors in the content of an array."""
        return f"{_ARCHIVE} whose array {one_line(name)} can be read"

    def check(self, name: str) -> None:
        """Refuse an array of Python objects."""
        if self.headers[name].dtype.hasobject:
            raise InputError(
                f"{shown_path(self.path)}, array {one_line(name)}: it must hold numbers or text, "
                f"got Python objects, which are a pickle; {PICKLE}"
            )

    def load(self, name: str) -> NDArray[Any]:
        self.check(name)
        with (
            library(self.path, self.kind(name)),
            np.load(self.path, allow_pickle=False) as archive,
        ):
            array: NDArray[Any] = archive[name]
        return array


def _header(file: IO[bytes]) -> _Header:
    """The header of an array, behind which its content begins."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    return _Header(shape, dtype, is_fortran)


def label_names(source: MoleculeSource) -> list[str]:
    """The arrays with one number for every molecule."""
    archive = _Archive(Path(source.path))
    names, total = _layout(archive, source)
    return _offered(archive, names, total)


def _offered(archive: _Archive, used: tuple[str | None, ...], total: int) -> list[str]:
    return [
        name
        for name, (shape, dtype, _) in archive.headers.items()
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
    archive.check(name)
    return InputError(
        f"{shown_path(archive.path)}, array {one_line(name)}: its shape must be {demand}, got {got}"
    )


def parts(
    source: MoleculeSource, wanted: Wanted, say: Say, start: Reached = START
) -> Iterator[Part]:
    """The molecules of the archive, counted from 0, as ``molecule 4``.

    Of the arrays only the counts are held in memory, and what is stored in Fortran's order.

    Raises:
        InputError: the archive is damaged, holds pickled objects, or an array has a wrong shape.
    """
    path = Path(source.path)
    archive = _Archive(path)
    names, total = _layout(archive, source)
    if total == 0:
        raise no_molecules(path)
    offered = _offered(archive, names, total)
    for column in wanted.columns:
        _check_labels(archive, column, total, offered)
    _check_periods(archive, total)
    found = np.zeros(len(wanted.columns), dtype=bool)
    with ExitStack() as stack:

        def opened(name: str) -> _Rows:
            return stack.enter_context(closing(_Rows(archive, name)))

        atoms = _Atoms(archive, names, opened)
        labelled = [opened(column) for column in wanted.columns]
        roles = (("identifier", wanted.identifier), ("group", wanted.group))
        texts = [_Texts(archive, role, name, total, opened) for role, name in roles]
        skipped: list[_Rows | _Texts | _Atoms] = [*labelled, *texts, atoms]
        for reader in skipped:
            reader.skip(start.molecules)
        done = start.molecules
        while done < total:
            counts, numbers, positions = atoms.take()
            places = [f"molecule {index}" for index in range(done, done + len(counts))]
            labels = np.empty((len(counts), len(labelled)))
            for place, (name, rows) in enumerate(zip(wanted.columns, labelled, strict=True)):
                values = rows.take(len(counts)).reshape(-1)
                labels[:, place] = columns.finite_labels(path, name, values, places)
            found |= ~np.isnan(labels).all(axis=0)
            identifiers, groups = (column.take(places) for column in texts)
            done += len(counts)
            reached = Reached(done, done, 0, done / total)
            yield Part(counts, numbers, positions, labels, identifiers, groups, places, reached)
    check_found(path, wanted, found, offered)


class _Rows:
    """The rows of an array, some after others, without the whole array in memory."""

    def __init__(self, archive: _Archive, name: str) -> None:
        archive.check(name)
        header = archive.headers[name]
        self._path, self._kind = archive.path, archive.kind(name)
        self._total, self._inner = header.shape[0], header.shape[1:]
        self._dtype, self._bytes = header.dtype, math.prod(self._inner) * header.dtype.itemsize
        self._done = 0
        self._whole: NDArray[Any] | None = None
        if header.is_fortran or self._bytes == 0:
            self._whole = archive.load(name)
            return
        with library(self._path, self._kind), zipfile.ZipFile(self._path) as opened:
            # The array stays open when the archive is closed.
            self._file = opened.open(f"{name}.npy")
            _header(self._file)

    def close(self) -> None:
        """Close the file."""
        if self._whole is None:
            self._file.close()

    def skip(self, rows: int) -> None:
        """Leave out the next rows."""
        self._done += rows
        if self._whole is None and rows:
            with library(self._path, self._kind):
                self._file.seek(rows * self._bytes, io.SEEK_CUR)

    def take(self, rows: int) -> NDArray[Any]:
        """The next rows, fewer at the end."""
        begin, self._done = self._done, min(self._done + rows, self._total)
        if self._whole is not None:
            return self._whole[begin : self._done]
        size = (self._done - begin) * self._bytes
        with library(self._path, self._kind):
            content = self._file.read(size)
            if len(content) < size:
                raise EOFError("the array is cut off")
            return np.frombuffer(content, self._dtype).reshape(-1, *self._inner)


class _Texts:
    """The names or the groups of the molecules; none without a column."""

    def __init__(
        self,
        archive: _Archive,
        role: str,
        column: str | None,
        total: int,
        opened: Callable[[str], _Rows],
    ) -> None:
        self._archive, self._role = archive, role
        self._column = column or ""
        self._rows: _Rows | None = None
        if column is None:
            return
        if column not in archive.names:
            raise columns.missing_text(archive.path, role, column, archive.names)
        archive.check(column)
        if archive.shape(column) not in ((total,), (total, 1)):
            raise _shape_error(archive, column, f"[{total}]")
        self._rows = opened(column)

    def skip(self, rows: int) -> None:
        """Leave out the next molecules."""
        if self._rows is not None:
            self._rows.skip(rows)

    def take(self, places: list[str]) -> list[str] | None:
        """The texts of the next molecules, which are at these places."""
        if self._rows is None:
            return None
        array = self._rows.take(len(places)).reshape(-1)
        values: list[object] = array.tolist()
        if array.dtype.kind == "S":
            values = [bytes(value).decode("utf-8", "replace") for value in array]
        archive = self._archive
        return columns.texts(archive.path, self._role, self._column, values, places, archive.names)


def _check_periods(archive: _Archive, total: int) -> None:
    """Refuse an array ``pbc`` [3], [n] or [n, 3] with a true value."""
    if "pbc" not in archive.names or archive.headers["pbc"].dtype.hasobject:
        return
    flags = archive.load("pbc")
    if flags.dtype.kind in "biu" and flags.any():
        first = int(np.argwhere(flags)[0, 0]) if flags.shape[:1] == (total,) else 0
        raise periodic(archive.path, f"molecule {first}")


def _check_labels(archive: _Archive, column: str, total: int, offered: list[str]) -> None:
    """Refuse an array that does not hold one number for every molecule."""
    if column not in archive.names:
        raise absent(archive.path, column, offered)
    archive.check(column)
    array = archive.empty(column)
    if array.dtype.kind not in "iuf" or array.shape not in ((total,), (total, 1)):
        got = columns.described(array).description
        raise InputError(
            f"{shown_path(archive.path)}, array {one_line(column)}: "
            f"{not_a_label(column, got)}; its shape must be [{total}], one number for every "
            "molecule"
        )


class _Atoms:
    """The atoms of the molecules, some molecules after others.

    Raises:
        InputError: an array has a wrong type, or the counts do not fit to the atoms.
    """

    def __init__(
        self,
        archive: _Archive,
        names: tuple[str, str, str | None],
        opened: Callable[[str], _Rows],
    ) -> None:
        self._archive = archive
        positions, self._name, counts = names
        archive.check(positions)
        if archive.headers[positions].dtype.kind not in "iuf":
            raise InputError(
                f"{shown_path(archive.path)}, array {one_line(positions)}: positions must be "
                f"numbers, got {columns.described(archive.empty(positions)).description}"
            )
        archive.check(self._name)
        if archive.headers[self._name].dtype.kind not in "iuUS":
            raise _type_error(archive, self._name)
        shape = archive.shape(positions)
        self._counts = None if counts is None else _counts(archive, counts, shape[0])
        self._most = MOLECULES_PER_PART
        self._composition: NDArray[np.int64] | None = None
        self._numbers: _Rows | None = None
        if counts is None:
            self._most = max(1, min(self._most, ATOMS_PER_PART // max(1, shape[1])))
        if counts is None and len(archive.shape(self._name)) == 1:
            self._composition = self._known(archive.load(self._name))
        else:
            self._numbers = opened(self._name)
        self._positions = opened(positions)
        self._done = 0

    def skip(self, molecules: int) -> None:
        """Leave out the next molecules."""
        rows = molecules if self._counts is None else int(self._counts[:molecules].sum())
        self._done += molecules
        for array in (self._positions, self._numbers):
            if array is not None:
                array.skip(rows)

    def take(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Counts [n], atomic numbers [atoms] and positions [atoms, 3] of the next molecules."""
        if self._counts is not None:
            counts = self._counts[self._done : self._done + self._most]
            fitting = int(np.searchsorted(np.cumsum(counts), ATOMS_PER_PART, side="right"))
            counts = counts[: max(1, fitting)]
            self._done += len(counts)
            atoms = int(counts.sum())
            return counts, self._next_numbers(atoms), self._next_positions(atoms)
        positions = self._positions.take(self._most)
        if self._composition is None:
            numbers = self._next_numbers(self._most)
        else:
            numbers = np.broadcast_to(self._composition, positions.shape[:2])
        is_atom = numbers != 0
        counts = is_atom.sum(axis=1, dtype=np.int64)
        return counts, numbers[is_atom], positions[is_atom].astype(np.float64)

    def _next_positions(self, atoms: int) -> NDArray[np.float64]:
        return self._positions.take(atoms).astype(np.float64)

    def _next_numbers(self, rows: int) -> NDArray[np.int64]:
        assert self._numbers is not None
        return self._known(self._numbers.take(rows))

    def _known(self, array: NDArray[Any]) -> NDArray[np.int64]:
        """Atomic numbers in the array's shape; empty text is no atom."""
        if array.dtype.kind in "iu":
            whole: NDArray[np.int64] = np.clip(array, -1, 1_000).astype(np.int64)
            return whole
        known, indices = np.unique(array.astype(np.str_), return_inverse=True)
        try:
            numbers = [columns.number_of(str(symbol)) if symbol else 0 for symbol in known]
        except ValueError as error:
            raise InputError(
                f"{shown_path(self._archive.path)}, array {one_line(self._name)}: {error}"
            ) from None
        return np.array(numbers, dtype=np.int64)[indices].reshape(array.shape)


def _counts(archive: _Archive, name: str, atoms: int) -> NDArray[np.int64]:
    """[n] numbers of atoms of the molecules, which are ``atoms`` together."""
    path, counts = archive.path, archive.load(name)
    if counts.dtype.kind not in "iu":
        raise _type_error(archive, name)
    # Compared as exact integers: a sum in 64 bits could overflow to the right number.
    large = np.flatnonzero((counts < 1) | (counts > atoms))
    if len(large):
        are_offsets = counts[0] == 0 and counts[-1] == atoms
        raise wrong(
            path,
            f"molecule {large[0]}",
            f"its count must be between 1 and the number of atoms {atoms}, got "
            f"{counts[large[0]]}" + (f"; {columns.OFFSETS}" if are_offsets else ""),
        )
    if counts.sum(dtype=np.float64) != atoms:
        raise InputError(
            f"{shown_path(path)}, array {one_line(name)}: the counts must sum to the number of "
            f"atoms {atoms}, got {counts.sum(dtype=np.float64):.0f}"
        )
    return counts.astype(np.int64)


def _type_error(archive: _Archive, name: str) -> InputError:
    return InputError(
        f"{shown_path(archive.path)}, array {one_line(name)}: it must hold whole numbers, got "
        f"{columns.described(archive.empty(name)).description}; save it with .astype(int)"
    )

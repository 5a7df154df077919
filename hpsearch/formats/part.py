"""Molecules in the order of their file: what is wanted, one record, a part, and its checks."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.declaration import MOST_ATOMS
from hpsearch.config.targets import SYMBOLS
from hpsearch.system.errors import InputError, nearest, one_line
from hpsearch.system.files import Say

MOLECULES_PER_PART = 4_000
"""Number of molecules of a part; the last one of a file has fewer."""

ATOMS_PER_PART = 400_000
"""Number of atoms of a part, with which it ends earlier."""

_PROGRESS = 20_000
_FIRST = 100
_MOST_OFFERED = 30
_LONGEST_PATH = 400
_MISSING = frozenset(("", "nan", "none", "null", "na", "n/a"))

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
"""A number as it stands in a file; Python's ``float`` reads more, such as ``1_0``."""


_OTHER_EXPONENT = re.compile(r"([dD]|\*\^)(?=[+-]?\d+$)")


def exponent_hint(text: str) -> str:
    """What to write for a number with the exponent of Fortran or Mathematica; empty for others."""
    plain = _OTHER_EXPONENT.sub("e", text)
    return f"; write {plain}" if plain != text and NUMBER.fullmatch(plain) else ""


@dataclass(frozen=True)
class Wanted:
    """What is read from every molecule beside its atoms.

    Attributes:
        columns: names of the columns of the targets in the file, in the order of the labels.
        identifier: name of the column with the molecule's name; ``None`` reads none.
        group: name of the column with the molecule's group; ``None`` reads none.
        labels: whether the CSV file of the labels is read. Without it, the name that would join a
            molecule to its row is the identifier.
        skip: whether a molecule that cannot be read is kept, without atoms and with what is wrong
            with it. Else it is an error.
    """

    columns: tuple[str, ...]
    identifier: str | None
    group: str | None
    labels: bool = True
    skip: bool = False


class Reached(NamedTuple):
    """How far a file was read; reading can go on from there.

    Attributes:
        molecules: number of molecules before this place.
        at: what comes next: a byte of the unpacked text, or the number of a row or a file.
        lines: number of lines before it; 0 where lines are not counted.
        share: part of the file before it, from 0 to 1.
    """

    molecules: int = 0
    at: int = 0
    lines: int = 0
    share: float = 0.0


START = Reached()
"""The beginning of a file."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some molecules, in the order of the file: n molecules, A atoms, T columns.

    Attributes:
        counts: [n] int64, number of atoms of the molecule; the sum is A.
        numbers: [A] int64, atomic numbers.
        positions: [A, 3] float64, in the file's unit of length, as stored.
        labels: [n, T] float64, in the file's units, as stored; NaN where a molecule has no value.
        identifiers: [n] names of the molecules; ``None`` if none are wanted.
        groups: [n] groups of the molecules; ``None`` if none are wanted.
        places: [n] where the molecules are, for errors: ``line 14``, counted from 1, or
            ``molecule 4`` and ``row 17``, counted from 0.
        reached: the place behind the last molecule.
        problems: what is wrong with the molecules that cannot be read, by their place among the n.
            Such a molecule has no atoms and no labels.
    """

    counts: NDArray[np.int64]
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    labels: NDArray[np.float64]
    identifiers: list[str] | None
    groups: list[str] | None
    places: list[str]
    reached: Reached = START
    problems: Mapping[int, str] = field(default_factory=dict)


class Record(NamedTuple):
    """One molecule of N atoms, as a reader finds it.

    Attributes:
        place: where it is.
        numbers: [N] atomic numbers.
        positions: [3 N] in the file's unit.
        values: everything that the file says about the molecule, by name.
        label_place: where its values are.
        names: further names of the molecule, which are never labels, such as a file's name.
        reached: the place behind it.
        error: why it cannot be read. The reader knows where the next molecule begins.
    """

    place: str
    numbers: Sequence[int]
    positions: Sequence[float]
    values: Mapping[str, object]
    label_place: str
    names: Mapping[str, str] = MappingProxyType({})
    reached: Reached = START
    error: InputError | None = None


class NotScalar:
    """A value that is no label, and how an error describes it."""

    def __init__(self, description: str) -> None:
        self.description = description


def shown_path(path: Path) -> str:
    """``path`` in quotes, in one line."""
    return f"'{one_line(str(path), _LONGEST_PATH)}'"


def wrong(path: Path, place: str, text: str) -> InputError:
    """The error that names the file and the place in it; ``text`` says what must hold."""
    return InputError(f"{shown_path(path)}, {place}: {text}")


def unreadable(place: str, error: InputError) -> Record:
    """The record of a molecule that cannot be read, between others that can."""
    return Record(place, (), (), {}, place, error=error)


def readable(records: Iterable[Record], *, skip: bool) -> Iterator[Record]:
    """The records; the first one that cannot be read is an error, unless ``skip`` keeps it.

    Raises:
        InputError: why the record cannot be read.
    """
    for record in records:
        if record.error is not None and not skip:
            raise record.error
        yield record


def problem(path: Path, place: str, error: InputError) -> str:
    """What is wrong with a molecule, in one line without the path of the file ``path``.

    If ``path`` is a folder, ``place`` is the name of a file in it.
    """
    text = str(error).replace(shown_path(path / place), one_line(place))
    return text.removeprefix(shown_path(path)).lstrip(",: ")


def is_number(value: object) -> bool:
    """Whether ``value`` can be a label: one number, or text of one."""
    try:
        return not math.isnan(scalar(value))
    except ValueError:
        return False


def scalar(value: object) -> float:
    """``value`` as a number; NaN if it is missing.

    Raises:
        ValueError: it is no single finite number; the text describes it.
    """
    if isinstance(value, str):
        return _number_in(value)
    if value is None:
        return math.nan
    if isinstance(value, NotScalar):
        raise ValueError(value.description)
    if isinstance(value, (bool, np.bool_)):
        raise ValueError(f"the truth value {value}")
    if isinstance(value, (list, tuple, np.ndarray)):
        try:
            given = np.asarray(value)
        except ValueError:
            raise ValueError("a ragged list") from None
        if given.size != 1 or given.dtype.kind not in "iuf":
            raise ValueError(f"an array of shape {given.shape} of {given.dtype}")
        value = given.reshape(-1)[0]
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise ValueError(f"a value of type {type(value).__name__}")
    return _finite(float(value))


def _number_in(text: str) -> float:
    stripped = text.strip()
    if NUMBER.fullmatch(stripped):
        return _finite(float(stripped))
    if stripped.casefold() in _MISSING:
        return math.nan
    fields = stripped.strip("[](){}").replace(",", " ").split()
    if len(fields) > 1 and all(map(NUMBER.fullmatch, fields)):
        raise ValueError(f"an array of {len(fields)} numbers")
    raise ValueError(f"the text '{one_line(stripped)}'{exponent_hint(stripped)}")


def _finite(number: float) -> float:
    if math.isinf(number):
        raise ValueError("an infinite number")
    return number


def text_of(value: object) -> str | None:
    """The name or group in ``value``; ``None`` if it is missing.

    Raises:
        ValueError: it is neither text nor a whole number; the text describes it.
    """
    if isinstance(value, (np.ndarray, list, tuple)) and np.size(value) == 1:
        value = np.asarray(value).reshape(-1)[0]
    if isinstance(value, str):
        return value.strip() or None
    if value is None:
        return None
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return None
        if not float(value).is_integer():
            raise ValueError(f"the number {value}")
        return str(int(value))
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, NotScalar):
        raise ValueError(value.description)
    raise ValueError(f"a value of type {type(value).__name__}")


def scalar_names(values: Mapping[str, object]) -> list[str]:
    """The names in ``values`` whose value can be a label."""
    return [name for name, value in values.items() if is_number(value)]


def names_in(records: Iterable[Record]) -> list[str]:
    """The names that can be labels in the first of ``records``."""
    names: dict[str, None] = {}
    for record in islice(records, _FIRST):
        names.update(dict.fromkeys(scalar_names(record.values)))
    return list(names)


def absent(path: Path, column: str, offered: Iterable[str]) -> InputError:
    """The error for a column that no molecule has; ``offered`` are the columns that it has."""
    names = sorted(offered)
    shown = [one_line(name) for name in names[:_MOST_OFFERED]]
    if not names:
        is_xyz = path.is_dir() or any("xyz" in ending for ending in path.suffixes)
        hint = f"; write it in the comment line as {one_line(column)}=-1.5" if is_xyz else ""
        return InputError(
            f"{shown_path(path)} must have values of {one_line(column)}, got none, and no other "
            f"number of a molecule{hint}"
        )
    hint = nearest(column, names) if len(names) <= _MOST_OFFERED else "name another column"
    if not hint.startswith("did you"):
        hint = "name the target's column with column:"
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return InputError(
        f"{shown_path(path)} must have values of {one_line(column)}, got none; the file has: "
        f"{', '.join(shown)}{more}; {one_line(hint)}"
    )


def parts_of(
    records: Iterator[Record], path: Path, wanted: Wanted, say: Say, start: Reached = START
) -> Iterator[Part]:
    """Parts of the molecules in ``records``, which begin at ``start``, checked.

    Raises:
        InputError: a molecule is not as :class:`Part` says, a label is no number, or a column has
            no value in any molecule.
    """
    gathered = _Gathered(path, wanted)
    found = np.zeros(len(wanted.columns), dtype=bool)
    offered: set[str] = set()
    total = start.molecules
    for record in records:
        if total < _FIRST:
            offered.update(scalar_names(record.values))
        gathered.add(record)
        total += 1
        if total % _PROGRESS == 0:
            say(f"read {total:,} molecules from {path.name}")
        if gathered.is_full():
            part = gathered.take()
            found |= ~np.isnan(part.labels).all(axis=0)
            yield part
    if total == 0:
        raise no_molecules(path)
    if gathered.places:
        part = gathered.take()
        found |= ~np.isnan(part.labels).all(axis=0)
        yield part
    check_found(path, wanted, found, offered)


def no_molecules(path: Path) -> InputError:
    """The error for a file without molecules."""
    return InputError(f"{shown_path(path)} must hold at least one molecule, got none")


def check_found(
    path: Path, wanted: Wanted, found: NDArray[np.bool_], offered: Iterable[str]
) -> None:
    """Refuse a column without any value; ``found`` [T] says which ones have one."""
    for column, has_value in zip(wanted.columns, found, strict=True):
        if not has_value:
            raise absent(path, column, set(offered) - {column})


class _Gathered:
    """The molecules of the next part."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self._path = path
        self._wanted = wanted
        self._clear()

    def _clear(self) -> None:
        self.places: list[str] = []
        self._counts = array("q")
        self._numbers = array("q")
        self._positions = array("d")
        self._labels = array("d")
        self._identifiers: list[str] = []
        self._groups: list[str] = []
        self._reached = START
        self._problems: dict[int, str] = {}

    def add(self, record: Record) -> None:
        wanted = self._wanted
        self._reached = record.reached
        if record.error is not None:
            text = problem(self._path, record.place, record.error)
            self._problems[len(self.places)] = text
            # Its own name cannot be read.
            record = record._replace(
                names={
                    name: record.names.get(name, record.place)
                    for name in (wanted.identifier, wanted.group)
                    if name
                }
            )
        self.places.append(record.place)
        self._counts.append(len(record.numbers))
        self._numbers.extend(record.numbers)
        self._positions.extend(record.positions)
        for column in wanted.columns:
            self._labels.append(self._label(record, column))
        if wanted.identifier is not None:
            self._identifiers.append(self._text(record, "identifier", wanted.identifier))
        if wanted.group is not None:
            self._groups.append(self._text(record, "group", wanted.group))

    def _label(self, record: Record, column: str) -> float:
        try:
            return scalar(record.values.get(column))
        except ValueError as error:
            raise wrong(self._path, record.label_place, not_a_label(column, str(error))) from None

    def _text(self, record: Record, role: str, column: str) -> str:
        try:
            text = text_of(record.values.get(column, record.names.get(column)))
        except ValueError as error:
            raise wrong(
                self._path,
                record.label_place,
                f"the {role} {one_line(column)} must be text or a whole number, got {error}",
            ) from None
        if text is None:
            raise wrong(self._path, record.label_place, no_text(role, column, _names(record)))
        return text

    def is_full(self) -> bool:
        return len(self.places) >= MOLECULES_PER_PART or len(self._numbers) >= ATOMS_PER_PART

    def take(self) -> Part:
        wanted = self._wanted
        part = Part(
            counts=np.array(self._counts, dtype=np.int64),
            numbers=np.array(self._numbers, dtype=np.int64),
            positions=np.array(self._positions, dtype=np.float64).reshape(-1, 3),
            labels=np.array(self._labels, dtype=np.float64).reshape(
                len(self.places), len(wanted.columns)
            ),
            identifiers=self._identifiers if wanted.identifier is not None else None,
            groups=self._groups if wanted.group is not None else None,
            places=self.places,
            reached=self._reached,
            problems=self._problems,
        )
        self._clear()
        return part


def _names(record: Record) -> list[str]:
    """The names that can be an identifier or a group."""
    values = [name for name, value in record.values.items() if not isinstance(value, NotScalar)]
    return [*values, *record.names]


def not_a_label(column: str, got: str) -> str:
    """What an error says about a value that is no label; ``got`` describes it."""
    return (
        f"{one_line(column)} must be one finite number of the molecule, got {got}; "
        "leave it out, or name another column"
    )


def no_text(role: str, column: str, names: Iterable[str]) -> str:
    """What an error says about a molecule without its identifier or group."""
    others = [name for name in names if name != column]
    hint = nearest(column, others[:_MOST_OFFERED]) if others else f"delete {role}:"
    return f"the {role} {one_line(column)} must be given, got none; {one_line(hint, 300)}"


def periodic(path: Path, place: str) -> InputError:
    """The error for a molecule in a periodic cell."""
    return wrong(
        path, place, "periodic cells are not offered, got one; set pbc to False for molecules"
    )


def check_count(path: Path, place: str, count: int) -> None:
    """Refuse a molecule without atoms or with too many."""
    if not 1 <= count <= MOST_ATOMS:
        raise _count_error(path, place, count)


def _count_error(path: Path, place: str, count: int) -> InputError:
    return wrong(
        path, place, f"a molecule must have 1 to {MOST_ATOMS} atoms, got {count}; remove it"
    )


def check_atoms(path: Path, part: Part, *, skip: bool = False) -> Part:
    """Refuse numbers of atoms, atomic numbers and positions that no molecule has.

    Args:
        path: the file.
        part: some of its molecules.
        skip: whether such a molecule is kept without its atoms, with what is wrong with it.

    Raises:
        InputError: a molecule is refused.
    """
    problems = dict(part.problems)
    for molecule, error in _refused(path, part):
        if not skip:
            raise error
        problems.setdefault(molecule, problem(path, part.places[molecule], error))
    if len(problems) == len(part.problems):
        return part
    is_kept = np.ones(len(part.counts), dtype=bool)
    is_kept[list(problems)] = False
    atoms = np.repeat(is_kept, part.counts)
    return replace(
        part,
        counts=np.where(is_kept, part.counts, 0),
        numbers=part.numbers[atoms],
        positions=part.positions[atoms],
        problems=problems,
    )


def _refused(path: Path, part: Part) -> Iterator[tuple[int, InputError]]:
    """The molecules that are no molecules, and why."""
    bad: NDArray[np.bool_] = (part.counts < 1) | (part.counts > MOST_ATOMS)
    for row in np.flatnonzero(bad).tolist():
        if row not in part.problems:
            yield row, _count_error(path, part.places[row], int(part.counts[row]))
    unknown: NDArray[np.bool_] = (part.numbers < 1) | (part.numbers >= len(SYMBOLS))
    for row, atom, index in _atoms(part, unknown):
        text = (
            f"an atomic number must be between 1 and {len(SYMBOLS) - 1}, "
            f"got {part.numbers[index]} for atom {atom}"
        )
        yield row, wrong(path, part.places[row], text)
    infinite = np.asarray(~np.isfinite(part.positions).all(axis=1))
    for row, atom, index in _atoms(part, infinite):
        got = " ".join(str(float(x)) for x in part.positions[index])
        text = f"positions must be finite, got {got} for atom {atom}; remove the molecule"
        yield row, wrong(path, part.places[row], text)


def _atoms(part: Part, bad: NDArray[Any]) -> Iterator[tuple[int, int, int]]:
    """The first bad atom of each molecule: the molecule, the atom in it, and in the part."""
    found = np.flatnonzero(bad)
    ends = np.cumsum(part.counts)
    rows, first = np.unique(np.searchsorted(ends, found, side="right"), return_index=True)
    for row, index in zip(rows.tolist(), found[first].tolist(), strict=True):
        yield row, index - int(ends[row] - part.counts[row]), index

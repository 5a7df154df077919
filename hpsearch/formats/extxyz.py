"""Reads extended and plain XYZ, one molecule after another, with the line of every mistake.

The comment line holds ``key=value`` pairs, or free text. Values are taken as they are written:
no label is moved into a calculator or scaled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hpsearch.config.declaration import MOST_ATOMS
from hpsearch.config.targets import SYMBOLS, atomic_number
from hpsearch.formats.files import decoded, opened, reading, share_read
from hpsearch.formats.part import (
    NUMBER,
    START,
    NotScalar,
    Reached,
    Record,
    check_count,
    exponent_hint,
    no_molecules,
    unreadable,
    wrong,
)
from hpsearch.system.errors import InputError, one_line

_LONGEST_COUNT = 1_000
_LONGEST_COMMENT = 10_000_000
_COUNT = re.compile(rb"\s*(\d{1,9})\s*")
_NUMBERS = {
    **{symbol: number for number, symbol in enumerate(SYMBOLS) if number},
    **{str(number): number for number in range(1, len(SYMBOLS))},
}

_KEY = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^\s="]+))')
_EQUALS = re.compile(r"\s*=(\s*)")
_VALUE = re.compile(
    r"""(?: "((?:[^"\\]|\\.)*)" | '([^']*)' | (\{[^{}]*\}|\[(?:[^\[\]]|\[[^\[\]]*\])*\]) )
        (?=\s|$) | ([^\s"]\S*)""",
    re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(.)")
_TRUE = frozenset(("t", "true", "1"))

_SPECIES = {"species": "S", "symbols": "S", "element": "S", "elements": "S"}
_ATOMIC_NUMBERS = {"z": "I", "numbers": "I", "atomic_numbers": "I"}
_POSITIONS = ("pos", "positions")


class _Layout(NamedTuple):
    """The columns of the lines of atoms.

    ``width`` is the number of columns; 0 takes any from 4.
    """

    width: int
    element: int
    position: int
    others: tuple[str, ...]


_PLAIN = _Layout(0, 0, 1, ())


class _Frame(NamedTuple):
    """The lines of a molecule after its number of atoms.

    Attributes:
        comment: its comment.
        lines: the lines of its atoms; of too many atoms only the first ones.
        rest: number of the lines of its other atoms.
        strange: whether one of these lines is a number of atoms.
    """

    comment: bytes
    lines: list[bytes]
    rest: int
    strange: bool

    def is_separate(self, count: int) -> bool:
        """Whether the next molecule begins behind the frame of ``count`` atoms.

        A wrong number of atoms takes the next molecule's number for an atom, or it ends too early.
        The reader sees that at the next line.
        """
        is_whole = bool(self.comment) and len(self.lines) + self.rest == count
        return is_whole and not self.strange and not any(map(_COUNT.fullmatch, self.lines))


def records(path: Path, wanted: Collection[str] = (), start: Reached = START) -> Iterator[Record]:
    """The molecules of the file; one that cannot be read has an error.

    Args:
        path: the file, of text or of text compressed with gzip.
        wanted: names of values that a comment must not hide behind an unclosed quote.
        start: the place from which it is read.

    Raises:
        InputError: a line is not what it must be, and the next molecule cannot be found.
    """
    with reading(path), opened(path) as file:
        size = path.stat().st_size
        file.seek(start.at)
        number, total = start.lines, start.molecules
        while line := file.readline(_LONGEST_COUNT):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            count = _count(path, number, line)
            frame = _frame(file, count)
            try:
                check_count(path, f"line {number}", count)
                record = _molecule(path, frame, number, count, wanted)
            except InputError as error:
                if not frame.is_separate(count):
                    raise
                record = unreadable(f"line {number}", error)
            number += 1 + count
            total += 1
            reached = Reached(total, file.tell(), number, share_read(file, size))
            yield record._replace(reached=reached)
        if total == 0:
            raise no_molecules(path)


def _count(path: Path, number: int, line: bytes) -> int:
    match = _COUNT.fullmatch(line)
    if match is None:
        raise wrong(
            path,
            f"line {number}",
            "a molecule must begin with its number of atoms, got "
            f"'{one_line(line.decode(errors='replace').strip())}'; check the number of atoms of "
            "the molecule before it",
        )
    return int(match[1])


def _frame(file: BinaryIO, count: int) -> _Frame:
    """The lines of the next molecule, of ``count`` atoms."""
    comment = file.readline(_LONGEST_COMMENT)
    lines = list(islice(file, min(count, MOST_ATOMS)))
    rest, strange = 0, False
    for line in islice(file, count - len(lines)):
        rest += 1
        strange |= _COUNT.fullmatch(line) is not None
    return _Frame(comment, lines, rest, strange)


def _molecule(path: Path, frame: _Frame, first: int, count: int, wanted: Collection[str]) -> Record:
    """The molecule whose number of atoms stands in line ``first``."""
    place = f"line {first + 1}"
    comment, lines = frame.comment, frame.lines
    if not comment or len(lines) < count:
        raise wrong(
            path,
            f"line {first}",
            f"a molecule must have as many lines as it has atoms, got {len(lines)} lines for "
            f"{count} atoms before the end of the file; it may be cut off",
        )
    values, layout = _read_comment(path, place, _text(path, [comment], first + 1), wanted)
    if not layout.width or layout.others:
        values = {**dict.fromkeys(layout.others, NotScalar("one value per atom")), **values}
    text = _text(path, lines, first + 2)
    rows = [line.split() for line in text.split("\n")[:count]]
    _check_widths(path, first + 2, rows, layout)
    numbers = _elements(path, first + 2, rows, layout.element)
    start = layout.position
    try:
        positions = [float(field) for row in rows for field in row[start : start + 3]]
        is_clean = "_" not in text and text.isascii() and math.isfinite(sum(positions))
    except ValueError:
        positions, is_clean = [], False
    if not is_clean:
        # A plain number never fails here; underscores may stand in other columns.
        _check_positions(path, first + 2, rows, start)
    return Record(f"line {first}", numbers, positions, values, place)


def _text(path: Path, lines: list[bytes], first: int) -> str:
    whole = b"".join(lines)
    try:
        text = whole.decode()
    except UnicodeDecodeError:
        for number, line in enumerate(lines, first):
            decoded(path, number, line)
        raise
    if "\0" in text:
        for number, line in enumerate(lines, first):
            decoded(path, number, line)
    return text


def _read_comment(
    path: Path, place: str, text: str, wanted: Collection[str]
) -> tuple[dict[str, object], _Layout]:
    text = text.strip()
    has_layout = "Properties=" in text
    try:
        values = pairs(text)
    except ValueError as error:
        if has_layout or any(name in text for name in wanted):
            raise wrong(
                path,
                place,
                f"the comment must be pairs key=value with closed quotes, got "
                f"'{one_line(str(error))}'",
            ) from None
        values = {}
    lattice, periodic = values.pop("Lattice", None), values.pop("pbc", None)
    if _is_periodic(lattice, periodic):
        raise wrong(
            path,
            place,
            "periodic cells are not offered, got one; for molecules without a cell write "
            'pbc="F F F" or leave Lattice out',
        )
    properties = values.pop("Properties", None)
    if properties is None:
        return values, _PLAIN
    try:
        return values, _layout(str(properties))
    except ValueError as error:
        raise wrong(path, place, str(error)) from None


def pairs(text: str) -> dict[str, object]:
    """The pairs ``key=value`` in a comment; words without a value are left out.

    A key with several different values has a :class:`NotScalar`.

    Raises:
        ValueError: a quote is not closed, or an ``=`` has no key; the text begins there.
    """
    found: dict[str, object] = {}
    position, end = 0, len(text)
    while position < end:
        key = _KEY.match(text, position)
        if key is None:
            if not text[position:].strip():
                break
            raise ValueError(text[position:].strip())
        name = key[2] if key[1] is None else _ESCAPED.sub(r"\1", key[1])
        equals = _EQUALS.match(text, key.end())
        if equals is None:
            position = key.end()
            continue
        value, position = _value(text, equals)
        if found.setdefault(name, value) != value:
            found[name] = NotScalar(
                f"two values, '{one_line(str(found[name]))}' and '{one_line(value)}'"
            )
    return found


def _value(text: str, equals: re.Match[str]) -> tuple[str, int]:
    """The value after an ``=``, and the position behind it."""
    match = _VALUE.match(text, equals.end())
    if match is None:
        if text[equals.end() :].strip():
            raise ValueError(text[equals.end() :])
        return "", len(text)
    quoted, single, bracket, bare = match.groups()
    if bare is None:
        return (
            _ESCAPED.sub(r"\1", quoted) if quoted is not None else (single or bracket or ""),
            match.end(),
        )
    if equals[1] and "=" in bare:
        # A key without value before a space: the word behind it is the next pair.
        return "", equals.end()
    return bare, match.end()


def _is_periodic(lattice: object, periodic: object) -> bool:
    if periodic is not None:
        fields = re.split(r"[\s,\[\]{}\"']+", str(periodic).casefold())
        return any(field in _TRUE for field in fields)
    if lattice is None:
        return False
    try:
        return any(float(field) != 0 for field in str(lattice).replace(",", " ").split())
    except ValueError:
        return True


@lru_cache(maxsize=64)
def _layout(properties: str) -> _Layout:
    """The layout in ``species:S:1:pos:R:3``.

    Raises:
        ValueError: it is malformed, or has no elements or positions.
    """
    fields = properties.split(":")
    shown = one_line(properties)
    if len(fields) % 3 or not all(re.fullmatch(r"[1-9]\d{0,3}", width) for width in fields[2::3]):
        raise ValueError(
            f"Properties must be triples name:type:columns such as species:S:1:pos:R:3, got {shown}"
        )
    column = 0
    found: dict[str, int] = {}
    others = []
    for name, kind, width in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        folded, size = name.casefold(), int(width)
        if (_SPECIES.get(folded), size) == (kind, 1):
            found["species"] = column
        elif (_ATOMIC_NUMBERS.get(folded), size) == (kind, 1):
            found["numbers"] = column
        elif folded in _POSITIONS and kind == "R" and size == 3:
            found["positions"] = column
        else:
            others.append(name)
        column += size
    element = found.get("species", found.get("numbers"))
    if element is None or "positions" not in found:
        raise ValueError(f"Properties must have species:S:1 (or Z:I:1) and pos:R:3, got {shown}")
    return _Layout(column, element, found["positions"], tuple(others))


def _check_widths(path: Path, first: int, rows: list[list[str]], layout: _Layout) -> None:
    width = layout.width or max(4, len(rows[0]))
    for number, row in enumerate(rows, first):
        if len(row) != width:
            need = f"{width} columns" if layout.width else "an element and three positions"
            if not layout.width and width > 4:
                need = f"{width} columns like the first atom"
            raise wrong(
                path,
                f"line {number}",
                f"an atom must have {need}, got {len(row)}: '{one_line(' '.join(row))}'; check "
                "the number of atoms and the columns",
            )


def _elements(path: Path, first: int, rows: list[list[str]], column: int) -> list[int]:
    try:
        return [_NUMBERS[row[column]] for row in rows]
    except KeyError:
        pass
    for number, row in enumerate(rows, first):
        if row[column] not in _NUMBERS:
            try:
                atomic_number(row[column])
            except InputError as error:
                raise wrong(path, f"line {number}", one_line(str(error), 200)) from None
    raise AssertionError("a symbol was unknown")


def _check_positions(path: Path, first: int, rows: list[list[str]], start: int) -> None:
    for number, row in enumerate(rows, first):
        for field in row[start : start + 3]:
            if not (NUMBER.fullmatch(field) and math.isfinite(float(field))):
                raise wrong(
                    path,
                    f"line {number}",
                    f"a position must be a finite number, got '{one_line(field)}'"
                    + exponent_hint(field),
                )

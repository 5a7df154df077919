"""Reads SDF with RDKit; the labels are the file's properties, or rows of a CSV file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpsearch.formats.files import decoded, library, missing_library, opened, reading, share_read
from hpsearch.formats.part import (
    NUMBER,
    START,
    Reached,
    Record,
    check_count,
    no_molecules,
    unreadable,
    wrong,
)
from hpsearch.system.errors import InputError, one_line

_HEADER = re.compile(r">.*?<(.+)>")
_END = "$$$$"
_BLOCK_END = "M  END"
_LONGEST_LINE = 1_000_000
_FLAT = (
    "set its positions from a geometry optimisation, for example RDKit's ETKDG and then xtb: a "
    "drawing has no geometry"
)
_TETRAHEDRAL = (6, 7, 14, 15)
TITLE_NAMES = ("title", "name", "_Name")
"""Names by which the first line of a record can be chosen as identifier or group."""


class _Piece(NamedTuple):
    """The text of a record.

    Attributes:
        first: number of its first line.
        raw: its lines without the line ``$$$$``.
        at: the byte behind it.
        share: part of the file up to there.
    """

    first: int
    raw: list[bytes]
    at: int
    share: float

    def lines(self, path: Path) -> list[str]:
        """Its lines as text.

        Raises:
            InputError: one is no text.
        """
        text = [decoded(path, number, raw) for number, raw in enumerate(self.raw, self.first)]
        if self.first == 1 and text:
            text[0] = text[0].removeprefix("\ufeff")
        return [line.rstrip("\r\n") for line in text]

    @property
    def is_separate(self) -> bool:
        """Whether it surely is one molecule: without its ``$$$$`` it would be two."""
        return sum(raw.startswith(_BLOCK_END.encode()) for raw in self.raw) < 2


def records(path: Path, start: Reached = START) -> Iterator[Record]:
    """The molecules of the file, counted from 0, as ``molecule 4``.

    The values are the properties; the first line is the name ``title``, ``name`` or ``_Name``. A
    molecule that is malformed, has no hydrogens or no geometry has an error.

    Raises:
        InputError: RDKit is missing, or the end of a molecule is.
    """
    try:
        import rdkit  # noqa: F401
    except ImportError:
        raise missing_library("SDF", "RDKit", "rdkit") from None
    total = start.molecules
    for piece in _split(path, start):
        place = f"molecule {total}"
        try:
            record = _read(path, place, piece)
        except InputError as error:
            if not piece.is_separate:
                raise
            record = unreadable(place, error)
        total += 1
        # The line $$$$ follows the lines of the record.
        lines = piece.first + len(piece.raw)
        yield record._replace(reached=Reached(total, piece.at, lines, piece.share))
    if total == 0:
        raise no_molecules(path)


def _read(path: Path, place: str, piece: _Piece) -> Record:
    from rdkit import Chem, rdBase

    first, lines = piece.first, piece.lines(path)
    block, values = _parts(path, place, first, lines)
    # Held only while RDKit works: it blocks the log lines of the whole process.
    with library(path, f"an SDF whose {place} can be read"), rdBase.BlockLogs():
        molecule = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False, strictParsing=True)
        if molecule is None:
            raise wrong(
                path,
                f"{place} (line {first})",
                "the molecule must be a mol block that RDKit reads, got one with wrong counts "
                "or fields; write it again",
            )
        _check_columns(path, first, lines, molecule.GetNumAtoms())
        return _record(path, place, molecule, lines, values)


def _split(path: Path, start: Reached) -> Iterator[_Piece]:
    """The records from the place ``start`` on."""
    with reading(path), opened(path) as file:
        size = path.stat().st_size
        file.seek(start.at)
        first = start.lines + 1
        raw: list[bytes] = []
        for line in file:
            if line.startswith(_END.encode()):
                yield _Piece(first, raw, file.tell(), share_read(file, size))
                first, raw = first + len(raw) + 1, []
            else:
                raw.append(line)
        last = _Piece(first, raw, file.tell(), 1.0)
        lines = last.lines(path)
        if any(map(str.strip, lines)):
            # A single mol block is a whole file too.
            if not _block_end(lines) or any(map(str.strip, lines[_block_end(lines) :])):
                raise wrong(
                    path,
                    f"line {first}",
                    f"a molecule must end with {_END}, got the end of the file; it may be cut off",
                )
            yield last


def _block_end(lines: list[str]) -> int:
    """Number of lines of the mol block; 0 if its end is missing."""
    for number, line in enumerate(lines, 1):
        if line.startswith(_BLOCK_END):
            return number
    return 0


def _parts(path: Path, place: str, first: int, lines: list[str]) -> tuple[str, dict[str, object]]:
    """The mol block and the properties of a record."""
    end = _block_end(lines)
    if not end:
        raise wrong(
            path,
            f"{place} (line {first})",
            "a molecule must have a line 'M  END', got none; it may be cut off",
        )
    values: dict[str, object] = {}
    name: str | None = None
    content: list[str] = []
    for number, line in enumerate([*lines[end:], ""], first + end):
        if name is not None and line.strip():
            content.append(line)
        elif name is not None:
            if name in values:
                raise wrong(
                    path, f"line {number}", f"a property must stand once, got {one_line(name)}"
                )
            values[name] = "\n".join(content)
            name, content = None, []
        elif line.startswith(">"):
            match = _HEADER.match(line)
            if match is None:
                raise wrong(
                    path,
                    f"line {number}",
                    f"a property must begin with > <name>, got '{one_line(line)}'",
                )
            name = match[1].strip()
        elif line.strip():
            raise wrong(
                path,
                f"line {number}",
                f"a property must begin with > <name>, got '{one_line(line)}'; check that every "
                f"molecule ends with {_END}",
            )
    return "\n".join(lines[:end]) + "\n", values


def _check_columns(path: Path, first: int, lines: list[str], atoms: int) -> None:
    """Refuse positions beside their columns of ten characters, of which RDKit reads a part."""
    if "V2000" not in lines[3]:
        return
    for number, line in enumerate(lines[4 : 4 + atoms], first + 4):
        fields = [line[start : start + 10].strip() for start in (0, 10, 20)]
        if not all(map(NUMBER.fullmatch, fields)):
            raise wrong(
                path,
                f"line {number}",
                "an atom must begin with three numbers of ten characters each, got "
                f"'{one_line(line[:30])}'",
            )


def _record(
    path: Path, place: str, molecule: Any, lines: list[str], values: dict[str, object]
) -> Record:
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    check_count(path, place, len(numbers))
    if 0 in numbers:
        symbol = molecule.GetAtomWithIdx(numbers.index(0)).GetSymbol()
        raise wrong(
            path,
            place,
            f"an element must be a symbol such as H or Cl, got '{one_line(symbol)}' for atom "
            f"{numbers.index(0)}",
        )
    if molecule.GetNumConformers() != 1:
        raise wrong(path, place, f"the molecule must have positions, got none; {_FLAT}")
    positions = molecule.GetConformer().GetPositions()
    _check_hydrogens(path, place, molecule, numbers)
    _check_geometry(path, place, molecule, lines, positions)
    names = dict.fromkeys(TITLE_NAMES, lines[0].strip())
    return Record(place, numbers, positions.reshape(-1).tolist(), values, place, names)


def _check_hydrogens(path: Path, place: str, molecule: Any, numbers: list[int]) -> None:
    """Refuse a molecule whose bonds ask for more hydrogens than it has.

    Many writers leave charges out: the oxygen of a carboxylate then lacks a hydrogen, and the
    nitrogen of an ammonium has a bond too many. Such an atom makes up for the other. A file without
    bonds says nothing about hydrogens if it has some.
    """
    found = numbers.count(1)
    if found and not molecule.GetNumBonds():
        return
    molecule.UpdatePropertyCache(strict=False)
    missing = sum(atom.GetTotalNumHs() for atom in molecule.GetAtoms())
    if missing:
        missing -= _bonds_too_many(molecule)
    if missing > 0:
        raise wrong(
            path,
            place,
            f"the molecule must have its hydrogens, got {found or 'none'} of {found + missing}; "
            "write the file with all hydrogens and their positions, or mend the orders and "
            "charges of its bonds",
        )


def _bonds_too_many(molecule: Any) -> int:
    """Number of bonds beyond the valences that the atoms may have."""
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    excess = 0
    for atom in molecule.GetAtoms():
        most = max(table.GetValenceList(atom.GetAtomicNum()))
        if most >= 0:
            most += atom.GetFormalCharge()
            excess += max(0, atom.GetValence(Chem.ValenceType.EXPLICIT) - most)
    return excess


def _check_geometry(
    path: Path, place: str, molecule: Any, lines: list[str], positions: Any
) -> None:
    """Refuse a drawing: its header says 2D, or it is flat where no molecule is.

    The header of a planar molecule says 3D.
    """
    header = lines[1][20:22].upper() if len(lines) > 1 else ""
    is_flat = len(positions) > 1 and not np.any(positions[:, 2])
    if header == "2D" or (is_flat and header != "3D"):
        got = "2D in its header" if header == "2D" else "z = 0 for all atoms"
        raise wrong(path, place, f"the molecule must have a geometry, got {got}; {_FLAT}")
    crowded = any(
        atom.GetDegree() >= 4 and atom.GetAtomicNum() in _TETRAHEDRAL
        for atom in molecule.GetAtoms()
    )
    if is_flat and crowded:
        raise wrong(
            path,
            place,
            f"the molecule must have a geometry, got z = 0 for all atoms around one with four "
            f"neighbours; {_FLAT}",
        )


def name_of(record: Record, identifier: str) -> str:
    """The property ``identifier`` of a record, or its first line."""
    value = record.values.get(identifier, record.names["title"])
    return str(value)

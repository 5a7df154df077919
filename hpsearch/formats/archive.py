"""Reads QM9 as published by its authors: an ``.xyz`` file per molecule, often in a ``.tar.bz2``."""

from __future__ import annotations

import re
import tarfile
from array import array
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.targets import TARGETS
from hpsearch.system.errors import InputError
from hpsearch.system.files import Say, silent

LARGEST_INDEX = 133_885

_NUMBER_OF_SYMBOL = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
# The fields are 'gdb', the index, three rotational constants, and the targets in our order.
_FIRST_TARGET = 5
# A row of the list starts with an index; the line with the total ("3054 compounds") is no row.
_LISTED = re.compile(r"\s*(\d+)(?:\s*$|\s+(?!compound|molecule))", re.IGNORECASE)
_PROGRESS = 20_000


class Columns(NamedTuple):
    """Molecules in columns: identifiers [n], atom counts [n], atomic numbers [atoms], positions.

    The positions [atoms, 3] are in Å, the twelve targets [n, 12] in native units.
    """

    identifiers: NDArray[np.int64]
    counts: NDArray[np.int64]
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    targets: NDArray[np.float64]


def read_columns(
    archive: Path,
    uncharacterized: Path | None = None,
    say: Say = silent,
    refused: dict[str, InputError] | None = None,
) -> Columns:
    """The molecules of the original files, in the order of the files.

    Args:
        archive: ``dsgdb9nsd.xyz.tar.bz2``, or a folder with its ``.xyz`` files.
        uncharacterized: ``uncharacterized.txt``, whose molecules are left out; ``None`` for all.
        say: function for lines about the progress.
        refused: is given the name of each file that cannot be read, and why. Without it such a
            file is an error.

    Raises:
        InputError: a file is missing or differs from the published form.
    """
    left_out = _read_uncharacterized(uncharacterized) if uncharacterized else set()
    identifiers, atom_counts = array("q"), array("q")
    numbers, positions, targets = array("B"), array("d"), array("d")
    for name, text in _texts(archive):
        try:
            molecule = _parse(text)
        except (ValueError, IndexError) as error:
            text = f"{archive}: {name} must be a molecule as QM9 publishes it: {error}"
            if refused is None:
                raise InputError(text) from error
            refused[name] = InputError(text)
            continue
        if molecule.identifier in left_out:
            continue
        identifiers.append(molecule.identifier)
        atom_counts.append(len(molecule.numbers))
        numbers.extend(molecule.numbers)
        positions.extend(molecule.positions)
        targets.extend(molecule.targets)
        if len(identifiers) % _PROGRESS == 0:
            say(f"read {len(identifiers):,} molecules from {archive.name}")
    if not identifiers and not refused:
        raise InputError(f"{archive} must contain .xyz files of QM9, got none")
    return Columns(
        np.asarray(identifiers, dtype=np.int64),
        np.asarray(atom_counts, dtype=np.int64),
        np.asarray(numbers, dtype=np.int64),
        np.asarray(positions).reshape(-1, 3),
        np.asarray(targets).reshape(-1, len(TARGETS)),
    )


class _Parsed(NamedTuple):
    """The content of a file: index, atomic numbers [N], positions [3 N] in Å, targets [T].

    The targets are in native units.
    """

    identifier: int
    numbers: list[int]
    positions: list[float]
    targets: list[float]


def _parse(text: str) -> _Parsed:
    """The molecule in the text of a file; exponents are written ``1.2*^-6``.

    Raises:
        ValueError: a line lacks numbers.
        IndexError: the file is too short.
    """
    lines = text.replace("*^", "e").splitlines()
    atoms = int(lines[0])
    fields = lines[1].split()
    if len(fields) != _FIRST_TARGET + len(TARGETS) or fields[0] != "gdb":
        raise ValueError(f"line 2 must be 'gdb', the index and 15 numbers; got '{lines[1][:60]}'")
    rows = [line.split() for line in lines[2 : 2 + atoms]]
    if len(rows) != atoms:
        raise ValueError(f"it must have {atoms} atoms, has {len(rows)}")
    positions = [float(value) for row in rows for value in (row[1], row[2], row[3])]
    if not all(map(isfinite, positions)):
        raise ValueError("it must have finite positions")
    return _Parsed(
        int(fields[1]),
        [_number(row[0]) for row in rows],
        positions,
        [float(value) for value in fields[_FIRST_TARGET:]],
    )


def _number(symbol: str) -> int:
    try:
        return _NUMBER_OF_SYMBOL[symbol]
    except KeyError:
        raise ValueError(f"its elements must be H, C, N, O or F; got '{symbol}'") from None


def _texts(archive: Path) -> Iterator[tuple[str, str]]:
    """Name and content of every ``.xyz`` file in a folder or tar file."""
    if archive.is_dir():
        for path in archive.glob("*.xyz"):
            yield path.name, path.read_text(encoding="latin-1")
        return
    try:
        # Read as a stream: going back in a bz2 file would read it again from the start.
        with tarfile.open(archive, mode="r|*") as tar:
            while (member := tar.next()) is not None:
                stream = tar.extractfile(member) if member.name.endswith(".xyz") else None
                if stream is not None:
                    yield Path(member.name).name, stream.read().decode("latin-1")
                # tarfile remembers every member, which takes more memory than QM9 itself.
                del tar.members[:]  # type: ignore[attr-defined]
    except (OSError, EOFError, tarfile.TarError) as error:
        raise InputError(
            f"'{archive}' must be dsgdb9nsd.xyz.tar.bz2 or a folder with its .xyz files: {error}"
        ) from error


def _read_uncharacterized(path: Path) -> set[int]:
    """The indices in ``uncharacterized.txt``, which also has lines of explanation."""
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise InputError(f"'{path}' must be QM9's uncharacterized.txt: {error.strerror}") from error
    indices = {int(match[1]) for line in lines if (match := _LISTED.match(line))}
    if not indices or min(indices) < 1 or max(indices) > LARGEST_INDEX:
        raise InputError(
            f"'{path}' must list indices between 1 and {LARGEST_INDEX}, one at the start of a line"
        )
    return indices

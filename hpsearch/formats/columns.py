"""Finds the columns of positions, elements and counts, and checks whole columns of labels."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.targets import SYMBOLS, atomic_number
from hpsearch.formats.part import (
    NotScalar,
    no_text,
    not_a_label,
    shown_path,
    text_of,
    wrong,
)
from hpsearch.system.errors import InputError, nearest, one_line

POSITIONS = ("positions", "coordinates", "coords", "pos", "xyz", "R")
NUMBERS = (
    *("numbers", "atomic_numbers", "nuclear_charges", "z", "Z", "elements", "symbols", "species"),
)
COUNTS = ("counts", "n_atoms", "natoms", "num_atoms", "N")

OFFSETS = "of offsets make counts with numpy.diff"
"""What to do with an array of offsets where counts are needed."""

_LONGEST_LIST = 20_000
_LONGEST_NAMES = 400
_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}


def choose(
    path: Path, option: str, given: str | None, usual: Sequence[str], names: Sequence[str]
) -> str | None:
    """The column ``given``, or the only one of ``usual`` among ``names``; ``None`` if none is.

    Raises:
        InputError: ``given`` is no column, or several columns could be meant.
    """
    shown = one_line(", ".join(names), _LONGEST_NAMES)
    if given is not None:
        if given not in names:
            raise InputError(
                f"{shown_path(path)} must have the column {one_line(given)} that {option}: names, "
                f"got {shown}; {one_line(nearest(given, names), _LONGEST_NAMES)}"
            )
        return given
    found = [name for name in usual if name in names]
    if len(found) > 1:
        raise InputError(
            f"{shown_path(path)} must have one column for {option}, got {', '.join(found)}; "
            f"choose one with {option}: {found[0]}"
        )
    return found[0] if found else None


def needed(path: Path, option: str, column: str | None, names: Sequence[str]) -> str:
    """``column``, which must not be ``None``."""
    if column is None:
        shown = one_line(", ".join(names), _LONGEST_NAMES) or "no columns"
        hint = f" ({OFFSETS})" if option == "counts" else ""
        raise InputError(
            f"{shown_path(path)} must have a column for {option}, got {shown}; name it with "
            f"{option}:{hint}"
        )
    return column


def number_of(symbol: str) -> int:
    """The atomic number of a symbol; ValueError with the reason if there is none."""
    number = _NUMBERS.get(symbol)
    if number is not None:
        return number
    try:
        return atomic_number(symbol)
    except InputError as error:
        raise ValueError(one_line(str(error), 200)) from None


def elements_in(text: str) -> list[int]:
    """The atomic numbers in the text of a list, such as ``['C', 'H']`` or ``[6, 1]``.

    Raises:
        ValueError: it is no list of symbols or of whole numbers.
    """
    listed: object = None
    if len(text) <= _LONGEST_LIST:
        try:
            listed = json.loads(text)
        except (ValueError, RecursionError):
            try:
                listed = ast.literal_eval(text.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                listed = None
    if not isinstance(listed, (list, tuple)):
        raise ValueError(f"elements must be a list such as ['C', 'H'], got '{one_line(text)}'")
    numbers = []
    for entry in listed:
        if isinstance(entry, str):
            numbers.append(number_of(entry))
        elif isinstance(entry, int) and not isinstance(entry, bool) and 0 < entry < len(SYMBOLS):
            numbers.append(entry)
        else:
            shown = one_line(str(entry))
            raise ValueError(f"an element must be a symbol such as H or Cl, got '{shown}'")
    return numbers


def finite_labels(
    path: Path, column: str, values: NDArray[Any], places: Sequence[str]
) -> NDArray[np.float64]:
    """[n] ``values`` as labels in double precision; NaN stays.

    Raises:
        InputError: a value is infinite.
    """
    labels = np.asarray(values, dtype=np.float64)
    infinite = np.isinf(labels)
    if infinite.any():
        place = places[int(np.argmax(infinite))]
        raise wrong(path, place, not_a_label(column, "an infinite number"))
    return labels


def texts(
    path: Path,
    role: str,
    column: str,
    values: Iterable[object],
    places: Sequence[str],
    names: Sequence[str],
) -> list[str]:
    """[n] identifiers or groups in ``values``.

    Raises:
        InputError: one is missing, or is neither text nor a whole number.
    """
    found = []
    for value, place in zip(values, places, strict=True):
        try:
            text = text_of(value)
        except ValueError as error:
            raise wrong(
                path,
                place,
                f"the {role} {one_line(column)} must be text or a whole number, got {error}",
            ) from None
        if text is None:
            raise wrong(path, place, no_text(role, column, names))
        found.append(text)
    return found


def missing_text(path: Path, role: str, column: str, names: Sequence[str]) -> InputError:
    """The error for a file without the column of identifiers or groups."""
    return InputError(f"{shown_path(path)}: {no_text(role, column, names)}")


def described(array: NDArray[Any]) -> NotScalar:
    """An array that is no column of labels."""
    if array.dtype.kind in "US":
        return NotScalar("text")
    return NotScalar(f"an array of shape {array.shape} of {array.dtype}")

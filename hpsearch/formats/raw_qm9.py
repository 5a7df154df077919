"""Reads QM9's raw archive, or the folder of its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpsearch.config.targets import QM9_TARGETS
from hpsearch.formats.archive import read_columns
from hpsearch.formats.columns import finite_labels
from hpsearch.formats.files import library
from hpsearch.formats.part import (
    MOLECULES_PER_PART,
    START,
    Part,
    Reached,
    Wanted,
    absent,
    shown_path,
)
from hpsearch.system.errors import InputError, one_line
from hpsearch.system.files import Say

IDENTIFIER = "index"
"""Name of QM9's index, the only identifier."""

_LONGEST = 500


def parts(path: Path, wanted: Wanted, say: Say, start: Reached = START) -> Iterator[Part]:
    """The molecules of the archive, sorted by QM9's index; then those that cannot be read.

    Raises:
        InputError: the archive is damaged, a column is none of the twelve targets, or the
            identifier is not ``index``, or a group is wanted.
    """
    names = QM9_TARGETS.names
    for column in wanted.columns:
        if column not in names:
            raise absent(path, column, names)
    if wanted.identifier not in (None, IDENTIFIER):
        raise InputError(
            f"{shown_path(path)} must have the identifier {one_line(wanted.identifier or '')}, "
            f"got QM9, whose identifier is {IDENTIFIER}"
        )
    if wanted.group is not None:
        raise InputError(
            f"{shown_path(path)} must have the group {one_line(wanted.group)}, got QM9, which has "
            "none; delete group:"
        )
    refused: dict[str, InputError] = {}
    try:
        with library(path, "QM9's raw archive or a folder of its .xyz files"):
            table = read_columns(path, say=say, refused=refused if wanted.skip else None)
    except InputError as error:
        text = str(error) if str(path) in str(error) else f"{shown_path(path)}: {error}"
        raise InputError(one_line(text, _LONGEST)) from None
    order = np.argsort(table.identifiers, kind="stable")
    first = np.cumsum(table.counts) - table.counts
    total = len(order) + len(refused)
    for begin in range(start.molecules, len(order), MOLECULES_PER_PART):
        rows = order[begin : begin + MOLECULES_PER_PART]
        done = begin + len(rows)
        counts = table.counts[rows]
        ends = np.cumsum(counts)
        atoms = np.arange(ends[-1]) + np.repeat(first[rows] - ends + counts, counts)
        indices = [str(index) for index in table.identifiers[rows]]
        places = [f"molecule {index}" for index in indices]
        labels = np.empty((len(rows), len(wanted.columns)))
        for place, name in enumerate(wanted.columns):
            values = table.targets[rows, names.index(name)]
            labels[:, place] = finite_labels(path, name, values, places)
        yield Part(
            counts=counts,
            numbers=table.numbers[atoms],
            positions=table.positions[atoms],
            labels=labels,
            identifiers=indices if wanted.identifier is not None else None,
            groups=None,
            places=places,
            reached=Reached(done, done, 0, done / total),
        )
    names_of_files = sorted(refused)
    for begin in range(max(0, start.molecules - len(order)), len(refused), MOLECULES_PER_PART):
        some = names_of_files[begin : begin + MOLECULES_PER_PART]
        done = len(order) + begin + len(some)
        yield Part(
            counts=np.zeros(len(some), dtype=np.int64),
            numbers=np.zeros(0, dtype=np.int64),
            positions=np.zeros((0, 3)),
            labels=np.full((len(some), len(wanted.columns)), np.nan),
            identifiers=some if wanted.identifier is not None else None,
            groups=None,
            places=some,
            reached=Reached(done, done, 0, done / total),
            problems={place: _told(path, refused[name]) for place, name in enumerate(some)},
        )


def _told(path: Path, error: InputError) -> str:
    return one_line(str(error).removeprefix(f"{path}: "), _LONGEST)

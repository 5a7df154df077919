"""Reads a folder of xyz files with one molecule each."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from hpsearch.formats import extxyz
from hpsearch.formats.files import check_file, files_in
from hpsearch.formats.part import START, Reached, Record, shown_path, unreadable
from hpsearch.system.errors import InputError

STEM_NAMES = ("file", "name", "stem")
"""Names by which the name of a file without its ending can be chosen as identifier or group."""

ENDINGS = (".xyz", ".extxyz", ".xyz.gz", ".extxyz.gz")


def files(folder: Path) -> list[Path]:
    """The xyz files of a folder, sorted by name; files whose name begins with a dot are left out.

    Raises:
        InputError: it has none, or cannot be read.
    """
    found = files_in(folder, ENDINGS)
    if not found:
        raise InputError(
            f"{shown_path(folder)} must be a folder with .xyz or .parquet files, got none; name a "
            "file, or the folder of the molecules"
        )
    return found


def stem(path: Path) -> str:
    """The name of the file without its ending."""
    name = path.name
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if name.casefold().endswith(ending):
            return name[: -len(ending)]
    return name


def records(folder: Path, wanted: Collection[str] = (), start: Reached = START) -> Iterator[Record]:
    """The molecule of every file; the place is the name of the file.

    The values are those of the comment; the stem is the name ``file``, ``name`` or ``stem``. A file
    that does not hold exactly one molecule has an error.

    Raises:
        InputError: the folder cannot be read.
    """
    paths = files(folder)
    for index, path in enumerate(paths[start.at :], start.at + 1):
        try:
            record = _only_record(path, wanted)
        except InputError as error:
            record = unreadable(path.name, error)
        yield record._replace(
            place=path.name,
            label_place=path.name,
            names=dict.fromkeys(STEM_NAMES, stem(path)),
            reached=Reached(index, index, 0, index / len(paths)),
        )


def name_of(record: Record) -> str:
    """The name of the file of a record without its ending."""
    return record.names[STEM_NAMES[0]]


def _only_record(path: Path, wanted: Collection[str]) -> Record:
    """The only molecule of a file.

    Raises:
        InputError: it cannot be read, or is not the only one.
    """
    check_file(path, "xyz")
    found = list(_at_most_two(path, wanted))
    if found[0].error is not None:
        raise found[0].error
    if len(found) != 1:
        raise InputError(
            f"{shown_path(path)} must hold one molecule, as every file of a folder must, got "
            "more; name the file itself to read all of its molecules"
        )
    return found[0]


def _at_most_two(path: Path, wanted: Collection[str]) -> Iterator[Record]:
    for number, record in enumerate(extxyz.records(path, wanted)):
        yield record
        if number:
            return

"""Reads a folder of xyz files with one molecule each."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from hpsearch.formats import extxyz
from hpsearch.formats.files import check_file, files_in
from hpsearch.formats.part import Record, shown_path
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


def records(folder: Path, wanted: Collection[str] = ()) -> Iterator[tuple[str, Record]]:
    """The stem of every file and its molecule; the place is the name of the file.

    The values are those of the comment; the stem is the name ``file``, ``name`` or ``stem``.

    Raises:
        InputError: a file does not hold exactly one molecule.
    """
    for path in files(folder):
        check_file(path, "xyz")
        found = list(_at_most_two(path, wanted))
        if len(found) != 1:
            raise InputError(
                f"{shown_path(path)} must hold one molecule, as every file of a folder must, got "
                "more; name the file itself to read all of its molecules"
            )
        name = stem(path)
        yield (
            name,
            found[0]._replace(
                place=path.name,
                label_place=path.name,
                names=dict.fromkeys(STEM_NAMES, name),
            ),
        )


def _at_most_two(path: Path, wanted: Collection[str]) -> Iterator[Record]:
    for number, record in enumerate(extxyz.records(path, wanted)):
        yield record
        if number:
            return

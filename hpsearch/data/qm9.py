"""QM9 from the package ``qm9pack`` or the original archive, with a memory-mapped cache.

Rows are sorted by QM9's index, so both sources give the same table.
"""

from __future__ import annotations

import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.targets import TARGETS
from hpsearch.data import cache as cached
from hpsearch.data.cache import DamagedCacheError
from hpsearch.data.molecule import Floats, Integers, Molecules
from hpsearch.formats.archive import read_columns
from hpsearch.system.errors import HpsearchError, InputError
from hpsearch.system.files import Say, cache_directory, silent

if TYPE_CHECKING:
    import pandas

__all__ = ["cache_directory", "load", "prepare", "read_archive", "read_package"]

PACKAGE = "qm9pack"

_NUMBER_OF_LETTER = np.zeros(256, dtype=np.uint8)
_NUMBER_OF_LETTER[[ord(letter) for letter in "HCNOF"]] = [1, 6, 7, 8, 9]
_LIST_MARKS = np.frombuffer(b"[]', ", dtype=np.uint8)


def load(cache: Path | None = None, say: Say = silent) -> Molecules:
    """All molecules of QM9 from the cache, which the first call creates.

    Every call checks the hash of all numbers in the cache, and repairs damage.

    Args:
        cache: folder of caches; by default :func:`cache_directory`.
        say: function for lines about the progress of long operations.

    Raises:
        InputError: there is no cache, and the package is missing or unreadable.
        HpsearchError: the cache cannot be written, or a cache made from an archive is damaged;
            only :func:`prepare` can make that again.
    """
    folder = _folder(cache)
    try:
        return cached.open_table(folder)
    except FileNotFoundError:
        return _make(folder, say)
    except DamagedCacheError as damage:
        return _repair(folder, damage, say)


def prepare(
    archive: Path,
    uncharacterized: Path | None = None,
    cache: Path | None = None,
    say: Say = silent,
) -> Molecules:
    """Make the cache from the original archive, replacing an older cache.

    Args:
        archive: see :func:`read_archive`.
        uncharacterized: see :func:`read_archive`.
        cache: folder of caches; by default :func:`cache_directory`.
        say: function for lines about the progress.

    Raises:
        InputError: see :func:`read_archive`.
        HpsearchError: the cache cannot be written.
    """
    molecules = read_archive(archive, uncharacterized, say)
    folder = _folder(cache)
    cached.write_table(molecules, folder, str(archive.resolve()))
    return cached.open_table(folder)


def read_archive(
    archive: Path, uncharacterized: Path | None = None, say: Say = silent
) -> Molecules:
    """The molecules of the original files, sorted by QM9's index, in memory.

    Arguments and errors are those of :func:`hpsearch.formats.archive.read_columns`.
    """
    molecules = Molecules.assemble(*read_columns(archive, uncharacterized, say))
    return molecules.select(np.argsort(molecules.identifiers))


def read_package(say: Say = silent) -> Molecules:
    """The molecules of the installed package ``qm9pack``, in memory.

    The package is not imported, because its code needs ``pkg_resources``, which Python no longer
    includes.

    Raises:
        InputError: the package is missing, or one of its files is not as expected.
    """
    try:
        distribution = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise InputError(
            f"the package {PACKAGE} must be installed to read QM9; run "
            f"'pip install {PACKAGE}==1.0.3', or prepare the cache from dsgdb9nsd.xyz.tar.bz2"
        ) from None
    files = [f for f in distribution.files or [] if f.match("qm9_part*.csv")]
    if not files:
        raise InputError(
            f"the package {PACKAGE} must have files qm9_part*.csv; {distribution.version} has none"
        )
    parts = []
    for file in sorted(files):
        parts.append(_read_part(Path(str(file.locate()))))
        say(f"read {len(parts[-1][0]):,} molecules from {file.name}")
    labels, counts, numbers, positions, targets = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    molecules = Molecules.assemble(labels, counts, numbers, positions, targets)
    return molecules.select(np.argsort(molecules.identifiers))


def _folder(cache: Path | None) -> Path:
    return (cache or cache_directory()) / "qm9"


def _make(folder: Path, say: Say) -> Molecules:
    say(f"QM9 is converted once, into '{folder}'")
    molecules = read_package(say)
    cached.write_table(molecules, folder, PACKAGE)
    return cached.open_table(folder)


def _repair(folder: Path, damage: DamagedCacheError, say: Say) -> Molecules:
    if damage.source not in (None, PACKAGE):
        # The molecules of the package may differ from those read from the archive.
        raise HpsearchError(
            f"the cache '{folder}' is damaged ({damage}); prepare it again from '{damage.source}', "
            "or delete it to use the package's molecules"
        )
    say(f"the cache '{folder}' is damaged ({damage})")
    return _make(folder, say)


_Part = tuple[Integers, Integers, NDArray[np.uint8], Floats, Floats]


def _read_part(path: Path) -> _Part:
    """Identifiers, atom counts, atomic numbers, positions [atoms, 3] and targets of one table."""
    # Imported here, because the import takes longer than load() does with a cache.
    import pandas

    wanted = ["Index", "N_atoms", "Elements", "XYZ_Ang", *(target.column for target in TARGETS)]
    try:
        # Numbers are read as text: versions of pandas differ in the last bit of a number.
        table = pandas.read_csv(path, usecols=wanted, dtype=str, keep_default_na=False)
        counts = _numbers(table, "N_atoms").astype(np.int64)
        return (
            _numbers(table, "Index").astype(np.int64),
            counts,
            _read_elements(table["Elements"].tolist(), counts),
            _read_positions(table["XYZ_Ang"].tolist(), counts),
            np.stack([_numbers(table, target.column) for target in TARGETS], axis=1),
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{path}' must be a table of {PACKAGE}: {' '.join(str(error).split())}"
        ) from error


def _numbers(table: pandas.DataFrame, column: str) -> Floats:
    return np.array(table[column].tolist(), dtype=object).astype(np.float64)


def _read_elements(lists: list[str], counts: Integers) -> NDArray[np.uint8]:
    """Atomic numbers [atoms] from lists such as ``['C','H']``; QM9's symbols have one letter."""
    text, starts = _joined(lists)
    numbers = _NUMBER_OF_LETTER[text]
    strange = (numbers == 0) & ~np.isin(text, _LIST_MARKS)
    if strange.any():
        raise ValueError(f"Elements must be H, C, N, O or F; got '{chr(text[strange][0])}'")
    if not np.array_equal(np.add.reduceat(numbers > 0, starts, dtype=np.int64), counts):
        raise ValueError("Elements must have N_atoms entries in every row")
    return numbers[numbers > 0]


def _read_positions(lists: list[str], counts: Integers) -> Floats:
    """Positions [atoms, 3] from lists such as ``[[0.,1.,-2.1E-6],[...]]``."""
    text, starts = _joined(lists)
    if not np.array_equal(np.add.reduceat(text == ord("["), starts, dtype=np.int64), counts + 1):
        raise ValueError("XYZ_Ang must have N_atoms entries in every row")
    plain = ",".join(lists).replace("[", "").replace("]", "")
    with warnings.catch_warnings():
        # numpy warns if a text is not a number; the length shows that too.
        warnings.simplefilter("ignore", DeprecationWarning)
        values = np.fromstring(plain, dtype=np.float64, sep=",")
    if len(values) != 3 * counts.sum():
        raise ValueError("XYZ_Ang must have three numbers for every atom")
    return values.reshape(-1, 3)


def _joined(lists: list[str]) -> tuple[NDArray[np.uint8], Integers]:
    """All characters of the lists in one array, and the position at which each list starts."""
    lengths = np.array([len(entry) for entry in lists], dtype=np.int64)
    if not lengths.all():
        raise ValueError("Elements and XYZ_Ang must not be empty")
    text = np.frombuffer("".join(lists).encode("ascii", "replace"), dtype=np.uint8)
    return text, np.cumsum(lengths) - lengths

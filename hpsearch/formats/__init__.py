"""The formats of molecule files, read in parts of bounded size.

The formats are extxyz and xyz, databases and trajectories of ASE, folders of xyz files, SDF, npz,
Parquet and the raw archive of QM9. Every mistake in a file is an
:class:`~hpsearch.system.errors.InputError` of one line that names the file and the place in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hpsearch.config.declaration import FormatName, MoleculeSource
from hpsearch.config.targets import QM9_TARGETS
from hpsearch.formats import (
    ase_files,
    extxyz,
    folder,
    npz,
    parquet,
    raw_qm9,
    sdf,
    tables,
)
from hpsearch.formats.files import PICKLE, check_file, quiet, reading
from hpsearch.formats.part import (
    START,
    Part,
    Reached,
    Record,
    Wanted,
    check_atoms,
    names_in,
    parts_of,
    readable,
    shown_path,
)
from hpsearch.system.errors import InputError, one_line
from hpsearch.system.files import Say, silent

__all__ = [
    "START",
    "Part",
    "Reached",
    "Wanted",
    "format_of",
    "label_names",
    "read_parts",
    "source_files",
]

_ENDINGS: dict[str, FormatName] = {
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".extxyz.gz": "extxyz",
    ".xyz.gz": "extxyz",
    ".db": "ase-db",
    ".traj": "traj",
    ".sdf": "sdf",
    ".sd": "sdf",
    ".mol": "sdf",
    ".sdf.gz": "sdf",
    ".sd.gz": "sdf",
    ".npz": "npz",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tar.bz2": "qm9",
    ".tar": "qm9",
    ".tar.gz": "qm9",
    ".tar.xz": "qm9",
}
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".pkl.gz", ".npy")
_TEXTS_OF_SMILES = (".smi", ".smiles", ".csv", ".tsv", ".csv.gz", ".smi.gz", ".tsv.gz")
_OFFERED = (
    "extxyz (.extxyz, .xyz), ase-db (.db), traj (.traj), xyz (a folder of .xyz files), "
    "sdf (.sdf), npz (.npz), parquet (.parquet, or a folder of such files), qm9 (.tar.bz2)"
)
_NO_GEOMETRY = (
    "SMILES have no geometry: make one with RDKit's ETKDG or with xtb, and store the molecules as "
    "extxyz"
)


def format_of(source: MoleculeSource) -> FormatName:
    """The declared format, or the one that the ending of the name or the folder shows.

    Raises:
        InputError: the path is missing, or its format is not offered; the error lists the formats.
    """
    path = Path(source.path)
    with reading(path):
        if not path.exists():
            raise FileNotFoundError
        if source.format is not None:
            return source.format
        if path.is_dir():
            return _format_of_folder(path)
    name = path.name.casefold()
    for ending, format in _ENDINGS.items():
        if name.endswith(ending):
            return format
    if name.endswith(_PICKLES):
        raise InputError(
            f"{shown_path(path)} must be one of {_OFFERED}, got a pickle or a single array; "
            f"{PICKLE}"
        )
    if name.endswith(_TEXTS_OF_SMILES):
        raise InputError(f"{shown_path(path)} must be one of {_OFFERED}, got text; {_NO_GEOMETRY}")
    raise InputError(
        f"{shown_path(path)} must be one of {_OFFERED}, got the ending "
        f"'{one_line(path.suffix)}'; set format:, or convert it with ase.io.read and ase.io.write"
    )


def _format_of_folder(path: Path) -> FormatName:
    names = [file.name.casefold() for file in path.iterdir()]
    if not any(name.endswith(folder.ENDINGS) for name in names) and any(
        name.endswith(parquet.ENDINGS) for name in names
    ):
        return "parquet"
    first = folder.files(path)[0]
    with first.open("rb") as file:
        file.readline(1_000)
        comment = file.readline(1_000).split()
    # The files of QM9 have 'gdb', the index and 15 numbers there.
    return "qm9" if len(comment) == 17 and comment[0] == b"gdb" else "xyz"


def source_files(source: MoleculeSource) -> list[Path]:
    """Every file that is read, sorted: the file or those of the folder, and the labels' CSV file.

    Raises:
        InputError: a file is missing, or the format is not offered.
    """
    path = Path(source.path)
    format = format_of(source)
    with reading(path):
        is_folder = path.is_dir()
    if format == "parquet":
        files = parquet.files(path)
    else:
        files = folder.files(path) if is_folder else [path]
    if source.labels is not None:
        labels = Path(source.labels)
        with reading(labels, "labels"):
            labels.stat()
        files = [*files, labels]
    return sorted(files)


def read_parts(
    source: MoleculeSource, wanted: Wanted, say: Say = silent, start: Reached = START
) -> Iterator[Part]:
    """The molecules of the file, in its order, a few thousand at a time.

    A value that a molecule lacks is NaN. Positions and labels are as stored, in the file's units.
    The memory is that of a part, whatever the size of the file. Three things are held as a whole:
    QM9's raw archive, the labels' CSV file, and arrays of npz in Fortran's order.

    Args:
        source: the file and the names of its columns.
        wanted: the columns of labels and names to read, and what to do with a molecule that cannot
            be read.
        say: function for lines about the progress.
        start: where an earlier part ended. The molecules before it are not read again.

    Raises:
        InputError: the file is missing, damaged or not as declared, or a library is missing.
    """
    parts = _parts(source, wanted, say, start)
    while True:
        # Entered for every part: the filters of warnings belong to the whole process.
        with quiet():
            part = next(parts, None)
        if part is None:
            return
        yield part


def label_names(source: MoleculeSource) -> list[str]:
    """The names that have one number per molecule in the first 100 molecules of the file.

    Raises:
        InputError: the file is missing, damaged or not as declared, or a library is missing.
    """
    format = _checked(source)
    with quiet():
        if format == "qm9":
            return list(QM9_TARGETS.names)
        if format == "npz":
            return npz.label_names(source)
        if format == "parquet":
            return parquet.label_names(source)
        return names_in(_records(source, format, Wanted((), source.identifier, None), START))


def _checked(source: MoleculeSource) -> FormatName:
    """The format of a file that was looked at."""
    path = Path(source.path)
    format = format_of(source)
    is_folder = path.is_dir()
    if format == "xyz" and not is_folder:
        # One file of plain xyz is read as extxyz, which it is.
        format = "extxyz"
    if source.labels is not None and format not in ("sdf", "xyz"):
        raise InputError(
            f"{shown_path(path)} must be an SDF or a folder of xyz files to have labels: in a CSV "
            f"file, got {format}; store the labels in the file itself"
        )
    if format == "parquet":
        for file in parquet.files(path):
            check_file(file, format)
    elif not (is_folder and format in ("xyz", "qm9")):
        check_file(path, format)
    return format


def _parts(source: MoleculeSource, wanted: Wanted, say: Say, start: Reached) -> Iterator[Part]:
    format = _checked(source)
    path = Path(source.path)
    if format == "qm9":
        parts = raw_qm9.parts(path, wanted, say, start)
    elif format == "npz":
        parts = npz.parts(source, wanted, say, start)
    elif format == "parquet":
        parts = parquet.parts(source, wanted, say, start)
    else:
        records = _records(source, format, wanted, start)
        parts = parts_of(records, path, wanted, say, start)
    for part in parts:
        yield check_atoms(path, part, skip=wanted.skip)


def _records(
    source: MoleculeSource, format: FormatName, wanted: Wanted, start: Reached
) -> Iterator[Record]:
    path = Path(source.path)
    if format == "extxyz":
        found = extxyz.records(path, wanted.columns, start)
    elif format == "ase-db":
        found = ase_files.database_records(path, start)
    elif format == "traj":
        found = ase_files.trajectory_records(path, start)
    elif format == "xyz":
        found = folder.records(path, wanted.columns, start)
    else:
        found = sdf.records(path, start)
    records = readable(found, skip=wanted.skip)
    if source.labels is None:
        return records
    identifier = wanted.identifier or source.identifier
    if wanted.labels:
        return _with_labels(records, path, format, Path(source.labels), identifier)
    return records if identifier is None else _with_names(records, format, identifier)


def _with_labels(
    records: Iterator[Record], path: Path, format: FormatName, labels: Path, identifier: str | None
) -> Iterator[Record]:
    """The molecules with their rows in the CSV file of the labels."""
    table = tables.read_table(labels)
    if format == "xyz" and identifier is None:
        raise InputError(
            f"{shown_path(table.path)} must be joined to the files of {shown_path(path)} by "
            "their names, got no identifier; name the column of the names without .xyz with "
            "identifier:"
        )
    if identifier is None or (format == "sdf" and identifier not in table.names):
        return tables.with_labels_in_order(records, path, table)
    pairs = ((_name(record, format, identifier), record) for record in records)
    return tables.with_labels_by_name(pairs, path, table, identifier)


def _with_names(records: Iterator[Record], format: FormatName, identifier: str) -> Iterator[Record]:
    """The molecules with the names that would join them to their rows."""
    for record in records:
        if record.error is None:
            values = {**record.values, identifier: _name(record, format, identifier)}
            record = record._replace(values=values)
        yield record


def _name(record: Record, format: FormatName, identifier: str) -> str:
    return folder.name_of(record) if format == "xyz" else sdf.name_of(record, identifier)

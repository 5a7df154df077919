"""Opens the files of molecules: what a file holds by its first bytes, and one-line errors."""

from __future__ import annotations

import gzip
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from hpsearch.formats.part import shown_path, wrong
from hpsearch.system.errors import InputError, one_line

_MAGIC = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"SQLite format 3\x00": "sqlite",
    b"PAR1": "parquet",
    b"- of Ulm": "ulm",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\x89HDF": "hdf5",
    b"\x93NUMPY": "npy",
}
_NAMES = {
    "zip": "a zip archive, as .npz files are",
    "sqlite": "an SQLite database, as .db files of ASE are",
    "parquet": "a Parquet file",
    "ulm": "an ASE trajectory",
    "gzip": "compressed data (gzip)",
    "bzip2": "compressed data (bzip2)",
    "hdf5": "an HDF5 file",
    "npy": "a single NumPy array (.npy)",
    "pickle": "a pickle",
    "binary": "binary data",
    "text": "text",
}
_EXPECTED = {"npz": "zip", "ase-db": "sqlite", "traj": "ulm", "parquet": "parquet"}
_OFFERED_BY = {"zip": "npz", "sqlite": "ase-db", "ulm": "traj", "parquet": "parquet"}
_HEAD = 4_096
_LONGEST_REASON = 200

PICKLE = (
    "a pickle can run any program when it is opened and is never read; open it where it was made "
    "and save plain arrays with numpy.savez, or molecules with ase.io.write('molecules.extxyz', …)"
)


@contextmanager
def reading(path: Path, option: str = "path") -> Iterator[None]:
    """Turn errors of the system and of compressed or encoded text into an InputError.

    ``option`` is the key of the declaration that names the file.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(
            f"{shown_path(path)} must exist, got no such file; check {option}:"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged(path, "a whole compressed file", error) from None
    except OSError as error:
        reason = one_line(error.strerror or str(error))
        raise InputError(
            f"{shown_path(path)} must be readable, got: {reason}; check its rights and its disk"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{shown_path(path)} must be UTF-8 text, got the byte 0x{error.object[error.start]:02x}"
            "; save it as UTF-8"
        ) from None


def files_in(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files of a folder with these endings, sorted; a name that begins with a dot is left out.

    Raises:
        InputError: the folder cannot be read.
    """
    with reading(folder):
        return sorted(
            path
            for path in folder.iterdir()
            if path.name.casefold().endswith(endings) and not path.name.startswith(".")
        )


@contextmanager
def library(path: Path, kind: str) -> Iterator[None]:
    """Turn every error of a library into an InputError that says what the file must be.

    Libraries raise errors of any type for damaged files, such as ``KeyError`` or ``MemoryError``.
    """
    try:
        yield
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(
            f"{shown_path(path)} must be readable, got: {error.strerror}; check its rights"
        ) from None
    except Exception as error:
        raise damaged(path, kind, error) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings of libraries from the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def damaged(path: Path, kind: str, error: BaseException) -> InputError:
    """The error for a file that a library cannot read."""
    reason = one_line(str(error) or type(error).__name__, _LONGEST_REASON)
    return InputError(
        f"{shown_path(path)} must be {kind}, got: {reason}; it may be damaged or cut off: copy it "
        "again"
    )


def missing_library(what: str, name: str, extra: str) -> InputError:
    """The error for a format whose library is not installed."""
    return InputError(
        f"reading {what} needs {name}; install it with: pip install 'hpsearch[{extra}]'"
    )


def opened(path: Path) -> BinaryIO:
    """The bytes of ``path``, unpacked if it is compressed with gzip."""
    file = path.open("rb")
    head = file.read(2)
    file.seek(0)
    if head != b"\x1f\x8b":
        return file
    file.close()
    return cast(BinaryIO, gzip.open(path, "rb"))


def share_read(file: BinaryIO, size: int) -> float:
    """The part of a file of ``size`` bytes that was read, packed bytes for packed text."""
    is_packed = isinstance(file, gzip.GzipFile)
    done = os.lseek(file.fileno(), 0, os.SEEK_CUR) if is_packed else file.tell()
    return min(1.0, done / max(size, 1))


def decoded(path: Path, number: int, line: bytes) -> str:
    """The text of line ``number``.

    Raises:
        InputError: it is not UTF-8, or has the character NUL, which damaged files have.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise wrong(
            path,
            f"line {number}",
            f"the file must be UTF-8 text, got the byte 0x{line[error.start]:02x}; save it as "
            "UTF-8",
        ) from None
    if "\0" in text:
        raise wrong(
            path, f"line {number}", "the file must be text, got the character NUL; copy it again"
        )
    return text


def kind_of(path: Path) -> str:
    """What the file holds by its first bytes: a key of ``_NAMES``."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if len(head) > 1 and head[0] == 0x80 and head[1] <= 5:
        return "pickle"
    return "binary" if b"\0" in head else "text"


def check_file(path: Path, format: str) -> None:
    """Refuse what is no file, is empty, or by its first bytes is another kind of file.

    Raises:
        InputError: it is not a file that may be of ``format``.
    """
    with reading(path):
        if path.is_dir():
            raise InputError(
                f"{shown_path(path)} must be a file for the format {format}, got a folder; folders "
                "are read with format: xyz, parquet or qm9"
            )
        path.stat()
        if not path.is_file():
            raise InputError(f"{shown_path(path)} must be a file or a folder, got a device")
        if path.stat().st_size == 0:
            raise InputError(
                f"{shown_path(path)} must hold molecules, got an empty file; write it again"
            )
        kind = kind_of(path)
    if kind == "pickle":
        raise InputError(f"{shown_path(path)} must not be a pickle, got one; {PICKLE}")
    if format == "qm9":
        # A tar file, compressed in any way.
        return
    wanted = _EXPECTED.get(format, "text")
    if kind == wanted or (wanted == "text" and kind == "gzip"):
        return
    offered = _OFFERED_BY.get(kind)
    hint = f"set format: {offered}" if offered else "it may be damaged, or its name may be wrong"
    raise InputError(
        f"{shown_path(path)} must hold {_NAMES[wanted]} for the format {format}, "
        f"got {_NAMES[kind]}; {hint}"
    )

"""Atomic writes, the folder of this user's caches, and lines about long operations."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"
"""Ending of a file that is still being written; a killed process leaves such files."""

# Some network file systems cannot sync a folder, and some folders may be written but not read.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)


Say = Callable[[str], None]
"""Function that is called with lines about the progress of long operations."""


def silent(line: str) -> None:
    """Ignore the line."""


def cache_directory() -> Path:
    """The folder of all caches: molecules, compiled kernels and timings.

    ``$HPSEARCH_CACHE``, else ``$XDG_CACHE_HOME/hpsearch``, else ``~/.cache/hpsearch``.
    """
    if own := os.environ.get("HPSEARCH_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "hpsearch"
    return home_cache_directory()


def home_cache_directory() -> Path:
    """``~/.cache/hpsearch``.

    Raises:
        RuntimeError: the user has no home folder.
    """
    return Path.home() / ".cache" / "hpsearch"


_LONGEST_PART = 180
"""Bytes of a name in the name of a file or a folder, of which most file systems allow 255."""


def file_part(name: str) -> str:
    """``name`` as a part of the name of a file or a folder.

    A longer name is cut, and ends with a part of its hash instead.

    Args:
        name: any text without ``/``.
    """
    whole = name.encode()
    if len(whole) <= _LONGEST_PART:
        return name
    start = whole[: _LONGEST_PART - 11].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(whole).hexdigest()[:10]}"


def write_atomically(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write a file in one step: a reader sees the old content or the new, never a part of it.

    That holds after a kill, a full disk and a power cut too. Several processes may write the same
    file at the same time; the last one wins.

    Args:
        path: path of the file, in a folder that exists.
        content: text is written as UTF-8.
        mode: permissions of the file before the umask.

    Raises:
        OSError: the file could not be written; the old file is unchanged.
    """
    with open_atomically(path, mode) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def open_atomically(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a new file that replaces ``path`` in one step at the end of the block.

    It makes the promises of :func:`write_atomically`, for content that does not fit into memory.
    After an error in the block the old file is unchanged.

    Args:
        path: path of the file, in a folder that exists.
        mode: permissions of the file before the umask.

    Raises:
        OSError: the file could not be written; the old file is unchanged.
    """
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}{PARTIAL}"
    try:
        with _written_through(partial, mode) as file:
            yield file
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_together(folder: Path, files: Mapping[str, str | bytes]) -> tuple[Path, ...]:
    """Write several files of one folder; none gets its name before all are written.

    Args:
        folder: a folder that exists.
        files: content by name; text is written as UTF-8.

    Returns:
        The paths, in the order of ``files``.

    Raises:
        OSError: a file could not be written; the old files are unchanged.
    """
    # Inside the folder: its parent may be on another file system, where a rename would be a copy.
    partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}-", dir=folder))
    try:
        for name, content in files.items():
            with _written_through(partial / name, 0o666) as file:
                file.write(content.encode() if isinstance(content, str) else content)
        written = tuple((partial / name).replace(folder / name) for name in files)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _sync_folder(folder)
    return written


@contextmanager
def _written_through(path: Path, mode: int) -> Iterator[BinaryIO]:
    """Open a new file, and wait at the end of the block until it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Without this a power cut could undo the rename of a file that is already on the disk.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise

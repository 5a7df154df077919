"""The cache of molecules: files that many processes map into memory.

A cache is a folder with one ``.npy`` file per column and ``meta.json``. It is written under another
name and then renamed, so that a reader never sees an incomplete cache.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.config.targets import TARGETS
from hpsearch.data.molecule import UNITS, Molecules
from hpsearch.errors import HpsearchError, InputError, disk_full, or_inodes

FORMAT = 1

_COLUMNS: dict[str, np.dtype[Any]] = {
    "element_indices": np.dtype(np.uint8),
    "positions": np.dtype(np.float32),
    "offsets": np.dtype(np.int64),
    "targets": np.dtype(np.float64),
    "identifiers": np.dtype(np.int32),
}
_ATTEMPTS = 5


class DamagedCacheError(Exception):
    """The cache exists but cannot be used.

    Attributes:
        source: the origin of the molecules, if it can still be read.
    """

    def __init__(self, reason: str, source: str | None = None) -> None:
        super().__init__(" ".join(reason.split()))
        self.source = source


def open_table(folder: Path) -> Molecules:
    """The molecules in ``folder``, mapped into memory.

    The check covers ``meta.json``, the units, the type, shape and size of every file, and the hash
    of all numbers. The hash of QM9 takes about 0.03 s.

    Raises:
        FileNotFoundError: the folder does not exist.
        DamagedCacheError: a check failed.
    """
    if not folder.exists():
        raise FileNotFoundError(folder)
    meta = _read_meta(folder)
    source = _text_or_none(meta.get("source"))
    try:
        molecules, atoms = int(meta["molecules"]), int(meta["atoms"])
        shapes = {
            "element_indices": (atoms,),
            "positions": (atoms, 3),
            "offsets": (molecules + 1,),
            "targets": (molecules, len(TARGETS)),
            "identifiers": (molecules,),
        }
        columns = {
            name: _map(folder / f"{name}.npy", kind, shapes[name], int(meta["bytes"][name]))
            for name, kind in _COLUMNS.items()
        }
        table = Molecules(**columns, recorded_hash=str(meta["content_hash"]))
    except (KeyError, TypeError, ValueError, OverflowError, OSError, EOFError) as error:
        raise DamagedCacheError(str(error), source) from error
    # Every column may be correct and still not fit the others.
    if table.offsets[0] != 0 or table.offsets[-1] != atoms or (table.atom_counts < 1).any():
        raise DamagedCacheError("offsets.npy does not fit the atoms", source)
    if table.computed_hash() != table.recorded_hash:
        raise DamagedCacheError("its numbers do not have the recorded hash", source)
    return table


def read_source(folder: Path) -> str | None:
    """The origin of the molecules according to the cache, if it can be read."""
    try:
        return _text_or_none(_read_meta(folder).get("source"))
    except DamagedCacheError as damage:
        return damage.source


def _text_or_none(source: object) -> str | None:
    return source if isinstance(source, str) else None


def write_table(molecules: Molecules, folder: Path, source: str) -> None:
    """Write ``molecules`` to ``folder`` atomically, replacing an older cache.

    Several processes may do this at the same time; one of their tables remains.

    Raises:
        HpsearchError: the folder cannot be written, or the disk is full.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as staging:
            fresh = Path(staging) / "fresh"
            fresh.mkdir()
            content_hash = molecules.computed_hash()
            _write_files(molecules, fresh, source, content_hash)
            _move_into_place(fresh, folder, Path(staging), content_hash)
    except OSError as error:
        needed = sum(getattr(molecules, name).nbytes for name in _COLUMNS) / 1e6
        kind = HpsearchError if disk_full(error) else InputError
        free = f"free space there{or_inodes(folder)} or " if disk_full(error) else ""
        raise kind(
            f"the cache of molecules ({needed:.0f} MB) cannot be written to '{folder}': "
            f"{error.strerror or error}; {free}set HPSEARCH_CACHE to another folder"
        ) from error


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedCacheError(f"meta.json: {error}") from error
    if not isinstance(meta, dict):
        raise DamagedCacheError("meta.json must be an object")
    source = _text_or_none(meta.get("source"))
    if meta.get("format") != FORMAT:
        raise DamagedCacheError(f"its format must be {FORMAT}, got {meta.get('format')}", source)
    if meta.get("units") != UNITS:
        raise DamagedCacheError(f"its units must be {UNITS}, got {meta.get('units')}", source)
    return meta


def _map(path: Path, kind: np.dtype[Any], shape: tuple[int, ...], size: int) -> Any:
    """The array in ``path``, mapped from the file."""
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} must have {size} bytes, has {path.stat().st_size}")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != kind or array.shape != shape:
        raise ValueError(f"{path.name} must have {kind} {shape}, has {array.dtype} {array.shape}")
    # Indexing a memmap creates memmaps; with a plain array over the same memory it is much faster.
    return np.asarray(array)


def _write_files(molecules: Molecules, folder: Path, source: str, content_hash: str) -> None:
    sizes = {}
    for name in _COLUMNS:
        path = folder / f"{name}.npy"
        np.save(path, getattr(molecules, name), allow_pickle=False)
        sizes[name] = path.stat().st_size
    meta = {
        "format": FORMAT,
        "source": source,
        "molecules": len(molecules),
        "atoms": len(molecules.element_indices),
        "units": UNITS,
        "content_hash": content_hash,
        "bytes": sizes,
    }
    text = json.dumps(meta, indent=1, ensure_ascii=False) + "\n"
    (folder / "meta.json").write_text(text, encoding="utf-8")


def _move_into_place(fresh: Path, folder: Path, staging: Path, content_hash: str) -> None:
    """Rename ``fresh`` to ``folder``, unless another process has just written the same there."""
    for attempt in range(_ATTEMPTS):
        try:
            fresh.rename(folder)
            return
        except OSError:
            if attempt == _ATTEMPTS - 1:
                raise
        if _holds(folder, content_hash):
            return
        # Processes that have mapped the old files can continue to use them.
        with contextlib.suppress(FileNotFoundError):
            folder.rename(staging / f"old-{attempt}")


def _holds(folder: Path, content_hash: str) -> bool:
    try:
        return open_table(folder).recorded_hash == content_hash
    except (FileNotFoundError, DamagedCacheError):
        return False

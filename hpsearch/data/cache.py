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

from hpsearch.config.targets import ELEMENTS, QM9_TARGETS, Targets
from hpsearch.data.molecule import Molecules, units_of
from hpsearch.system.errors import HpsearchError, InputError, disk_full, or_inodes
from hpsearch.system.files import write_atomically

FORMAT = 1

_COLUMNS: dict[str, np.dtype[Any]] = {
    "element_indices": np.dtype(np.uint8),
    "positions": np.dtype(np.float32),
    "offsets": np.dtype(np.int64),
    "targets": np.dtype(np.float64),
    "identifiers": np.dtype(np.int32),
}
_OPTIONAL = ("names", "groups")
_ATTEMPTS = 5


class DamagedCacheError(Exception):
    """The cache exists but cannot be used.

    Attributes:
        source: the origin of the molecules, if it can still be read.
    """

    def __init__(self, reason: str, source: str | None = None) -> None:
        super().__init__(" ".join(reason.split()))
        self.source = source


def open_table(folder: Path, targets: Targets = QM9_TARGETS) -> Molecules:
    """The molecules in ``folder`` with these ``targets``, mapped into memory.

    The check covers ``meta.json``, the units, the type, shape and size of every file, and the hash
    of all numbers. The hash of QM9 takes about 0.03 s.

    Raises:
        FileNotFoundError: the folder does not exist.
        DamagedCacheError: a check failed.
    """
    if not folder.exists():
        raise FileNotFoundError(folder)
    meta = _read_meta(folder, targets)
    source = _text_or_none(meta.get("source"))
    try:
        molecules, atoms = int(meta["molecules"]), int(meta["atoms"])
        shapes = {
            "element_indices": (atoms,),
            "positions": (atoms, 3),
            "offsets": (molecules + 1,),
            "targets": (molecules, len(targets)),
            "identifiers": (molecules,),
            "names": (molecules,),
            "groups": (molecules,),
        }
        kinds = _COLUMNS | {name: np.dtype(kind) for name, kind in meta.get("kinds", {}).items()}
        columns = {
            name: _map(folder / f"{name}.npy", kind, shapes[name], int(meta["bytes"][name]))
            for name, kind in kinds.items()
        }
        table = Molecules(
            **columns,
            recorded_hash=str(meta["content_hash"]),
            elements=tuple(int(number) for number in meta.get("elements", ELEMENTS)),
            target_table=targets,
        )
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


def read_record(folder: Path) -> dict[str, Any]:
    """What ``meta.json`` says about the source files of own molecules; empty if unreadable."""
    try:
        record = json.loads((folder / "meta.json").read_text(encoding="utf-8")).get("record")
    except (OSError, ValueError, AttributeError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Replace what :func:`read_record` returns, if the folder can be written."""
    path = folder / "meta.json"
    with contextlib.suppress(OSError):
        meta = json.loads(path.read_text(encoding="utf-8"))
        text = json.dumps({**meta, "record": record}, indent=1, ensure_ascii=False) + "\n"
        write_atomically(path, text)


def _text_or_none(source: object) -> str | None:
    return source if isinstance(source, str) else None


def write_table(
    molecules: Molecules, folder: Path, source: str, record: dict[str, Any] | None = None
) -> None:
    """Write ``molecules`` to ``folder`` atomically, replacing an older cache.

    Several processes may do this at the same time; one of their tables remains.

    Args:
        molecules: the table.
        folder: the cache.
        source: the origin of the molecules.
        record: facts about the source files, for :func:`read_record`.

    Raises:
        HpsearchError: the folder cannot be written, or the disk is full.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as staging:
            fresh = Path(staging) / "fresh"
            fresh.mkdir()
            content_hash = molecules.computed_hash()
            _write_files(molecules, fresh, source, content_hash, record)
            _move_into_place(fresh, folder, Path(staging), content_hash, record)
    except OSError as error:
        needed = sum(getattr(molecules, name).nbytes for name in _COLUMNS) / 1e6
        kind = HpsearchError if disk_full(error) else InputError
        free = f"free space there{or_inodes(folder)} or " if disk_full(error) else ""
        raise kind(
            f"the cache of molecules ({needed:.0f} MB) cannot be written to '{folder}': "
            f"{error.strerror or error}; {free}set HPSEARCH_CACHE to another folder"
        ) from error


def _read_meta(folder: Path, targets: Targets | None = None) -> dict[str, Any]:
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedCacheError(f"meta.json: {error}") from error
    if not isinstance(meta, dict):
        raise DamagedCacheError("meta.json must be an object")
    source = _text_or_none(meta.get("source"))
    if meta.get("format") != FORMAT:
        raise DamagedCacheError(f"its format must be {FORMAT}, got {meta.get('format')}", source)
    if targets is not None and meta.get("units") != (units := units_of(targets)):
        raise DamagedCacheError(f"its units must be {units}, got {meta.get('units')}", source)
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


def _write_files(
    molecules: Molecules,
    folder: Path,
    source: str,
    content_hash: str,
    record: dict[str, Any] | None,
) -> None:
    sizes = {}
    given = [name for name in _OPTIONAL if getattr(molecules, name) is not None]
    for name in (*_COLUMNS, *given):
        path = folder / f"{name}.npy"
        np.save(path, getattr(molecules, name), allow_pickle=False)
        sizes[name] = path.stat().st_size
    meta = {
        "format": FORMAT,
        "source": source,
        "molecules": len(molecules),
        "atoms": len(molecules.element_indices),
        "units": units_of(molecules.target_table),
        "content_hash": content_hash,
        "bytes": sizes,
    }
    if record is not None:
        meta["elements"] = list(molecules.elements)
        meta["kinds"] = {name: getattr(molecules, name).dtype.str for name in given}
        meta["record"] = record
    text = json.dumps(meta, indent=1, ensure_ascii=False) + "\n"
    (folder / "meta.json").write_text(text, encoding="utf-8")


def _move_into_place(
    fresh: Path, folder: Path, staging: Path, content_hash: str, record: dict[str, Any] | None
) -> None:
    """Rename ``fresh`` to ``folder``, unless another process has just written the same there."""
    for attempt in range(_ATTEMPTS):
        try:
            fresh.rename(folder)
            return
        except OSError:
            if attempt == _ATTEMPTS - 1:
                raise
        if record is None and _holds(folder, content_hash):
            return
        # Processes that have mapped the old files can continue to use them.
        with contextlib.suppress(FileNotFoundError):
            folder.rename(staging / f"old-{attempt}")


def _holds(folder: Path, content_hash: str) -> bool:
    try:
        return open_table(folder).recorded_hash == content_hash
    except (FileNotFoundError, DamagedCacheError):
        return False
